"""Trains recommenders; runs in an environment of its own (`.venv-recsys`) and knows nothing of us.

    .venv-recsys/bin/python worker.py < TASKS.json

Parquet and JSON come in, Parquet and JSON go out. The parameters of the best epoch are kept in
memory: nothing is pickled, and nothing that was pickled is read. One line of JSON is printed per
finished task.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Task = dict[str, Any]
SEQUENTIAL = ("SASRec", "NARM")
#: These learn from whole rows, or by cross entropy over all items: no sampled negatives.
WITHOUT_NEGATIVES = ("MultiDAE", "DiffRec", "SASRec", "NARM")
_USERS = 256  # scored at once


def main(tasks: list[Task]) -> None:
    """Do the tasks that are not done yet, one after another."""
    warnings.filterwarnings("ignore")
    os.environ.update(WANDB_MODE="disabled", WANDB_DISABLED="true")
    for task in tasks:
        out = Path(task["out"])
        if not out.exists():
            with _beside(out) as temporary:
                _run(task, temporary)
        print(json.dumps({"done": task["name"]}), flush=True)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield a folder that takes its place only when all of it is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / out.name
        temporary.mkdir()
        yield temporary
        try:
            temporary.replace(out)
        except OSError:
            if not out.is_dir():
                raise
            # Done meanwhile by a worker that outlived the run that started it: the same.


def _run(task: Task, out: Path) -> None:
    log = pq.read_table(task["log"]).to_pydict()
    rows = list(zip(log["user"], log["item"], log["place"], log["part"], strict=True))
    extra = []
    if task["extra"]:
        added = pq.read_table(task["extra"]).to_pydict()
        extra = list(zip(added["user"], added["item"], added["place"], strict=True))
    start, here = time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the library leaves folders where it runs
        try:
            kept = _Kept(*_trained(task, rows, extra, Path(folder)))
        finally:
            os.chdir(here)
    users = sorted(set(log["user"]))
    for name, parts in (("exposures", ("train",)), ("test", ("train", "valid"))):
        seen = _by_user([row for row in rows if row[3] in parts])
        history = _by_user([(*row, "") for row in extra] + [row for row in rows if row[3] in parts])
        pq.write_table(_top(kept, users, seen, history, task), out / f"{name}.parquet")
    facts = {"seconds": round(time.monotonic() - start, 2), "epochs": kept.epochs}
    (out / "result.json").write_text(json.dumps({**facts, "valid": kept.scores}))


class _Kept:
    """A model with the parameters of its best epoch."""

    def __init__(self, model: Any, dataset: Any, scores: list[float], epochs: int) -> None:
        self.model, self.dataset, self.scores, self.epochs = model, dataset, scores, epochs


def _trained(
    task: Task, rows: list[Any], extra: list[Any], folder: Path
) -> tuple[Any, Any, list[float], int]:
    """Train by the library's own trainer; return the model at its best validation score."""
    import logging

    from hopwise.config import Config
    from hopwise.data import create_dataset, data_preparation
    from hopwise.utils import get_model, get_trainer, init_seed

    name = task["model"]
    longest = task["settings"].get("MAX_ITEM_LIST_LENGTH", 20)
    _write_atomic(folder / "log", name, rows, extra, longest)
    config = Config(model=name, dataset="log", config_dict=_settings(task, folder))
    logging.disable(logging.CRITICAL)
    init_seed(task["seed"], True)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    init_seed(task["seed"], True)
    model = get_model(name)(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    scores: list[float] = []
    best: dict[str, Any] = {}

    def keep(epoch: int, score: float) -> None:
        if not scores or score > max(scores):
            best.update({k: v.detach().clone() for k, v in model.state_dict().items()})
        scores.append(float(score))

    # `saved=False`: by default the library would pickle each best epoch.
    trainer.fit(train, valid, verbose=False, saved=False, show_progress=False, callback_fn=keep)
    model.load_state_dict(best)
    model.eval()
    model.requires_grad_(False)
    # Graph models keep the embeddings of their last evaluation.
    for cached in ("restore_user_e", "restore_item_e"):
        if hasattr(model, cached):
            setattr(model, cached, None)
    return model, train.dataset, scores, len(trainer.train_loss_dict)


def _settings(task: Task, folder: Path) -> dict[str, Any]:
    name = task["model"]
    fields = ["user_id", "item_id"]
    settings = {
        **task["settings"],
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": [*fields, "item_id_list"] if name in SEQUENTIAL else fields},
        "seed": task["seed"],
        "use_gpu": False,
        "show_progress": False,
        "log_wandb": False,
        "save_dataset": False,
        "save_dataloaders": False,
        "metrics": ["NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "eval_args": {
            "split": {"RS": [0.8, 0.1, 0.1]},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
    }
    if name in SEQUENTIAL:
        settings |= {
            "alias_of_item_id": ["item_id_list"],
            "ITEM_LIST_LENGTH_FIELD": "item_length",
            "LIST_SUFFIX": "_list",
        }
    if name in WITHOUT_NEGATIVES:
        settings["train_neg_sample_args"] = None
    return settings


def _write_atomic(folder: Path, name: str, rows: list[Any], extra: list[Any], longest: int) -> None:
    """Write the library's own files. Ids are ours, of digits alone: no text can break a line."""
    folder.mkdir()
    parts = {
        part: [row[:3] for row in rows if row[3] == part] for part in ("train", "valid", "test")
    }
    parts["train"] = parts["train"] + extra
    for part, own in parts.items():
        lines = ["user_id:token\titem_id:token"]
        lines += [f"{user}\t{item}" for user, item, _ in own]
        if name in SEQUENTIAL:
            lines = ["user_id:token\titem_id:token\titem_id_list:token_seq"]
            lines += _sequences(rows, extra, part, longest)
        (folder / f"{folder.name}.{part}.inter").write_text("\n".join(lines) + "\n")


def _sequences(rows: list[Any], extra: list[Any], part: str, longest: int) -> list[str]:
    """Return each event of a part with what came before it."""
    lines = []
    for user, events in _by_user([*rows, *((*row, "train") for row in extra)], whole=True).items():
        items = [event[1] for event in events]
        for n, event in enumerate(events):
            if n and event[3] == part:
                before = " ".join(map(str, items[max(0, n - longest) : n]))
                lines.append(f"{user}\t{event[1]}\t{before}")
    return lines


def _by_user(rows: list[Any], *, whole: bool = False) -> dict[int, list[Any]]:
    """Return the items (or whole rows) of each user, oldest first."""
    groups: dict[int, list[Any]] = {}
    for row in sorted(rows, key=lambda row: (row[0], row[2])):
        groups.setdefault(row[0], []).append(row if whole else row[1])
    return groups


def _top(
    kept: _Kept,
    users: list[int],
    seen: dict[int, list[Any]],
    history: dict[int, list[Any]],
    task: Task,
) -> pa.Table:
    """Return the best items of each user that are not among those seen."""
    import torch

    dataset = kept.dataset
    item_tokens = np.array([-1, *map(int, dataset.field2id_token["item_id"][1:])])
    ids = dataset.field2token_id["item_id"]
    columns: dict[str, list[Any]] = {"user": [], "rank": [], "item": [], "score": []}
    for start in range(0, len(users), _USERS):
        batch = users[start : start + _USERS]
        with torch.no_grad():
            scores = _scores(kept, batch, history, task).numpy().astype(np.float64)
        scores[:, 0] = -np.inf
        for row, user in zip(scores, batch, strict=True):
            row[[ids[str(item)] for item in seen.get(user, ())]] = -np.inf
            best = np.lexsort((item_tokens, -row))[: task["top"]]
            best = best[np.isfinite(row[best])]
            columns["user"] += [user] * len(best)
            columns["rank"] += range(len(best))
            columns["item"] += item_tokens[best].tolist()
            columns["score"] += row[best].tolist()
    return pa.table(columns)


def _scores(kept: _Kept, users: list[int], history: dict[int, list[Any]], task: Task) -> Any:
    """Return the score of each item for each user, [users, items]."""
    import torch
    from hopwise.data.interaction import Interaction

    dataset, model = kept.dataset, kept.model
    numbers = torch.tensor([dataset.field2token_id["user_id"][str(user)] for user in users])
    if task["model"] in SEQUENTIAL:
        longest = task["settings"].get("MAX_ITEM_LIST_LENGTH", 20)
        ids = dataset.field2token_id["item_id"]
        lists = [[ids[str(i)] for i in history.get(user, ())][-longest:] for user in users]
        padded = torch.zeros(len(users), longest, dtype=torch.int64)
        for row, own in zip(padded, lists, strict=True):
            row[: len(own)] = torch.tensor(own, dtype=torch.int64)
        lengths = torch.tensor([max(1, len(own)) for own in lists])
        asked = Interaction({"user_id": numbers, "item_id_list": padded, "item_length": lengths})
        return model.full_sort_predict(asked).reshape(len(users), -1)
    try:
        return model.full_sort_predict(Interaction({"user_id": numbers})).reshape(len(users), -1)
    except NotImplementedError:
        every = torch.arange(dataset.item_num)
        pairs = {
            "user_id": numbers.repeat_interleave(len(every)),
            "item_id": every.repeat(len(users)),
        }
        return model.predict(Interaction(pairs)).reshape(len(users), -1)


if __name__ == "__main__":
    main(json.load(sys.stdin))  # the library takes what stands behind a script's name as its own

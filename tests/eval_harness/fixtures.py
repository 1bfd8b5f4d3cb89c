"""Small worlds for the evaluation tests: scenes, models, lm_eval runs."""

from __future__ import annotations

import datetime as dt
import math
import random
from pathlib import Path

import pyarrow as pa
from lm_eval.api.model import LM

from tests import tiny_parts
from usermirrorer.builders.common.schema import OPTION_FEATURES, SCENE
from usermirrorer.builders.common.storage import write_table
from usermirrorer.builders.raw.sources import get_source

FEATURES = [name for name in OPTION_FEATURES if name != "exposure_popularity"]
GENRES = ("drama", "comedy", "thriller", "war", "romance", "western", "horror", "musical")


def make_scenes(
    n: int,
    *,
    source: str = "movielens",
    options: int = 5,
    seed: int = 0,
    history: int = 3,
    per_user: int = 1,
) -> list[dict]:
    """n scenes whose answers are uniform and independent of their texts; gaps go up from 30 s."""
    draw = random.Random(f"{seed}/{source}")
    rows = []
    for number in range(n):
        titles = [f"{draw.choice(GENRES).title()} {draw.randrange(1000)}" for _ in range(options)]
        answer = draw.randrange(options)
        origins = ["random"] * options
        origins[answer] = "target"
        rows.append(
            {
                "scene_id": f"{source}-{seed}-{number}",
                "domain": get_source(source).domain,
                "source": source,
                "user_id": f"u{number // per_user}",
                "item_id": f"i{answer}",
                "timestamp": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
                "profile": f"Age: {draw.randrange(18, 70)}",
                "history": [f"Seen: {draw.choice(GENRES)} film, rating 4" for _ in range(history)],
                "history_item_ids": [f"h{j}" for j in range(history)],
                "history_timestamps": [dt.datetime(2019, 1, 1, tzinfo=dt.UTC)] * history,
                "exposure": [f"{t} ({draw.randrange(1930, 2000)})" for t in titles],
                "exposure_item_ids": [f"i{j}" for j in range(options)],
                "exposure_origin": origins,
                "exposure_popularity": [draw.randrange(100) for _ in range(options)],
                **{column: [draw.random() for _ in range(options)] for column in FEATURES},
                "history_gap": 30 * 60 ** (number % 4) if history else None,
                "answer": answer,
                "exposure_mode": "logged" if source == "mind" else "exchangeable",
                "real_exposure": source == "mind",
            }
        )
    return rows


def write_scenes(path: Path, rows: list[dict]) -> str:
    write_table(path, pa.Table.from_pylist(rows, schema=SCENE))
    return str(path)


def tiny_model(
    seed: int = 0, max_length: int = 2048, chat_template: str | None = tiny_parts.CHAT_TEMPLATE
):
    """A random Llama, wrapped as lm_eval's `hf` model."""
    from lm_eval.models.huggingface import HFLM

    fast = tiny_parts.tokenizer()
    fast.chat_template = chat_template
    model = tiny_parts.llama(fast, seed, max_position_embeddings=max_length, **tiny_parts.FOR_VLLM)
    return HFLM(pretrained=model, tokenizer=fast, batch_size=4, max_length=max_length)


TASKS = Path(__file__).parents[2] / "eval_harness" / "tasks"


def evaluate(lm, tasks: list[str], dataset: str, chat: bool = True, **metadata) -> dict:
    """Run lm_eval over our tasks, as `lm_eval run` does."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    arguments = {key: metadata.pop(key) for key in ("limit", "gen_kwargs") if key in metadata}
    manager = TaskManager(
        include_path=TASKS, include_defaults=False, metadata={"dataset": dataset, **metadata}
    )
    return simple_evaluate(
        model=lm,
        tasks=manager.match_tasks(tasks),
        task_manager=manager,
        apply_chat_template=chat,
        **arguments,
    )


def brute_force(lm, prompt, prefix, options=5):
    """P(label) by one plain forward: no batching, no cache, no shortcuts."""
    import torch

    ids = lm.tokenizer(prompt + prefix, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids])).logits[0, -1].double()
    labels = [lm.tokenizer.convert_tokens_to_ids(x) for x in "ABCDE"[:options]]
    return torch.softmax(logits[labels], -1).numpy()


def release(folder: Path, scenes: list[dict], **options) -> str:
    """Write a release folder of test scenes (and `placebo`, `paper`, rows of such)."""
    from tests.hub.conftest import pair
    from usermirrorer.builders.common.schema import PREFERENCE
    from usermirrorer.hub.build import write_release

    inputs = folder.with_name(f"{folder.name}.inputs")
    table = pa.Table.from_pylist([pair(0, "movielens")], schema=PREFERENCE)
    write_table(inputs / "pairs.parquet", table)
    tables = {
        name: {"test": Path(write_scenes(inputs / f"{name}.parquet", rows))}
        for name, rows in {"scenes": scenes, **options}.items()
        if name in ("scenes", "placebo", "paper")
    }
    write_release(
        folder,
        repo_id=options.get("repo_id", "me/scenes"),
        version="1.0.0",
        preference=inputs / "pairs.parquet",
        manifest=options.get("manifest", {}),
        redistributable=True,
        **tables,
    )
    return str(folder)


class Scripted(LM):
    """Knows its probabilities: `choose(prompt, number)` is the text, `score(prompt)` P(label)."""

    def __init__(self, choose, score):
        super().__init__()
        self.choose, self.score = choose, score

    def generate_until(self, requests, disable_tqdm=False):
        return [self.choose(r.args[0], r.idx) for r in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        return [(math.log(self.score(r.args[0])[ord(r.args[1]) - 65]), False) for r in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

"""Training views of a release: which rows, in which of TRL's forms, and which tokens bear the loss.

A source is either preference pairs or scenes (`builders/common/schema.py`), told apart by its
columns.

    stage      source        sft                  dpo                grpo
    decision   preference    prompt, completion   prompt, chosen,    prompt, answer, options
                                                  rejected
    decision   scenes        -                    -                  prompt, answer, options
    direct     scenes        prompt, completion   -                  prompt, answer, options

`direct` is the paper's single-stage training (appendix C.2): the loss lies on the label token
alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import (
    DEFAULT_PROMPTS,
    LABEL_PREFIX,
    answer,
    messages,
    prompts_hash,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

View = Literal["sft", "dpo", "grpo"]
Message = dict[str, str]

PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected", "chosen_behavior", "options", "domain")
SCENE_COLUMNS = ("scene_id", "domain", "profile", "history", "exposure", "answer")
#: Llama's chat template prints the current date. A fixed one keeps the training text the same from
#: day to day, so that a run resumed tomorrow goes on with the same rows.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024"}
IGNORED = -100
#: Begins the history of a row that gives its answer away.
ASKED = "Asked for: "


@dataclass
class DataArguments:
    """What to train on."""

    dataset_name: str = field(
        default="usermirrorer/mixed",
        metadata={"help": "Hub id, folder of a release, or Parquet file of pairs or scenes."},
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Tag or commit of the dataset, e.g. v1.0.0."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Default: preference for decision, scenes for direct."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    stage: str = field(
        default="decision",
        metadata={
            "help": "decision: learn decision processes. direct: learn the label token alone.",
            "choices": ["decision", "direct"],
        },
    )
    domains: list[str] | None = field(
        default=None, metadata={"help": "Train on these domains only (appendix D.6)."}
    )
    max_pairs: int | None = field(
        default=None,
        metadata={"help": "Train on this many rows; a smaller set is part of a larger (Figure 5)."},
    )
    history_limit: int | None = field(
        default=None, metadata={"help": "Scenes only: keep the last so many lines of history."}
    )
    prompts: str | None = field(
        default=None,
        metadata={"help": "Scenes only: folder of other prompt templates; it goes with the model."},
    )
    rotate_options: int = field(
        default=1,
        metadata={"help": "Scenes only: copies of each scene, the options one label further each."},
    )
    asked_share: float = field(
        default=0.0,
        metadata={
            "help": "Scenes only: for this share of them a further row, whose history names the "
            "option: from these a small model learns to answer by an option's label at all."
        },
    )
    general_data: str | None = field(
        default=None,
        metadata={"help": "SFT only: general chats to mix in: Hub id, JSON lines or Parquet file."},
    )
    general_ratio: float = field(
        default=10.0, metadata={"help": "Task rows for one row of general data."}
    )
    drop_long: bool = field(
        default=False,
        metadata={"help": "Leave out rows longer than max_length instead of stopping."},
    )


@dataclass
class Prepared:
    """Rows in the form that the trainer takes, and what the run's record says of them."""

    rows: Dataset
    facts: dict[str, Any]


def sft_rows(
    arguments: DataArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None, seed: int
) -> Prepared:
    """Return rows of `input_ids` and `labels`: the task's, then the general ones.

    Args:
        arguments: What to train on.
        tokenizer: Needs a chat template.
        limit: Longest row in tokens; None for no limit.
        seed: Draws the general rows.

    Raises:
        UserError: see `load_source`, `view`, `encode`, `fit` and `general_rows`.
    """
    from datasets import concatenate_datasets

    source = load_source(arguments)
    task = view(source, "sft", arguments)
    encoded = encode(task, tokenizer, arguments.stage)
    facts = _facts(arguments, source, task)
    rows, facts["dropped"] = _fit(encoded, lengths(encoded, tokenizer), limit, arguments)
    general = general_rows(arguments, len(rows), seed)
    if general is not None:
        more = encode(general, tokenizer, "decision")
        # General chats have no length we promised to keep: cut, as everywhere else.
        more = more.map(_cut, fn_kwargs={"limit": limit})
        facts["general"] = {"name": _public_name(arguments.general_data), "rows": len(more)}
        facts["general"]["fingerprint"] = content_hash(general)
        rows = concatenate_datasets([rows, more.cast(rows.features)])
    return Prepared(rows, facts | _token_facts(lengths(rows, tokenizer)))


def dpo_rows(
    arguments: DataArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Prepared:
    """Return rows of `prompt`, `chosen` and `rejected` (message lists); see `sft_rows`."""
    return _untokenized("dpo", arguments, tokenizer, limit)


def grpo_rows(
    arguments: DataArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Prepared:
    """Return rows of `prompt`, `answer` (label) and `options` (number of them).

    Args:
        arguments: What to train on.
        tokenizer: Needs a chat template.
        limit: Longest prompt in tokens; None for no limit.
    """
    return _untokenized("grpo", arguments, tokenizer, limit)


def _untokenized(
    kind: View, arguments: DataArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Prepared:
    source = load_source(arguments)
    task = view(source, kind, arguments)
    counted = lengths(task, tokenizer)
    rows, dropped = _fit(task, counted, limit, arguments)
    kept = [count for count in counted if limit is None or count <= limit]
    return Prepared(
        rows, _facts(arguments, source, task) | {"dropped": dropped} | _token_facts(kept)
    )


def _fit(
    rows: Dataset, counted: Sequence[int], limit: int | None, arguments: DataArguments
) -> tuple[Dataset, int]:
    if limit is None:
        return rows, 0
    return fit(rows, counted, limit, drop_long=arguments.drop_long, where=arguments.dataset_name)


def _cut(row: Mapping[str, list[int]], limit: int | None) -> dict[str, list[int]]:
    return {name: row[name][:limit] for name in ("input_ids", "labels")}


def _token_facts(counted: Sequence[int]) -> dict[str, Any]:
    return {"longest_tokens": max(counted), "mean_tokens": sum(counted) / len(counted)}


def _facts(arguments: DataArguments, source: Dataset, task: Dataset) -> dict[str, Any]:
    chosen = choose_rows(source, arguments.domains, arguments.max_pairs)
    local = Path(arguments.dataset_name).exists()
    facts = {
        "name": _public_name(arguments.dataset_name),
        "local": local,
        "kind": source_kind(source.column_names),
        "revision": arguments.dataset_revision,
        "commit": None if local else _commit(source),
        "split": arguments.dataset_split,
        "domains": dict(sorted(Counter(chosen["domain"]).items())),
        "rows": len(task),
        "rotations": arguments.rotate_options,
        "asked": _asked_rows(chosen, arguments) or None,
        "history_limit": arguments.history_limit,
        "prompts": prompts_hash(prompt_folder(arguments)) if arguments.prompts else None,
        "fingerprint": content_hash(task),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _public_name(name: str) -> str:
    """Return the Hub id, or the last part of a path: paths of a machine are not published."""
    return Path(name).resolve().name if Path(name).exists() else name


def _commit(source: Dataset) -> str | None:
    """Return the commit that the rows were downloaded at.

    The cache keeps them in a folder of that name, so that it is known offline as well.
    """
    names = [Path(file["filename"]).parent.name for file in source.cache_files]
    return next((name for name in names if re.fullmatch("[0-9a-f]{40}", name)), None)


def load_source(arguments: DataArguments) -> Dataset:
    """Load pairs or scenes from a Hub repository, a local release folder or a Parquet file.

    Raises:
        UserError: if it is not there, or has no such configuration, split or revision.
    """
    config = arguments.dataset_config or ("scenes" if arguments.stage == "direct" else "preference")
    return _load(
        arguments.dataset_name, config, arguments.dataset_split, arguments.dataset_revision
    )


def _load(name: str, config: str | None, split: str, revision: str | None) -> Dataset:
    from datasets import load_dataset

    path = Path(name)
    try:
        if path.is_file():
            kind = "parquet" if path.suffix == ".parquet" else "json"
            return load_dataset(kind, data_files=name, split="train")
        return load_dataset(name, config, split=split, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:  # DatasetNotFoundError is the first
        raise UserError(
            "dataset not found",
            where=name,
            fix="Give a Hub id you can read (and HF_ENDPOINT), a release folder or a Parquet file.",
        ) from error
    except Exception as error:
        # `datasets` reports wrong configurations, splits and files by many types of its own.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"dataset cannot be loaded: {reason}", where=name) from error


def source_kind(columns: Iterable[str]) -> Literal["preference", "scenes"]:
    """Tell pairs from scenes by their columns.

    Raises:
        UserError: if columns are missing, naming them.
    """
    there = set(columns)
    missing_pairs = [c for c in PREFERENCE_COLUMNS if c not in there]
    missing_scenes = [c for c in SCENE_COLUMNS if c not in there]
    if not missing_pairs:
        return "preference"
    if not missing_scenes:
        return "scenes"
    nearer = missing_scenes if len(missing_scenes) < len(missing_pairs) else missing_pairs
    raise UserError(
        f"neither preference pairs nor scenes: columns {', '.join(nearer)} are missing",
        where="training data",
        fix="Choose another --dataset_config.",
    )


def prompt_folder(arguments: DataArguments) -> Path:
    """Return the folder of prompt templates; one of `recipes/` is found from anywhere.

    Raises:
        UserError: if there is no such folder.
    """
    if arguments.prompts is None:
        return DEFAULT_PROMPTS
    folder = packaged(arguments.prompts)
    if not folder.is_dir():
        raise UserError("is not a folder of prompt templates", where=folder, fix="See --prompts.")
    return folder


def packaged(name: str) -> Path:
    """Return the path `name`; if it is not there, that in the installed `recipes/`, if it is."""
    asked, inside = Path(name), Path(__file__).parent / name.removeprefix("recipes/")
    return inside if inside.exists() and not asked.exists() else asked


def choose_rows(
    rows: Dataset, domains: Sequence[str] | None = None, max_pairs: int | None = None
) -> Dataset:
    """Keep rows of `domains` and then `max_pairs` of them, in their order in `rows`.

    Which rows are kept depends on their scene ids alone: a smaller set is part of a larger one.

    Raises:
        UserError: if a domain has no row, or fewer than `max_pairs` rows are there.
    """
    if domains:
        there = Counter(rows["domain"])
        unknown = [name for name in domains if name not in there]
        if unknown:
            raise UserError(
                f"no rows of domain {', '.join(unknown)}",
                where="--domains",
                fix=f"There are {', '.join(sorted(there))}.",
            )
        kept = [i for i, name in enumerate(rows["domain"]) if name in set(domains)]
        rows = rows.select(kept)
    if max_pairs is None:
        return rows
    if not 0 < max_pairs <= len(rows):
        raise UserError(f"{max_pairs} rows asked for, {len(rows)} are there", where="--max_pairs")
    ranked = sorted((_rank(name), i) for i, name in enumerate(rows["scene_id"]))
    return rows.select(sorted(i for _, i in ranked[:max_pairs]))


def _rank(scene_id: str) -> str:
    return hashlib.sha256(f"max_pairs:{scene_id}".encode()).hexdigest()


def rotate(scene: Mapping[str, Any], shift: int) -> dict[str, Any]:
    """Return the scene with each option `shift` labels further, and its answer with it."""
    options = list(scene["exposure"])
    shift %= len(options)
    turned = options[-shift:] + options[:-shift] if shift else options
    return {**scene, "exposure": turned, "answer": (scene["answer"] + shift) % len(options)}


def asked(scene: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scene with a history that says nothing but which option is asked for."""
    return {**scene, "history": [ASKED + scene["exposure"][scene["answer"]]]}


def _is_asked(scene_id: str, share: float) -> bool:
    drawn = int(hashlib.sha256(f"asked:{scene_id}".encode()).hexdigest()[:8], 16)
    return drawn < share * 16**8


def _asked_rows(rows: Dataset, arguments: DataArguments) -> int:
    if not arguments.asked_share:
        return 0
    return sum(_is_asked(name, arguments.asked_share) for name in rows["scene_id"])


def view(rows: Dataset, kind: View, arguments: DataArguments) -> Dataset:
    """Return `rows` in the form that the trainer of `kind` takes (see the module's table).

    Raises:
        UserError: if this source has no such view.
    """
    source = source_kind(rows.column_names)
    _check_view(source, kind, arguments)
    rows = choose_rows(rows, arguments.domains, arguments.max_pairs)
    if len(rows) == 0:
        raise UserError("no rows to train on", where=arguments.dataset_name)
    if source == "preference":
        return rows.map(_pair_view, fn_kwargs={"kind": kind}, remove_columns=rows.column_names)
    return rows.map(
        _scene_views,
        batched=True,
        fn_kwargs={
            "kind": kind,
            "stage": arguments.stage,
            "history_limit": arguments.history_limit,
            "copies": arguments.rotate_options,
            "asked_share": arguments.asked_share,
            "prompts": str(prompt_folder(arguments)),
        },
        remove_columns=rows.column_names,
    )


def _check_view(source: str, kind: View, arguments: DataArguments) -> None:
    if source == "preference" and arguments.stage == "direct":
        raise UserError(
            "direct training needs scenes, not preference pairs",
            where=arguments.dataset_name,
            fix="Use --dataset_config scenes.",
        )
    if source == "preference" and (
        arguments.history_limit is not None
        or arguments.rotate_options > 1
        or arguments.prompts
        or arguments.asked_share
    ):
        raise UserError(
            "--history_limit, --rotate_options, --asked_share and --prompts work on scenes; the "
            "prompts of pairs are written"
        )
    if source == "scenes" and kind == "dpo":
        raise UserError(
            "columns chosen, rejected are missing: DPO needs preference pairs",
            where=arguments.dataset_name,
            fix="Use --dataset_config preference.",
        )
    if source == "scenes" and kind == "sft" and arguments.stage == "decision":
        raise UserError(
            "column chosen is missing: SFT on decision processes needs preference pairs",
            where=arguments.dataset_name,
            fix="Use --dataset_config preference, or --stage direct.",
        )
    if arguments.rotate_options < 1 or (arguments.history_limit or 0) < 0:
        raise UserError("--rotate_options is at least 1 and --history_limit at least 0")
    if not 0 <= arguments.asked_share <= 1:
        raise UserError("is a share, from 0 to 1", where="--asked_share")
    if arguments.general_data and kind != "sft":
        raise UserError("--general_data is for SFT only (appendix C.2)")


def _pair_view(row: Mapping[str, Any], kind: View) -> dict[str, Any]:
    if kind == "sft":
        return {"prompt": row["prompt"], "completion": row["chosen"]}
    if kind == "dpo":
        return {name: row[name] for name in ("prompt", "chosen", "rejected")} | {
            "chat_template_kwargs": TEMPLATE_ARGUMENTS
        }
    return {"prompt": row["prompt"], "answer": row["chosen_behavior"], "options": row["options"]}


def _scene_views(
    batch: Mapping[str, list[Any]],
    kind: View,
    stage: str,
    history_limit: int | None,
    copies: int,
    asked_share: float,
    prompts: str,
) -> dict[str, list[Any]]:
    views = []
    for index in range(len(batch["scene_id"])):
        scene = {name: batch[name][index] for name in SCENE_COLUMNS}
        if history_limit is not None:
            scene["history"] = scene["history"][-history_limit:] if history_limit else []
        for shift in range(min(copies, len(scene["exposure"]))):
            views.append(_scene_view(rotate(scene, shift), kind, stage, Path(prompts)))
        if _is_asked(scene["scene_id"], asked_share):
            views.append(_scene_view(asked(scene), kind, stage, Path(prompts)))
    return {name: [one[name] for one in views] for name in views[0]}


def _scene_view(scene: Mapping[str, Any], kind: View, stage: str, prompts: Path) -> dict[str, Any]:
    label = LABELS[scene["answer"]]
    prompt = messages(scene, "direct" if stage == "direct" else "decision", prompts)
    if kind == "sft":
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer(label)}]}
    return {"prompt": prompt, "answer": label, "options": len(scene["exposure"])}


def general_rows(arguments: DataArguments, task_rows: int, seed: int) -> Dataset | None:
    """Return general chats, one for `general_ratio` task rows, drawn by `seed`; None if not asked.

    Returns:
        Rows with one column, `messages`.

    Raises:
        UserError: if the ratio is not positive, the data has too few rows or no chats.
    """
    if not arguments.general_data:
        return None
    if arguments.general_ratio <= 0:
        raise UserError("the ratio of task to general rows is positive", where="--general_ratio")
    rows = _load(arguments.general_data, None, "train", None)
    if "messages" not in rows.column_names:
        raise UserError(
            "column messages is missing", where=arguments.general_data, fix="Give chats."
        )
    wanted = round(task_rows / arguments.general_ratio)
    if wanted > len(rows):
        raise UserError(
            f"{wanted} rows needed for {arguments.general_ratio:g}:1, {len(rows)} are there",
            where=arguments.general_data,
            fix="Raise --general_ratio.",
        )
    chosen = sorted(random.Random(seed).sample(range(len(rows)), wanted))
    return rows.select(chosen).select_columns(["messages"])


def label_tokens(tokenizer: PreTrainedTokenizerBase, options: int = len(LABELS)) -> dict[str, int]:
    """Return the token id of each option label after `Behavior: [`.

    Raises:
        UserError: if a label is not one token of its own in that place.
    """
    before = _text_ids(tokenizer, LABEL_PREFIX)
    ids = {}
    for label in LABELS[:options]:
        through = _text_ids(tokenizer, LABEL_PREFIX + label)
        closed = _text_ids(tokenizer, answer(label))
        if (
            len(through) != len(before) + 1
            or through[:-1] != before
            or closed[: len(through)] != through
        ):
            raise UserError(
                f"label {label} is not a single token after {LABEL_PREFIX!r} in this tokenizer",
                where=tokenizer.name_or_path,
                fix="Train another model, or use --stage decision.",
            )
        ids[label] = through[-1]
    return ids


def encode_label(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], label_id: int
) -> dict[str, list[int]]:
    """Return `input_ids` that end in the label token, and `labels` that ignore all others."""
    text = tokenizer.apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=True, **TEMPLATE_ARGUMENTS
    )
    before = _text_ids(tokenizer, text + LABEL_PREFIX)
    return {"input_ids": [*before, label_id], "labels": [IGNORED] * len(before) + [label_id]}


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message]
) -> dict[str, list[int]]:
    """Return `input_ids` of a chat and `labels` that keep the assistant's turns alone.

    A turn's labels run through its end-of-turn token; what the template writes around turns is
    ignored. No `{% generation %}` mark is needed in the template.
    """
    ids = chat_ids(tokenizer, chat)
    labels = [IGNORED] * len(ids)
    for index, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        start = _shared(ids, chat_ids(tokenizer, chat[:index], prompt=True))
        end = _shared(ids, chat_ids(tokenizer, chat[: index + 1]))
        while end > start and not tokenizer.decode(ids[end - 1]).strip():
            end -= 1
        labels[start:end] = ids[start:end]
    return {"input_ids": ids, "labels": labels}


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], prompt: bool = False
) -> list[int]:
    """Return the token ids of a chat, ending in the assistant's header if it is a `prompt`."""
    text = tokenizer.apply_chat_template(
        list(chat), tokenize=False, add_generation_prompt=prompt, **TEMPLATE_ARGUMENTS
    )
    return _text_ids(tokenizer, text)


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, stage: str) -> Dataset:
    """Tokenize an SFT view (or rows of `messages`) into `input_ids` and `labels`.

    Raises:
        UserError: if `stage` is direct and a label is not one token.
    """
    label_ids = label_tokens(tokenizer) if stage == "direct" else None
    return rows.map(
        _encode_row,
        fn_kwargs={"tokenizer": tokenizer, "label_ids": label_ids},
        remove_columns=rows.column_names,
        desc="Tokenizing",
    )


def _encode_row(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, label_ids: dict[str, int] | None
) -> dict[str, list[int]]:
    if "messages" in row:
        return encode_chat(tokenizer, row["messages"])
    if label_ids is None:
        return encode_chat(tokenizer, [*row["prompt"], *row["completion"]])
    label = row["completion"][0]["content"].removeprefix(LABEL_PREFIX)[0]
    return encode_label(tokenizer, row["prompt"], label_ids[label])


def lengths(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the number of tokens of each row; of a pair, that of its longer side."""
    if "input_ids" in rows.column_names:
        batches = rows.select_columns(["input_ids"]).with_format("arrow").iter(1000)
        return [n for b in batches for n in pc.list_value_length(b["input_ids"]).to_pylist()]
    counted = []
    for row in rows:
        sides = [row["chosen"], row["rejected"]] if "chosen" in row else [[]]
        counted.append(
            max(
                len(chat_ids(tokenizer, [*row["prompt"], *side], prompt=not side)) for side in sides
            )
        )
    return counted


def fit(
    rows: Dataset, counted: Sequence[int], limit: int, *, drop_long: bool, where: str
) -> tuple[Dataset, int]:
    """Return the rows of at most `limit` tokens and how many were left out.

    Raises:
        UserError: if rows are longer and `drop_long` is not set, or no row is left.
    """
    kept = [index for index, count in enumerate(counted) if count <= limit]
    dropped = len(counted) - len(kept)
    if dropped and not drop_long:
        raise UserError(
            f"{dropped} of {len(counted)} rows are longer than {limit} tokens (the longest has "
            f"{max(counted)})",
            where=where,
            fix="Raise --max_length within the model's context, or leave them out by --drop_long.",
        )
    if not kept:
        raise UserError(f"every row is longer than {limit} tokens", where=where)
    return (rows.select(kept), dropped) if dropped else (rows, 0)


def content_hash(rows: Dataset) -> str:
    """Return 16 hex digits that depend on the rows' values and order alone."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()[:16]

"""Training views of a release: which rows, in which of TRL's forms, and which tokens bear the loss.

A source is either preference pairs or scenes (`builders/common/schema.py`), told apart by its
columns.

    stage      source        sft                  dpo                grpo
    decision   preference    prompt, completion   prompt, chosen,    prompt, answer, options
                                                  rejected
    decision   scenes        -                    -                  prompt, answer, options
    direct     scenes        prompt, completion   -                  prompt, answer, options
    direct     preference    prompt, completion   prompt, chosen,    prompt, answer, options
               (labels)                           rejected

`direct` is the paper's single-stage training (appendix C.2): the loss lies on the label token
alone. The pairs for it are those whose responses are labels alone (strategy `random_direct`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc

from usermirrorer.builders.common import published, scene_rows
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS, PREFERENCE, SCENE
from usermirrorer.builders.common.storage import read_table
from usermirrorer.builders.decisions import chat as chats
from usermirrorer.builders.decisions.prompts import (
    DEFAULT_PROMPTS,
    LABEL_PREFIX,
    Message,
    answer,
    messages,
    prompts_hash,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

View = Literal["sft", "dpo", "grpo"]
Encoded = dict[str, list[int]]

PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected", "chosen_behavior", "options", "domain")
SCENE_COLUMNS = ("scene_id", "domain", "profile", "history", "exposure", "answer")
#: Columns of scenes with what others took, see `agrees`.
_COLLABORATIVE = ("exposure_sequential", "exposure_collaborative")
IGNORED = -100
#: Columns of a pair's tokens.
TOKENS = {side: f"{side}_tokens" for side in ("prompt", "chosen", "rejected")}
#: Begins the history of a row that gives its answer away.
HINT = "Asked for: "


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
        default=None,
        metadata={"help": "Train on these domains or sources only (appendix D.6, Table 14)."},
    )
    max_pairs: int | None = field(
        default=None,
        metadata={"help": "Train on this many rows; a smaller set is part of a larger (Figure 5)."},
    )
    max_pairs_by: str = field(
        default="random",
        metadata={
            "help": "Which rows --max_pairs takes: some at random; the pairs of largest "
            "difference in epistemic uncertainty (equation 3); or first the scenes whose choice "
            "what others took speaks for, from which a small model learns faster.",
            "choices": ["random", "delta_eu", "agreement"],
        },
    )
    history_limit: int | None = field(
        default=None,
        metadata={
            "help": "Scenes only: keep the newest so many lines of history (0 none, -1 all)."
        },
    )
    prompts: str | None = field(
        default=None,
        metadata={"help": "Scenes only: folder of other prompt templates; it goes with the model."},
    )
    rotate_options: int = field(
        default=1,
        metadata={"help": "Scenes only: copies of each scene, the options one label further each."},
    )
    hint_share: float = field(
        default=0.0,
        metadata={
            "help": "Scenes only: for this share of them a further row, whose history names the "
            "option: from these a small model learns to answer by an option's label at all."
        },
    )
    hints_early: bool = field(
        default=False,
        metadata={
            "help": "SFT on scenes: rows of --hint_share come early, in turn with others, whose "
            "order the seed draws. Fewer of them are needed so; alone they would teach "
            "a certainty that scenes do not have."
        },
    )
    asked_share: float | None = field(
        default=None, metadata={"help": "Deprecated name of --hint_share."}
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

    def __post_init__(self) -> None:
        """Take deprecated names, and -1 for no limit as evaluation does."""
        if self.asked_share is not None:
            warnings.warn("asked_share is now hint_share", DeprecationWarning, stacklevel=2)
            self.hint_share, self.asked_share = self.asked_share, None
        if self.history_limit == -1:
            self.history_limit = None


@dataclass
class Prepared:
    """Rows in the form that the trainer takes, and what the run's record says of them."""

    rows: Dataset
    facts: dict[str, Any]


def sft_rows(
    arguments: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    seed: int,
    settings: chats.Settings | None = None,
) -> Prepared:
    """Return rows of `input_ids` and `labels`: the task's, then the general ones.

    Args:
        arguments: What to train on.
        tokenizer: Needs a chat template.
        limit: Longest row in tokens; None for no limit.
        seed: Draws the general rows, and with `hints_early` the order of scenes.
        settings: What the chat template is given, see `builders/decisions/chat.py`.

    Raises:
        UserError: see `read_source`, `view`, `encode`, `fit` and `general_rows`.
    """
    from datasets import concatenate_datasets

    source, commit = read_source(arguments)
    task = view(source, "sft", arguments)
    if arguments.hints_early:
        task = task.select(early_hints_order(_chosen(source, arguments), arguments, seed))
    encoded = encode(task, tokenizer, arguments.stage, settings)
    facts = _facts(arguments, source, commit, task, settings)
    rows, facts["dropped"] = _fit(encoded, lengths(encoded, tokenizer), limit, arguments)
    general = general_rows(arguments, tokenizer, limit, len(rows), seed, settings)
    if general is not None:
        facts["general"] = general.facts
        rows = concatenate_datasets([rows, general.rows.cast(rows.features)])
    return Prepared(rows, facts | _token_facts(lengths(rows, tokenizer)))


def dpo_rows(
    arguments: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    settings: chats.Settings | None = None,
) -> Prepared:
    """Return rows of `prompt`, `chosen` and `rejected` (message lists); see `sft_rows`.

    The prompt is one message that holds the text which a model reads; the template that goes with
    the row shows it as it is, and ends the answers as the model's own does.
    """
    return _untokenized("dpo", arguments, tokenizer, limit, settings)


def grpo_rows(
    arguments: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    settings: chats.Settings | None = None,
) -> Prepared:
    """Return rows of `prompt` (see `dpo_rows`), `answer` (label) and `options` (their number).

    Args:
        arguments: What to train on.
        tokenizer: Needs a chat template.
        limit: Longest prompt in tokens; None for no limit.
        settings: What the chat template is given.
    """
    return _untokenized("grpo", arguments, tokenizer, limit, settings)


def _untokenized(
    kind: View,
    arguments: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    settings: chats.Settings | None,
) -> Prepared:
    source, commit = read_source(arguments)
    task = view(source, kind, arguments)
    counted = lengths(task, tokenizer, settings)
    task = task.map(
        _rendered, fn_kwargs={"tokenizer": tokenizer, "kind": kind, "settings": settings or {}}
    )
    rows, dropped = _fit(task, counted, limit, arguments)
    kept = [count for count in counted if limit is None or count <= limit]
    facts = _facts(arguments, source, commit, task, settings)
    return Prepared(rows, facts | {"dropped": dropped} | _token_facts(kept))


def _rendered(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, kind: View, settings: chats.Settings
) -> dict[str, Any]:
    """Return the row with its prompt as text, for TRL, which would render it by itself.

    Pairs have their tokens beside it (`TOKENS`): where tokens may run over the end of a prompt, TRL
    would train on another prompt than inference shows.
    """
    text = chats.chat_text(tokenizer, row["prompt"], **settings)
    if kind == "grpo":
        return {"prompt": [{"role": "user", "content": text}]}
    end = chats.end_of_turn(tokenizer, **settings)
    made: dict[str, Any] = {"chat_template_kwargs": {"chat_template": chats.verbatim(end)}}
    for side in ("chosen", "rejected"):
        text, said = chats.answered(tokenizer, row["prompt"], row[side][-1], **settings)
        made[side] = [{"role": "assistant", "content": said.removesuffix(end)}]
        ids = chats.answered_ids(tokenizer, row["prompt"], row[side][-1], **settings)
        made[TOKENS["prompt"]], made[TOKENS[side]] = ids
    return made | {"prompt": [{"role": "user", "content": text}]}


def _fit(
    rows: Dataset, counted: Sequence[int], limit: int | None, arguments: DataArguments
) -> tuple[Dataset, int]:
    if limit is None:
        return rows, 0
    return fit(rows, counted, limit, drop_long=arguments.drop_long, where=arguments.dataset_name)


def _token_facts(counted: Sequence[int]) -> dict[str, Any]:
    return {"longest_tokens": max(counted), "mean_tokens": sum(counted) / len(counted)}


def _facts(
    arguments: DataArguments,
    source: Dataset,
    commit: str,
    task: Dataset,
    settings: chats.Settings | None,
) -> dict[str, Any]:
    chosen = _chosen(source, arguments)
    local = Path(arguments.dataset_name).exists()
    facts = {
        "name": _public_name(arguments.dataset_name),
        "local": local,
        "kind": source_kind(source.column_names),
        "revision": arguments.dataset_revision,
        "commit": commit or None,
        "split": arguments.dataset_split,
        "domains": dict(sorted(Counter(chosen["domain"]).items())),
        "sources": dict(sorted(Counter(_sources(chosen)).items())),
        "rows": len(task),
        "rows_by": arguments.max_pairs_by if arguments.max_pairs else None,
        "rotations": arguments.rotate_options,
        "hints": _hint_rows(chosen, arguments) or None,
        "history_limit": arguments.history_limit,
        "prompts": prompts_hash(prompt_folder(arguments)) if arguments.prompts else None,
        "chat_template_kwargs": dict(settings or {}) or None,
        "fingerprint": content_hash(task),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _public_name(name: str) -> str:
    """Return the Hub id, or the last part of a path: paths of a machine are not published."""
    return Path(name).resolve().name if Path(name).exists() else name


def load_source(arguments: DataArguments) -> Dataset:
    """Load pairs or scenes; see `read_source`."""
    return read_source(arguments)[0]


def read_source(arguments: DataArguments) -> tuple[Dataset, str]:
    """Return pairs or scenes of a Hub repository, a release folder or a Parquet file.

    Returns:
        The rows, and the commit that they are of: "" of what is local.

    Raises:
        UserError: if it is not there, has no such configuration, split or revision, or holds what
            are no scenes (see `scene_rows.check`).
    """
    config = arguments.dataset_config or ("scenes" if arguments.stage == "direct" else "preference")
    rows, commit = _read(
        arguments.dataset_name, config, arguments.dataset_split, arguments.dataset_revision
    )
    if source_kind(rows.column_names) == "scenes":
        given = conform(rows.with_format("arrow")[:], SCENE, arguments.dataset_name)
        scene_rows.check(given, arguments.dataset_name, SCENE_COLUMNS)
    return rows, commit


def _local(path: Path) -> Dataset:
    """Return a Parquet file, whoever wrote it: `datasets` does not know every type of Arrow."""
    from datasets import Dataset

    table = read_table(path)
    pairs = {"chosen", "rejected"} <= set(table.column_names)
    return Dataset(conform(table, PREFERENCE if pairs else SCENE, path))


def _read(name: str, config: str | None, split: str, revision: str | None) -> tuple[Dataset, str]:
    from datasets import load_dataset

    path = Path(name)
    if path.is_file():
        if path.suffix == ".parquet":
            return _local(path), ""
        try:
            return load_dataset("json", data_files=name, split="train"), ""
        except Exception as error:
            # `datasets` reports broken files by many types of its own.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"dataset cannot be loaded: {reason}", where=name) from error
    if not path.is_dir() and (path.suffix in (".parquet", ".json", ".jsonl") or path.is_absolute()):
        raise UserError("no such file", where=name)
    commit = "" if path.is_dir() else published.commit_of(name, revision)
    return published.read_rows(name, config, split, commit), commit


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
    given, inside = Path(name), Path(__file__).parent / name.removeprefix("recipes/")
    return inside if inside.exists() and not given.exists() else given


def choose_rows(
    rows: Dataset,
    domains: Sequence[str] | None = None,
    max_pairs: int | None = None,
    by: str = "random",
) -> Dataset:
    """Keep rows of `domains` and then `max_pairs` of them, in their order in `rows`.

    Which rows are kept depends on their contents alone: a smaller set is part of a larger one.

    Args:
        rows: Pairs or scenes.
        domains: Names of domains or of their sources.
        max_pairs: How many to keep.
        by: `random`: by a hash of the scene ids. `delta_eu`: the largest `epistemic_delta`.
            `agreement`: scenes of which `agrees` is true before others, each by that hash.

    Raises:
        UserError: if a domain is none or none of them has a row, fewer than `max_pairs` rows are
            there, or they lack the columns that `by` needs.
    """
    if domains:
        rows = _of_domains(rows, set(domains))
    if max_pairs is None:
        return rows
    if not 0 < max_pairs <= len(rows):
        raise UserError(f"{max_pairs} rows wanted, {len(rows)} are there", where="--max_pairs")
    ranks: list[Any] = [_rank(name) for name in rows["scene_id"]]
    if by == "delta_eu":
        if "epistemic_delta" not in rows.column_names:
            raise UserError(
                "column epistemic_delta is missing",
                where="--max_pairs_by delta_eu",
                fix="Give preference pairs.",
            )
        ranks = [(-value, rank) for value, rank in zip(rows["epistemic_delta"], ranks, strict=True)]
    if by == "agreement":
        if missing := [name for name in _COLLABORATIVE if name not in rows.column_names]:
            raise UserError(
                f"column {missing[0]} is missing",
                where="--max_pairs_by agreement",
                fix="Give scenes.",
            )
        columns = rows.select_columns(["answer", *_COLLABORATIVE])
        ranks = [(not agrees(row), rank) for row, rank in zip(columns, ranks, strict=True)]
    best = sorted(range(len(rows)), key=lambda index: ranks[index])
    return rows.select(sorted(best[:max_pairs]))


def agrees(scene: Mapping[str, Any]) -> bool:
    """Say whether what others took speaks for a scene's choice more than for any other option.

    The sum of both collaborative scores, each in its standard deviations within the exposure. What
    nobody foresaw is as true a choice, but says less of how choices hang together: where a model
    can read a thousand scenes only, these teach it more (see recipes/README.md).
    """
    import numpy as np

    total = np.zeros(len(scene[_COLLABORATIVE[0]]))
    for name in _COLLABORATIVE:
        values = np.nan_to_num(np.array(scene[name], np.float64))
        spread = values.std()
        total += (values - values.mean()) / spread if spread > 0 else 0.0
    best = np.flatnonzero(total == total.max())
    return len(best) == 1 and int(best[0]) == scene["answer"]


def _of_domains(rows: Dataset, wanted: set[str]) -> Dataset:
    """Keep rows of these domains or sources.

    Of a source that is known some dataset may have no row, as where few scenes made a pair: that
    is told. A name that nothing has is a mistake.
    """
    names = list(zip(rows["domain"], _sources(rows), strict=True))
    there = {name for both in names for name in both}
    missing = wanted - there
    if missing:
        from usermirrorer.builders.raw.sources import all_sources, domains

        lacking = f"no rows of domain {', '.join(sorted(missing))}"
        if missing == wanted or missing - {*all_sources(), *domains()}:
            coarse = {domain for domain, _ in names}
            raise UserError(
                lacking,
                where="--domains",
                fix=f"There are {', '.join([*sorted(coarse), *sorted(there - coarse)])}.",
            )
        if os.environ.get("RANK", "0") == "0":
            print(f"warning: --domains: {lacking}; the others are taken", file=sys.stderr)
    return rows.select([i for i, both in enumerate(names) if wanted & {*both}])


def _sources(rows: Dataset) -> list[str]:
    return rows["source"] if "source" in rows.column_names else rows["domain"]


def _chosen(rows: Dataset, arguments: DataArguments) -> Dataset:
    return choose_rows(rows, arguments.domains, arguments.max_pairs, arguments.max_pairs_by)


def _rank(scene_id: str) -> str:
    return hashlib.sha256(f"max_pairs:{scene_id}".encode()).hexdigest()


def rotate(scene: Mapping[str, Any], shift: int) -> dict[str, Any]:
    """Return the scene with each option `shift` labels further, and its answer with it."""
    options = list(scene["exposure"])
    shift %= len(options)
    turned = options[-shift:] + options[:-shift] if shift else options
    return {**scene, "exposure": turned, "answer": (scene["answer"] + shift) % len(options)}


def with_hint(scene: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scene with a history that says nothing but which option is the answer."""
    return {**scene, "history": [HINT + scene["exposure"][scene["answer"]]]}


def _has_hint(scene_id: str, share: float) -> bool:
    drawn = int(hashlib.sha256(f"asked:{scene_id}".encode()).hexdigest()[:8], 16)
    return drawn < share * 16**8


def _hint_rows(rows: Dataset, arguments: DataArguments) -> int:
    if not arguments.hint_share:
        return 0
    return sum(_has_hint(name, arguments.hint_share) for name in rows["scene_id"])


def early_hints_order(rows: Dataset, arguments: DataArguments, seed: int) -> list[int]:
    """Return the order of a view's rows that begins with a hint and another row in turn.

    When the rows that name the option are used up, the rest of the others follow.

    Args:
        rows: The scenes that the view was made of.
        arguments: How it was made.
        seed: Draws the order of the rows that are no hints.
    """
    hints: list[int] = []
    others: list[int] = []
    place = 0
    for name, exposure in zip(rows["scene_id"], rows["exposure"], strict=True):
        copies = min(arguments.rotate_options, len(exposure))
        others += range(place, place + copies)
        place += copies
        if _has_hint(name, arguments.hint_share):
            hints.append(place)
            place += 1
    random.Random(seed).shuffle(others)
    in_turn = [row for both in zip(hints, others, strict=False) for row in both]
    return in_turn + others[len(hints) :]


def view(rows: Dataset, kind: View, arguments: DataArguments) -> Dataset:
    """Return `rows` in the form that the trainer of `kind` takes (see the module's table).

    Raises:
        UserError: if this source has no such view.
    """
    source = source_kind(rows.column_names)
    _check_arguments(kind, arguments)
    (_check_pairs if source == "preference" else _check_scenes)(kind, arguments)
    rows = _chosen(rows, arguments)
    _check_options(rows, arguments)
    if len(rows) == 0:
        raise UserError("no rows to train on", where=arguments.dataset_name)
    if source == "preference":
        _check_responses(rows, arguments)
        return rows.map(_pair_view, fn_kwargs={"kind": kind}, remove_columns=rows.column_names)
    return rows.map(
        _scene_views,
        batched=True,
        fn_kwargs={
            "kind": kind,
            "stage": arguments.stage,
            "history_limit": arguments.history_limit,
            "copies": arguments.rotate_options,
            "hint_share": arguments.hint_share,
            "prompts": str(prompt_folder(arguments)),
        },
        remove_columns=rows.column_names,
    )


def _check_options(rows: Dataset, arguments: DataArguments) -> None:
    """Refuse scenes without a choice, from which a model learns to answer [A], and too large ones.

    Raises:
        UserError: naming the first.
    """
    counts = rows["options"] if "options" in rows.column_names else map(len, rows["exposure"])
    for name, count in zip(rows["scene_id"], counts, strict=True):
        if not 2 <= count <= len(LABELS):
            raise UserError(
                f"scene {name} has {count} options, not 2 to {len(LABELS)}",
                where=arguments.dataset_name,
                fix="Build the scenes again, or leave it out.",
            )


def _check_arguments(kind: View, arguments: DataArguments) -> None:
    if arguments.rotate_options < 1 or (arguments.history_limit or 0) < 0:
        raise UserError("--rotate_options is at least 1 and --history_limit at least 0")
    if not 0 <= arguments.hint_share <= 1:
        raise UserError("is a share, from 0 to 1", where="--hint_share")
    if arguments.hints_early and not arguments.hint_share:
        raise UserError("there are no hints", where="--hint_share")
    if arguments.hints_early and kind != "sft":
        raise UserError("is for SFT only", where="--hints_early")
    if arguments.general_data and kind != "sft":
        raise UserError("--general_data is for SFT only (appendix C.2)")


def _check_pairs(kind: View, arguments: DataArguments) -> None:
    if (
        arguments.history_limit is not None
        or arguments.rotate_options > 1
        or arguments.prompts
        or arguments.hint_share
    ):
        raise UserError(
            "--history_limit, --rotate_options, --hint_share and --prompts work on scenes; the "
            "prompts of pairs are written"
        )


def _check_scenes(kind: View, arguments: DataArguments) -> None:
    if kind == "dpo":
        raise UserError(
            "columns chosen, rejected are missing: DPO needs preference pairs",
            where=arguments.dataset_name,
            fix="Use --dataset_config preference.",
        )
    if kind == "sft" and arguments.stage == "decision":
        raise UserError(
            "column chosen is missing: SFT on decision processes needs preference pairs",
            where=arguments.dataset_name,
            fix="Use --dataset_config preference, or --stage direct.",
        )


def _check_responses(rows: Dataset, arguments: DataArguments) -> None:
    """Refuse pairs with decision processes in direct training, and labels alone in the other."""
    bare = sum(_is_label(row["chosen"]) for row in rows.select_columns(["chosen"]))
    if arguments.stage == "direct" and bare < len(rows):
        raise UserError(
            "direct training needs scenes, or pairs whose responses are labels alone",
            where=arguments.dataset_name,
            fix="Use --dataset_config scenes, or distil by strategy random_direct.",
        )
    if arguments.stage == "decision" and bare:
        raise UserError(
            f"the responses of {bare} of {len(rows)} pairs are labels without decision processes",
            where=arguments.dataset_name,
            fix="Use --stage direct.",
        )


def _is_label(response: Sequence[Message]) -> bool:
    return response[-1]["content"].startswith(LABEL_PREFIX)


def _pair_view(row: Mapping[str, Any], kind: View) -> dict[str, Any]:
    if kind == "sft":
        return {"prompt": row["prompt"], "completion": row["chosen"]}
    if kind == "dpo":
        return {name: row[name] for name in ("prompt", "chosen", "rejected")}
    return {"prompt": row["prompt"], "answer": row["chosen_behavior"], "options": row["options"]}


def _scene_views(
    batch: Mapping[str, list[Any]],
    kind: View,
    stage: str,
    history_limit: int | None,
    copies: int,
    hint_share: float,
    prompts: str,
) -> dict[str, list[Any]]:
    views = []
    for index in range(len(batch["scene_id"])):
        scene = {name: batch[name][index] for name in SCENE_COLUMNS}
        if history_limit is not None:
            scene["history"] = scene["history"][-history_limit:] if history_limit else []
        for shift in range(min(copies, len(scene["exposure"]))):
            views.append(_scene_view(rotate(scene, shift), kind, stage, Path(prompts)))
        if _has_hint(scene["scene_id"], hint_share):
            views.append(_scene_view(with_hint(scene), kind, stage, Path(prompts)))
    return {name: [one[name] for one in views] for name in views[0]}


def _scene_view(scene: Mapping[str, Any], kind: View, stage: str, prompts: Path) -> dict[str, Any]:
    label = LABELS[scene["answer"]]
    prompt = messages(scene, "direct" if stage == "direct" else "decision", prompts)
    if kind == "sft":
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer(label)}]}
    return {"prompt": prompt, "answer": label, "options": len(scene["exposure"])}


def general_rows(
    arguments: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    task_rows: int,
    seed: int,
    settings: chats.Settings | None = None,
) -> Prepared | None:
    """Return general chats, one for `general_ratio` task rows, drawn by `seed`; None without any.

    Chats that the template refuses, and those in which no turn of the assistant lies within the
    limit, are passed over and counted; others are drawn instead.

    Returns:
        Rows of `input_ids` and `labels`, cut at `limit`, and facts about them.

    Raises:
        UserError: if the ratio is not positive, the data has too few rows or no chats.
    """
    from datasets import Dataset

    if not arguments.general_data:
        return None
    if arguments.general_ratio <= 0:
        raise UserError("the ratio of task to general rows is positive", where="--general_ratio")
    source, commit = _read(arguments.general_data, None, "train", None)
    if "messages" not in source.column_names:
        raise UserError(
            "column messages is missing", where=arguments.general_data, fix="Give chats."
        )
    wanted, passed = round(task_rows / arguments.general_ratio), 0
    taken: dict[int, Encoded] = {}
    for index in random.Random(seed).sample(range(len(source)), len(source)):
        if len(taken) == wanted:
            break
        encoded = _general_chat(tokenizer, source[index]["messages"], limit, settings)
        if encoded is None:
            passed += 1
        else:
            taken[index] = encoded
    if len(taken) < wanted:
        raise _too_few(arguments, wanted, len(source), passed)
    order = sorted(taken)
    facts = {"name": _public_name(arguments.general_data), "rows": wanted, "passed_over": passed}
    if commit:
        facts["commit"] = commit
    facts["fingerprint"] = content_hash(source.select(order).select_columns(["messages"]))
    return Prepared(Dataset.from_list([taken[index] for index in order]), facts)


def _too_few(arguments: DataArguments, wanted: int, there: int, passed: int) -> UserError:
    some = f", {passed} of them no chats that this template can show" if passed else ""
    return UserError(
        f"{wanted} rows needed for {arguments.general_ratio:g}:1, {there} are there{some}",
        where=arguments.general_data or "",
        fix="Raise --general_ratio.",
    )


def _general_chat(
    tokenizer: PreTrainedTokenizerBase,
    chat: Sequence[Message],
    limit: int | None,
    settings: chats.Settings | None,
) -> Encoded | None:
    """Return a chat as tokens, cut at `limit`; None if it cannot be shown or nothing is learned."""
    try:
        encoded = encode_chat(tokenizer, chat, settings)
    except (UserError, TypeError, ValueError, KeyError, AttributeError):  # what templates object to
        return None
    # General chats have no length we promised to keep: cut, as everywhere else.
    cut = {name: values[:limit] for name, values in encoded.items()}
    return cut if any(label != IGNORED for label in cut["labels"]) else None


def label_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the token id of each option label; see `chat.label_ids`."""
    return dict(zip(LABELS, chats.label_ids(tokenizer), strict=True))


def encode_label(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    label_id: int,
    settings: chats.Settings | None = None,
) -> Encoded:
    """Return `input_ids` that end in the label token, and `labels` that ignore all others."""
    text = chats.scored_text(chats.chat_text(tokenizer, prompt, **(settings or {})), "")
    before = chats.token_ids(tokenizer, text)
    return {"input_ids": [*before, label_id], "labels": [IGNORED] * len(before) + [label_id]}


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    chat: Sequence[Message],
    settings: chats.Settings | None = None,
) -> Encoded:
    """Return `input_ids` of a chat and `labels` that keep the assistant's turns alone.

    A turn's labels run through its end-of-turn token; what the template writes around turns is
    ignored. No `{% generation %}` mark is needed in the template. The last turn stands after what
    inference shows, to the token.

    Raises:
        UserError: if the template refuses the chat, or shows its beginning otherwise once it has
            been answered.
    """
    given = dict(settings or {})
    *before, last = chat
    asked = last["role"] == "assistant" and any(turn["role"] != "system" for turn in before)
    if not asked:
        text = chats.chat_text(tokenizer, chat, prompt=False, **given)
        return _masked(tokenizer, text, chats.token_ids(tokenizer, text), chat, given)
    text, _ = chats.answered(tokenizer, before, last, **given)
    prompt, answer_ids = chats.answered_ids(tokenizer, before, last, **given)
    earlier = _masked(tokenizer, text, prompt, before, given)
    return {
        "input_ids": prompt + answer_ids,
        "labels": earlier["labels"] + answer_ids,
    }


def _masked(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: list[int],
    chat: Sequence[Message],
    settings: Mapping[str, Any],
) -> Encoded:
    """Return the tokens of a rendered chat with labels on the assistant's turns in it.

    Raises:
        UserError: if a turn does not stand where the chat before it ends.
    """
    labels = [IGNORED] * len(ids)
    if any(turn["role"] == "assistant" for turn in chat):
        end = chats.end_of_turn(tokenizer, **settings)
        shown = chats.merged(tokenizer, chat, **settings)
        for index, turn in enumerate(shown):
            if turn["role"] == "assistant":
                start, stop = chats.turn_in(tokenizer, text, shown[: index + 1], end, settings)
                first = _shared(ids, chats.token_ids(tokenizer, text[:start]))
                after = _shared(ids, chats.token_ids(tokenizer, text[:stop]))
                labels[first:after] = ids[first:after]
    return {"input_ids": ids, "labels": labels}


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def encode(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    stage: str,
    settings: chats.Settings | None = None,
) -> Dataset:
    """Tokenize an SFT view into `input_ids` and `labels`.

    Raises:
        UserError: if `stage` is direct and a label is not one token.
    """
    label_ids = label_tokens(tokenizer) if stage == "direct" else None
    return rows.map(
        _encode_row,
        fn_kwargs={"tokenizer": tokenizer, "label_ids": label_ids, "settings": settings},
        remove_columns=rows.column_names,
        desc="Tokenizing",
    )


def _encode_row(
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    label_ids: dict[str, int] | None,
    settings: chats.Settings | None,
) -> dict[str, list[int]]:
    if label_ids is None:
        return encode_chat(tokenizer, [*row["prompt"], *row["completion"]], settings)
    label = row["completion"][0]["content"].removeprefix(LABEL_PREFIX)[0]
    return encode_label(tokenizer, row["prompt"], label_ids[label], settings)


def lengths(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: chats.Settings | None = None
) -> list[int]:
    """Return the number of tokens of each row; of a pair, that of its longer side."""
    if "input_ids" in rows.column_names:
        batches = rows.select_columns(["input_ids"]).with_format("arrow").iter(1000)
        return [n for b in batches for n in pc.list_value_length(b["input_ids"]).to_pylist()]
    given = dict(settings or {})
    return [_length(row, tokenizer, given) for row in rows]


def _length(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any]
) -> int:
    if "chosen" not in row:
        return chats.count_tokens(tokenizer, row["prompt"], **settings)
    both = [
        chats.answered_ids(tokenizer, row["prompt"], row[side][-1], **settings)
        for side in ("chosen", "rejected")
    ]
    return max(len(before) + len(completion) for before, completion in both)


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

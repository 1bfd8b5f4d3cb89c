"""Prove the guarantees of scenes and pairs on any built or downloaded dataset.

Each check returns a `Finding`: what is promised, whether it holds, and the number behind it. Cues
(popularity, position, length, nearness) are reported, not judged: each is the accuracy of a guess
that reads nothing but that cue, to be held against a model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import (
    CONTEXT_TOKENS,
    LABELS,
    ORIGINS,
    PREFERENCE,
    SCENE,
    assert_schema,
)
from usermirrorer.builders.common.storage import read_table
from usermirrorer.builders.common.text import clean
from usermirrorer.builders.decisions.prompts import LABEL_PREFIX, Mode, messages, parse

#: A uniform position fails this test once in a thousand datasets.
_SIGNIFICANCE = 1e-3
Row = dict[str, Any]


class Finding(NamedTuple):
    """One promise: `ok` is None for cues, which are told but not judged."""

    promise: str
    ok: bool | None
    detail: str


def validate(
    scenes: dict[str, pa.Table],
    pairs: pa.Table | None = None,
    tokens: Callable[[str], int] | None = None,
) -> list[Finding]:
    """Check scenes by split (`train`, `test`) and, if given, preference pairs.

    Args:
        scenes: Tables of schema `SCENE`.
        pairs: Table of schema `PREFERENCE`.
        tokens: Number of tokens of a text; without it the length of prompts is only bounded.
    """
    findings = [_schema(f"scenes, {split}", table, SCENE) for split, table in scenes.items()]
    if pairs is not None:
        findings.append(_schema("preference pairs", pairs, PREFERENCE))
    if not all(finding.ok for finding in findings):
        return findings
    rows = {split: table.to_pylist() for split, table in scenes.items()}
    findings.append(_users(rows))
    for split, found in rows.items():
        findings += [
            Finding(f"{split}: {promise}", *_told(check(found))) for promise, check in _SCENE_CHECKS
        ]
        findings += [_position(split, found), _lengths(split, found, tokens)]
    findings.append(_splits(rows))
    if "test" in rows:
        findings += _cues(rows["test"])
    if pairs is not None:
        findings += _pair_checks(pairs.to_pylist(), rows)
    return findings


def _schema(name: str, table: pa.Table, expected: pa.Schema) -> Finding:
    try:
        assert_schema(table.schema, expected)
    except ValueError as error:
        return Finding(f"{name}: columns as documented", False, str(error))
    empty = table.num_rows == 0
    return Finding(f"{name}: columns as documented", not empty, f"{table.num_rows:,} rows")


def _told(bad: list[str]) -> tuple[bool, str]:
    return not bad, f"{len(bad):,} break it, first: {bad[0]}" if bad else "all"


def _users(rows: dict[str, list[Row]]) -> Finding:
    users = {split: {(r["source"], r["user_id"]) for r in found} for split, found in rows.items()}
    both = users.get("train", set()) & users.get("test", set())
    detail = f"{len(both)} users in both" + (f", e.g. {sorted(both)[0]}" if both else "")
    return Finding("no user is in train and test", not both, detail)


def _splits(rows: dict[str, list[Row]]) -> Finding:
    counts = Counter(
        (row["source"], row["user_id"], row["item_id"], row["timestamp"])
        for found in rows.values()
        for row in found
    )
    twice = [behavior for behavior, count in counts.items() if count > 1]
    detail = f"{len(twice)} behaviors in several" + (f", e.g. {twice[0][:3]}" if twice else "")
    return Finding("no behavior makes two scenes", not twice, detail)


def _lengths(split: str, rows: list[Row], tokens: Callable[[str], int] | None) -> Finding:
    """Check the cap by a tokenizer; without one by bounds: a word is at least, a byte at most one.

    The bounds hold for tokenizers that split at spaces and fall back on bytes.
    """
    promise = f"{split}: prompts have at most {CONTEXT_TOKENS:,} tokens"
    texts = ["\n".join(m["content"] for m in messages(row)) for row in rows if _promptable(row)]
    if tokens:
        longest = max(map(tokens, texts), default=0)
        return Finding(promise, longest <= CONTEXT_TOKENS, f"the longest has {longest:,}")
    words = max((len(text.split()) for text in texts), default=0)
    size = max((len(text.encode()) for text in texts), default=0)
    if words > CONTEXT_TOKENS or size <= CONTEXT_TOKENS:
        return Finding(promise, size <= CONTEXT_TOKENS, f"{words:,} words, {size:,} bytes at most")
    detail = f"between {words:,} and {size:,}: name a --tokenizer to know"
    return Finding(promise, None, detail)


def _promptable(row: Row) -> bool:
    return 2 <= len(row["exposure"]) <= len(LABELS)


def _bad(rows: Sequence[Row], test: Callable[[Row], bool]) -> list[str]:
    return [row["scene_id"] for row in rows if test(row)]


def _duplicates(rows: list[Row]) -> list[str]:
    counts = Counter(row["scene_id"] for row in rows)
    return _bad(rows, lambda row: counts[row["scene_id"]] > 1)


def _lengths_differ(row: Row) -> bool:
    options = ("exposure_item_ids", "exposure_origin", "exposure_popularity", "history_similarity")
    history = ("history", "history_item_ids", "history_timestamps")
    sizes = [{len(row[name]) for name in group} for group in (("exposure", *options), history)]
    return any(len(size) != 1 for size in sizes)


def _target_misplaced(row: Row) -> bool:
    if not 0 <= row["answer"] < len(row["exposure"]):
        return True
    target = [i for i, origin in enumerate(row["exposure_origin"]) if origin == "target"]
    return target != [row["answer"]] or row["exposure_item_ids"][row["answer"]] != row["item_id"]


def _unclean(row: Row) -> bool:
    lines = [*row["history"], *row["exposure"], *row["profile"].splitlines()]
    return any(clean(line) != line or LABEL_PREFIX in line for line in lines)


_SCENE_CHECKS: tuple[tuple[str, Callable[[list[Row]], list[str]]], ...] = (
    ("scene ids are unique", _duplicates),
    ("2 to 13 options", lambda rows: _bad(rows, lambda r: not 2 <= len(r["exposure"]) <= 13)),
    (
        "one entry per option, and per line of history, in every list",
        lambda rows: _bad(rows, _lengths_differ),
    ),
    (
        "the answer is the label of an option",
        lambda rows: _bad(rows, lambda r: not 0 <= r["answer"] < len(r["exposure"])),
    ),
    ("the answer is the target, once", lambda rows: _bad(rows, _target_misplaced)),
    (
        "no two options read the same",
        lambda rows: _bad(
            rows, lambda r: len({t.lower() for t in r["exposure"]}) < len(r["exposure"])
        ),
    ),
    (
        "origins are known",
        lambda rows: _bad(rows, lambda r: not {*r["exposure_origin"]} <= {*ORIGINS}),
    ),
    ("no option is in the shown history", lambda rows: _bad(rows, _shown_before)),
    ("history lies before the scene, oldest first", lambda rows: _bad(rows, _leaks_time)),
    (
        "synthetic options were seen by others before the scene",
        lambda rows: _bad(rows, _unseen_option),
    ),
    ("texts cannot pass for prompt structure", lambda rows: _bad(rows, _unclean)),
)


def _shown_before(row: Row) -> bool:
    """Whether an option was interacted with before; logged lists may well repeat an item."""
    if row["real_exposure"]:
        return False
    return bool(set(row["exposure_item_ids"]) & set(row["history_item_ids"]))


def _leaks_time(row: Row) -> bool:
    times = row["history_timestamps"]
    return any(time >= row["timestamp"] for time in times) or times != sorted(times)


def _unseen_option(row: Row) -> bool:
    if row["real_exposure"]:
        return False
    # Lists of unequal length are found by their own check.
    options = zip(row["exposure_origin"], row["exposure_popularity"], strict=False)
    return any(origin != "target" and count < 1 for origin, count in options)


def _position(split: str, rows: list[Row]) -> Finding:
    """Chi-square test that the target's position is uniform, pooled over numbers of options."""
    statistic, freedom = 0.0, 0
    rows = [row for row in rows if 0 <= row["answer"] < len(row["exposure"])]
    sizes = np.array([len(row["exposure"]) for row in rows])
    answers = np.array([row["answer"] for row in rows])
    for size in np.unique(sizes):
        counts = np.bincount(answers[sizes == size], minlength=size)[:size]
        expected = counts.sum() / size
        if expected >= 1:
            statistic += float(((counts - expected) ** 2 / expected).sum())
            freedom += size - 1
    p = float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0
    detail = f"chi-square p = {p:.3g}" if freedom else "too few scenes to test"
    return Finding(
        f"{split}: every position of the target is as likely", p >= _SIGNIFICANCE, detail
    )


def _cues(rows: list[Row]) -> list[Finding]:
    chance = float(np.mean([1 / len(row["exposure"]) for row in rows]))
    cues: dict[str, Callable[[Row], Sequence[float]]] = {
        "most popular": lambda r: r["exposure_popularity"],
        "least popular": lambda r: [-p for p in r["exposure_popularity"]],
        "nearest to the history": lambda r: r["history_similarity"],
        "longest text": lambda r: [len(t) for t in r["exposure"]],
        "shortest text": lambda r: [-len(t) for t in r["exposure"]],
        "first": lambda r: [-i for i in range(len(r["exposure"]))],
        "last": lambda r: list(range(len(r["exposure"]))),
    }
    findings = []
    for name, cue in cues.items():
        hits = [top_choice(cue(row), row["answer"], len(row["exposure"])) for row in rows]
        error = 1.96 * float(np.std(hits)) / len(hits) ** 0.5
        detail = f"{100 * np.mean(hits):.1f} % ± {100 * error:.1f} (chance {100 * chance:.1f} %)"
        findings.append(Finding(f"cue: {name}", None, detail))
    return findings


def _pair_checks(pairs: list[Row], scenes: dict[str, list[Row]]) -> list[Finding]:
    answers = {r["scene_id"]: r["answer"] for r in scenes.get("train", [])}
    test = {r["scene_id"] for r in scenes.get("test", [])}

    def wrong_label(row: Row) -> bool:
        known = answers.get(row["scene_id"])
        return (known is not None and row["chosen_behavior"] != LABELS[known]) or row[
            "chosen_behavior"
        ] == row["rejected_behavior"]

    def misread(row: Row) -> bool:
        for side in ("chosen", "rejected"):
            text = row[side][-1]["content"]
            # Pairs without decision processes (strategy random_direct) hold the label alone.
            mode: Mode = "direct" if text.startswith(LABEL_PREFIX) else "decision"
            found = parse(text, row["options"], mode)
            if found.malformed or LABELS[found.behavior or 0] != row[f"{side}_behavior"]:
                return True
        return False

    def wrong_delta(row: Row) -> bool:
        told = row["epistemic_weak"] - row["epistemic_strong"]
        return abs(told - row["epistemic_delta"]) > 1e-4

    def impossible(row: Row) -> bool:
        names = ("chosen_entropy", "rejected_entropy", "epistemic_weak", "epistemic_strong")
        return any(not -1e-6 <= row[n] <= np.log2(row["options"]) + 1e-4 for n in names)

    checks: dict[str, Callable[[Row], bool]] = {
        "chosen is the real behavior, rejected is not": wrong_label,
        "both texts parse to their own behavior": misread,
        "difference of uncertainty is weak minus strong": wrong_delta,
        "entropies lie between 0 and log2 of the options": impossible,
        "no pair comes from a test scene": lambda row: row["scene_id"] in test,
    }
    return [Finding(f"pairs: {name}", *_told(_bad(pairs, test_))) for name, test_ in checks.items()]


def token_count(model: str) -> Callable[[str], int]:
    """Return a function that counts tokens as a model's tokenizer does.

    Raises:
        UserError: if there is no such tokenizer.
    """
    from usermirrorer.builders.common import assets
    from usermirrorer.builders.common.models import load_tokenizer

    tokenizer = load_tokenizer(assets.resolve_model(model), chat=False)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def load(target: str, revision: str | None = None) -> tuple[dict[str, pa.Table], pa.Table | None]:
    """Read scenes and pairs from a Parquet file, a release folder or a Hub repository.

    Raises:
        UserError: if nothing of the kind is there.
    """
    path = Path(target)
    if path.is_file():
        return {path.stem: read_table(path)}, None
    if path.is_dir():
        return _load_folder(path)
    from datasets import load_dataset

    try:
        scenes = load_dataset(target, "scenes", revision=revision)
        pairs = load_dataset(target, "preference", split="train", revision=revision)
    except (FileNotFoundError, ValueError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"is no file, folder or dataset: {reason}", where=target) from error
    tables = {split: _arrow(rows, SCENE) for split, rows in scenes.items()}
    return tables, _arrow(pairs, PREFERENCE)


def _arrow(rows: Any, schema: pa.Schema) -> pa.Table:
    table = rows.with_format("arrow")[:]
    known = [field for field in schema if field.name in table.column_names]
    return pa.table({f.name: table[f.name].cast(f.type) for f in known})


def _load_folder(path: Path) -> tuple[dict[str, pa.Table], pa.Table | None]:
    scenes: dict[str, pa.Table] = {}
    for split in ("train", "test"):
        files = [*sorted(path.glob(f"{split}.parquet"))]
        files += sorted(path.glob(f"data/scenes/**/{split}-*.parquet"))
        if files:
            scenes[split] = pa.concat_tables([read_table(file) for file in files])
    pairs = sorted(path.glob("data/preference/**/*.parquet"))
    if not scenes:
        raise UserError("holds no scenes", where=path, fix="Give a release folder or scene files.")
    return scenes, pa.concat_tables([read_table(file) for file in pairs]) if pairs else None

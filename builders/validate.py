"""Prove the guarantees of scenes and pairs on any built or downloaded dataset.

Each check returns a `Finding`: what is promised, whether it holds, and the number behind it. Cues
(popularity, position, length, nearness) are reported, not judged: each is the accuracy of a guess
that reads nothing but that cue, to be held against a model's. What they and a learner find in
scenes that are nobody's is judged by `audit/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import stats

from usermirrorer.builders.audit.cues import cues
from usermirrorer.builders.audit.estimates import Estimate, accuracy
from usermirrorer.builders.audit.lists import make_lists
from usermirrorer.builders.audit.load import placebo_beside
from usermirrorer.builders.common import published
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import (
    CONTEXT_TOKENS,
    EXPOSURE_MODES,
    LABELS,
    OPTION_FEATURES,
    ORIGINS,
    PREFERENCE,
    SCENE,
    SCENE_OPTIONS,
    assert_schema,
)
from usermirrorer.builders.common.storage import read_table
from usermirrorer.builders.common.text import clean, skeleton
from usermirrorer.builders.decisions.prompts import LABEL_PREFIX, Mode, messages, parse

#: A uniform position fails this test once in a thousand datasets.
_SIGNIFICANCE = 1e-3
#: Begins the name of a split of placebo scenes: `placebo_test`.
PLACEBO = "placebo_"
#: Cues that are told without an audit.
_TOLD = (
    "most popular",
    "least popular",
    "nearest to the history",
    "longest text",
    "shortest text",
    "first option",
    "last option",
)
#: Reasons and cues of an audit that are told of each source; all are in its JSON.
_REASONS, _CUES = 3, 5
Row = dict[str, Any]
Tables = dict[str, pa.Table]


class Finding(NamedTuple):
    """One promise: `ok` is None for what is told but not judged."""

    promise: str
    ok: bool | None
    detail: str


def validate(
    scenes: Mapping[str, pa.Table],
    pairs: pa.Table | None = None,
    tokens: Callable[[str], int] | None = None,
) -> list[Finding]:
    """Check scenes by split and, if given, preference pairs.

    Args:
        scenes: Tables of schema `SCENE`: `train`, `test`, and of placebo scenes `placebo_train`,
            `placebo_test`.
        pairs: Table of schema `PREFERENCE`.
        tokens: Number of tokens of a text; without it the length of prompts is only bounded.
    """
    findings = [check_schema(f"scenes, {split}", table, SCENE) for split, table in scenes.items()]
    if pairs is not None:
        findings.append(check_schema("preference pairs", pairs, PREFERENCE))
    if not all(finding.ok for finding in findings):
        return findings
    frames = {split: pl.DataFrame(table.select(_CHECKED)) for split, table in scenes.items()}
    findings.append(_users(frames))
    for split, frame in frames.items():
        findings += [
            Finding(f"{split}: {promise}", *_held(frame, bad)) for promise, bad in _SCENE_CHECKS
        ]
        findings += [_clean_texts(split, frame), _position(split, frame)]
        if split.startswith(PLACEBO):
            findings.append(_beside(split, frame, frames.get(split.removeprefix(PLACEBO))))
        else:
            findings.append(_lengths(split, scenes[split], tokens))
    findings.append(_splits(frames))
    if "test" in scenes:
        findings += _cues(scenes["test"])
    if pairs is not None:
        answers = {s: frame for s, frame in frames.items() if not s.startswith(PLACEBO)}
        findings += pair_checks(pairs.to_pylist(), answers)
    return findings


def apart(scenes: Mapping[str, pa.Table]) -> tuple[Tables, Tables]:
    """Return scenes and placebo scenes, each by `train` and `test`."""
    placebo = {s.removeprefix(PLACEBO): t for s, t in scenes.items() if s.startswith(PLACEBO)}
    return {s: t for s, t in scenes.items() if not s.startswith(PLACEBO)}, placebo


def check_schema(
    name: str, table: pa.Table, expected: pa.Schema, rows: int | None = None
) -> Finding:
    """Check columns and missing values.

    Args:
        name: Of what it is.
        table: Of plain types, see `arrow.conform`.
        expected: The columns that it should have.
        rows: Of the file, where `table` has its columns alone.
    """
    rows = table.num_rows if rows is None else rows
    try:
        assert_schema(table.schema, expected)
    except ValueError as error:
        return Finding(f"{name}: columns as documented", False, str(error))
    gaps = [f.name for f in expected if not f.nullable and table[f.name].null_count]
    detail = f"{rows:,} rows" + (f", missing values of {', '.join(gaps)}" if gaps else "")
    return Finding(f"{name}: columns as documented", rows > 0 and not gaps, detail)


def _held(frame: pl.DataFrame, bad: pl.Expr) -> tuple[bool, str]:
    """Say whether no scene is bad; what cannot be computed is."""
    ids = frame.filter(bad.fill_null(True))["scene_id"]
    return not len(ids), f"{len(ids):,} break it, first: {ids[0]}" if len(ids) else "all"


def _users(frames: dict[str, pl.DataFrame]) -> Finding:
    users: dict[str, list[pl.DataFrame]] = {"train": [], "test": []}
    for split, frame in frames.items():
        users.setdefault(split.removeprefix(PLACEBO), []).append(frame["source", "user_id"])
    if users["train"] and users["test"]:
        both = pl.concat(users["train"]).join(
            pl.concat(users["test"]), on=["source", "user_id"], how="semi"
        )
        names = sorted(both.unique().rows())
    else:
        names = []
    detail = f"{len(names)} users in both" + (f", e.g. {names[0]}" if names else "")
    return Finding("no user is in train and test", not names, detail)


def _splits(frames: dict[str, pl.DataFrame]) -> Finding:
    behavior = ["source", "user_id", "item_id", "timestamp"]
    # Placebos are no behaviors: two scenes may be given the same meaningless target.
    real = (frame for name, frame in frames.items() if not name.startswith("placebo"))
    together = pl.concat(frame.select(behavior) for frame in real)
    twice = together.filter(together.is_duplicated()).unique().sort(behavior).rows()
    detail = f"{len(twice)} behaviors in several" + (f", e.g. {twice[0][:3]}" if twice else "")
    return Finding("no behavior makes two scenes", not twice, detail)


def _beside(split: str, frame: pl.DataFrame, real: pl.DataFrame | None) -> Finding:
    """Check that placebos stand beside scenes of the same person at the same time."""
    promise = f"{split}: each is of a scene's user and time, for another item"
    if real is None:
        return Finding(promise, False, "there are no scenes beside them")
    joined = frame.join(real, on="scene_id", how="left", suffix="_real")
    same = pl.all_horizontal(pl.col(n) == pl.col(f"{n}_real") for n in ("user_id", "timestamp"))
    return Finding(promise, *_held(joined, ~(same & (pl.col("item_id") != pl.col("item_id_real")))))


def _lengths(split: str, table: pa.Table, tokens: Callable[[str], int] | None) -> Finding:
    """Check the cap by a tokenizer; without one by bounds: a word is at least, a byte at most one.

    The bounds hold for tokenizers that split at spaces and fall back on bytes.
    """
    promise = f"{split}: prompts have at most {CONTEXT_TOKENS:,} tokens"
    longest = words = size = 0
    for batch in table.select(["profile", "history", "exposure"]).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            if not 2 <= len(row["exposure"]) <= SCENE_OPTIONS:
                continue
            text = "\n".join(message["content"] for message in messages(row))
            longest = max(longest, tokens(text) if tokens else 0)
            words, size = max(words, len(text.split())), max(size, len(text.encode()))
    if tokens:
        return Finding(promise, longest <= CONTEXT_TOKENS, f"the longest has {longest:,}")
    if words > CONTEXT_TOKENS or size <= CONTEXT_TOKENS:
        return Finding(promise, size <= CONTEXT_TOKENS, f"{words:,} words, {size:,} bytes at most")
    detail = f"between {words:,} and {size:,}: name a --tokenizer to know"
    return Finding(promise, None, detail)


def _of_target(column: str) -> pl.Expr:
    """Return what the target has in a column of lists, null outside."""
    answer = pl.col("answer").cast(pl.Int64)
    return pl.col(column).list.get(pl.when(answer >= 0).then(answer), null_on_oob=True)


def _look_alike(exposures: pl.Series) -> pl.Series:
    """Say which exposures have options that look alike, or differ in letter case alone."""
    rows = [[option or "" for option in row] for row in exposures.fill_null([]).to_list()]
    keys = (lambda text: text.lower(), skeleton)
    return pl.Series([any(len({*map(key, row)}) < len(row) for key in keys) for row in rows])


_OPTIONS = pl.col("exposure").list.len()
_HISTORY = pl.col("history").list.len()
_LISTS = ("exposure_item_ids", "exposure_origin", *OPTION_FEATURES)
_MOMENTS = pl.col("history_timestamps")
#: Promise -> the scenes that break it.
_SCENE_CHECKS: tuple[tuple[str, pl.Expr], ...] = (
    ("scene ids are unique", pl.col("scene_id").is_duplicated()),
    ("2 to 13 options", ~_OPTIONS.is_between(2, SCENE_OPTIONS)),
    (
        "one entry per option, and per line of history, in every list",
        pl.any_horizontal(
            *(pl.col(name).list.len() != _OPTIONS for name in _LISTS),
            *(
                pl.col(f"history_{name}").list.len() != _HISTORY
                for name in ("item_ids", "timestamps")
            ),
        ),
    ),
    (
        "the answer is the label of an option",
        (pl.col("answer") < 0) | (pl.col("answer") >= _OPTIONS),
    ),
    (
        "the answer is the target, once",
        (pl.col("exposure_origin").list.count_matches("target") != 1)
        | (_of_target("exposure_origin") != "target")
        | (_of_target("exposure_item_ids") != pl.col("item_id")),
    ),
    (
        "no two options read the same",
        pl.col("exposure").map_batches(_look_alike, return_dtype=pl.Boolean),
    ),
    (
        "origins are known",
        ~pl.col("exposure_origin").list.eval(pl.element().is_in(ORIGINS)).list.all(),
    ),
    (
        "exposures are logged where the source logged them, and else made in a known mode",
        ~pl.col("exposure_mode").is_in(EXPOSURE_MODES)
        | ((pl.col("exposure_mode") == "logged") != pl.col("real_exposure")),
    ),
    (
        # Logged lists may well repeat an item.
        "no option is in the shown history",
        ~pl.col("real_exposure")
        & (
            pl.col("exposure_item_ids")
            .list.set_intersection(pl.col("history_item_ids"))
            .list.len()
            .gt(0)
        ),
    ),
    (
        "history lies before the scene, oldest first",
        (_MOMENTS.list.max() >= pl.col("timestamp")).fill_null(False)
        | (_MOMENTS.list.sort() != _MOMENTS),
    ),
    (
        "the gap is the time since the last line of history",
        pl.col("history_gap").ne_missing(
            (pl.col("timestamp") - _MOMENTS.list.last()).dt.total_seconds()
        ),
    ),
    (
        # The target as well: one rule for all options, or what breaks it marks the target.
        "synthetic options were seen by others before the scene",
        ~pl.col("real_exposure") & (pl.col("exposure_popularity").list.min() < 1),
    ),
)
_CHECKED = [
    "scene_id",
    "source",
    "user_id",
    "item_id",
    "timestamp",
    "profile",
    "history",
    "history_item_ids",
    "history_timestamps",
    "history_gap",
    "exposure",
    *_LISTS,
    "answer",
    "exposure_mode",
    "real_exposure",
]


def _clean_texts(split: str, frame: pl.DataFrame) -> Finding:
    texts = pl.col("profile").str.split("\n"), pl.col("history"), pl.col("exposure")
    lines = frame.select("scene_id", line=pl.concat_list(*texts)).explode("line").drop_nulls()
    unique = lines["line"].unique(maintain_order=True).to_list()
    unclean = [line for line in unique if clean(line) != line or LABEL_PREFIX in line]
    bad = pl.col("scene_id").is_in(
        lines.filter(pl.col("line").is_in(unclean))["scene_id"].to_list()
    )
    return Finding(f"{split}: texts cannot pass for prompt structure", *_held(frame, bad))


def _position(split: str, frame: pl.DataFrame) -> Finding:
    """Chi-square test that the target's position is uniform, pooled over numbers of options."""
    statistic, freedom = 0.0, 0
    sizes = frame["exposure"].list.len().to_numpy().astype(np.int64)
    answers = frame["answer"].to_numpy().astype(np.int64)
    inside = (answers >= 0) & (answers < sizes)
    sizes, answers = sizes[inside], answers[inside]
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


def _cues(test: pa.Table) -> list[Finding]:
    lists = make_lists(test)
    if not len(lists):
        return []
    places = lists.position.astype(float)
    guesses = cues(lists, [], np.empty((len(places), 0), bool))
    guesses |= {"first option": -places, "last option": places}
    chance = 100 * float(lists.chance.mean())
    findings = []
    for name in _TOLD:
        right = accuracy(lists.hits(guesses[name]), lists.user, lists.item)
        detail = f"{_percent(right)} (chance {chance:.1f} %)"
        findings.append(Finding(f"cue: {name}", None, detail))
    return findings


def audited(report: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict of an audit on each source, and what is behind it.

    Args:
        report: Of `audit.report.audit`; it has further cues than the few that are told here.
    """
    findings = []
    for source, told in report["sources"].items():
        promise = f"audit, {source}: nothing but the person tells the target"
        ok = {"holds": True, "tells": False}.get(told["verdict"])
        findings.append(Finding(promise, ok, "; ".join(told["why"][:_REASONS])))
        guesses = [(name, "baselines", "placebo") for name in told["baselines"]]
        guesses += [(name, "cues", "placebo_cues") for name in _strongest(told)]
        for name, real, placebo in guesses:
            kind = "cue: " if real == "cues" else ""
            detail = f"real {_percent(Estimate(**told[real][name]))}"
            if name in told[placebo]:
                detail += f"; placebo {_percent(Estimate(**told[placebo][name]))}"
            findings.append(Finding(f"audit, {source}: {kind}{name}", None, detail))
    return findings


def _strongest(told: Mapping[str, Any]) -> list[str]:
    """Return the cues that find the placebo most often, or where there is none the target."""
    values = told["placebo_cues"] or told["cues"]
    return sorted(values, key=lambda name: -values[name]["value"])[:_CUES]


def _percent(estimate: Estimate) -> str:
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.1f} %, {low:.1f} to {high:.1f}"


def pair_checks(pairs: list[Row], scenes: Mapping[str, pl.DataFrame]) -> list[Finding]:
    """Check preference pairs.

    Args:
        pairs: Rows of schema `PREFERENCE`.
        scenes: By split; of `train`, `scene_id`, `source`, `answer` and `exposure_origin` are read.
    """
    if bad := [row["scene_id"] for row in pairs if not _are_turns(row)]:
        return [_of_pairs("prompt, chosen and rejected are turns of a conversation", bad)]
    train = scenes.get("train", pl.DataFrame(schema=dict.fromkeys(_OF_SCENE, pl.Null)))
    answers = {row[0]: row[1:] for row in train.select(_OF_SCENE).iter_rows()}
    test = set(scenes["test"]["scene_id"]) if "test" in scenes else set()
    often = Counter(row["scene_id"] for row in pairs)

    def strange(row: Row) -> bool:
        answer, origins, source = answers.get(row["scene_id"], (None, None, None))
        return answer is None or (len(origins), source) != (row["options"], row["source"])

    def wrong_label(row: Row) -> bool:
        known = answers.get(row["scene_id"])
        return (known is not None and row["chosen_behavior"] != LABELS[known[0]]) or row[
            "chosen_behavior"
        ] == row["rejected_behavior"]

    checks: dict[str, Callable[[Row], bool]] = {
        "chosen is the real behavior, rejected is not": wrong_label,
        "both texts parse to their own behavior": _misread,
        "difference of uncertainty is weak minus strong": _wrong_delta,
        "entropies lie between 0 and log2 of the options": _impossible,
        "no pair comes from a test scene": lambda row: row["scene_id"] in test,
        "no scene makes two pairs": lambda row: often[row["scene_id"]] > 1,
    }
    if answers:
        checks["each is of a train scene, with its options and source"] = strange
    return [
        _of_pairs(name, [r["scene_id"] for r in pairs if bad(r)]) for name, bad in checks.items()
    ]


def _misread(row: Row) -> bool:
    for side in ("chosen", "rejected"):
        text = row[side][-1]["content"]
        # Pairs without decision processes (strategy random_direct) hold the label alone.
        mode: Mode = "direct" if text.startswith(LABEL_PREFIX) else "decision"
        decision = parse(text, row["options"], mode)
        if decision.malformed or LABELS[decision.behavior or 0] != row[f"{side}_behavior"]:
            return True
    return False


def _wrong_delta(row: Row) -> bool:
    told = row["epistemic_weak"] - row["epistemic_strong"]
    return abs(told - row["epistemic_delta"]) > 1e-4


def _impossible(row: Row) -> bool:
    names = ("chosen_entropy", "rejected_entropy", "epistemic_weak", "epistemic_strong")
    most = np.log2(max(row["options"], 1)) + 1e-4
    return any(not -1e-6 <= row[n] <= most for n in names)


_OF_SCENE = ("scene_id", "answer", "exposure_origin", "source")


def _are_turns(row: Row) -> bool:
    return all(
        row[name] and all(turn and turn["role"] and turn["content"] for turn in row[name])
        for name in ("prompt", "chosen", "rejected")
    )


def _of_pairs(promise: str, bad: list[str]) -> Finding:
    detail = f"{len(bad):,} break it, first: {bad[0]}" if bad else "all"
    return Finding(f"pairs: {promise}", not bad, detail)


def token_count(model: str) -> Callable[[str], int]:
    """Return a function that counts tokens as a model's tokenizer does.

    Raises:
        UserError: if there is no such tokenizer.
    """
    from usermirrorer.builders.common import assets
    from usermirrorer.builders.common.models import load_tokenizer

    tokenizer = load_tokenizer(assets.resolve_model(model), chat=False)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def commit(target: str, revision: str | None = None) -> str:
    """Return the commit of a repository's revision, "" of a file or folder.

    Raises:
        UserError: if there is neither file, folder nor repository of that name and revision.
    """
    return "" if Path(target).exists() else published.commit_of(target, revision)


def load(target: str, commit: str = "") -> tuple[Tables, pa.Table | None]:
    """Read scenes, their placebos and pairs from a Parquet file, a folder or a Hub repository.

    Args:
        target: File of scenes, folder of `usermirrorer scenes`, release folder or repository.
        commit: Of a repository, from `commit`.

    Returns:
        Scenes by split (`train`, `test`, `placebo_train`, `placebo_test`: those that are there; of
        a file its name), and pairs.

    Raises:
        UserError: if nothing of the kind is there.
    """
    path = Path(target)
    if path.is_file():
        files = {path.stem: path}
        files |= {PLACEBO + split: file for split, file in placebo_beside(files).items()}
        return {split: read_table(file, expected=SCENE) for split, file in files.items()}, None
    if path.is_dir():
        return _load_folder(path)
    there = published.configurations(target, commit)
    scenes = dict(published.read_rows(target, "scenes", commit=commit))
    if "placebo" in there:
        placebo = dict(published.read_rows(target, "placebo", commit=commit))
        scenes |= {PLACEBO + split: rows for split, rows in placebo.items()}
    tables = {split: _arrow(rows, SCENE) for split, rows in scenes.items()}
    if "preference" not in there:
        return tables, None
    pairs = published.read_rows(target, "preference", "train", commit)
    return tables, _arrow(pairs, PREFERENCE)


def _arrow(rows: Any, schema: pa.Schema) -> pa.Table:
    table = conform(rows.with_format("arrow")[:], schema)
    return table.select([name for name in schema.names if name in table.column_names])


def _load_folder(path: Path) -> tuple[Tables, pa.Table | None]:
    scenes: Tables = {}
    for prefix, table in (("", "scenes"), (PLACEBO, "placebo")):
        for split in ("train", "test"):
            files = [*sorted(path.glob(f"{prefix}{split}.parquet"))]
            files += sorted(path.glob(f"data/{table}/**/{split}-*.parquet"))
            if files:
                scenes[prefix + split] = _read(files, SCENE)
    pairs = sorted(path.glob("data/preference/**/*.parquet"))
    if not apart(scenes)[0]:
        raise UserError("holds no scenes", where=path, fix="Give a release folder or scene files.")
    return scenes, _read(pairs, PREFERENCE) if pairs else None


def _read(files: list[Path], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([read_table(file, expected=schema) for file in files])

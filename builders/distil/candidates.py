"""Scenes with the decisions of a weak and a strong model, and what can be distilled from them.

Everything up to the choice of scenes works on columns of numbers; texts are read once, in blocks,
and only those of the chosen scenes are kept (section 3.2, appendix B.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from usermirrorer.builders.common import scene_rows, storage
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import DECISION, SCENE, assert_schema
from usermirrorer.builders.decisions.uncertainty import Uncertainty, decompose, delta

Row = dict[str, Any]

BLOCK_ROWS = 4096  # rows of text in memory at a time
#: Why a scene allows no pair.
NO_DECISION = "without a well-formed decision of both models"
NEVER = "never matched by the strong model (likely noise)"
ALWAYS = "always matched: nothing to reject"
#: What each number of `Candidates.reason` means; the first allows a pair.
REASONS = ("candidates", NO_DECISION, NEVER, ALWAYS)


class Decisions(NamedTuple):
    """The well-formed decisions of both models without their texts; arrays are [d].

    `scene` indexes the scenes, `row` counts in the model's file, `weak` tells the models apart,
    `model` is the place of the name in `names`, which is sorted. `own_probability` is what the
    judge gives the behavior that the decision itself ends in, `entropy` that of all options.
    """

    scene: np.ndarray
    row: np.ndarray
    weak: np.ndarray
    model: np.ndarray
    sample: np.ndarray
    behavior: np.ndarray
    entropy: np.ndarray
    own_probability: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Candidates:
    """Scenes with decisions of both models and what strategies rank them by; arrays are [s].

    Args:
        files: The `scenes`, `weak` and `strong` Parquet files that texts are read from.
        scenes: Columns `row` (in the scene file), `scene_id`, `domain`, `source`, `answer`,
            `options`.
        decisions: Of these scenes.
        weak_uncertainty: Of the weak model's decisions.
        strong_uncertainty: Of the strong model's decisions, by the same judge.
        weak_accuracy: Share of well-formed decisions that match the real behavior.
        strong_accuracy: The same of the strong model.
        chosen: Index of the chosen decision, -1 where no decision can be.
        rejected: Index of the rejected decision, -1 where no decision can be.
        ifd: Instruction-following difficulty, for the strategy of that name; see `ifd.py`.
    """

    files: dict[str, Path]
    scenes: pa.Table
    decisions: Decisions
    weak_uncertainty: Uncertainty
    strong_uncertainty: Uncertainty
    weak_accuracy: np.ndarray
    strong_accuracy: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    ifd: np.ndarray | None = None

    @property
    def delta(self) -> np.ndarray:
        """Equation 3: epistemic uncertainty of the weak minus the strong model, bits."""
        return delta(self.weak_uncertainty.epistemic, self.strong_uncertainty.epistemic)

    @property
    def reason(self) -> np.ndarray:
        """Why each scene allows no pair, or that it does: an index into `REASONS`."""
        lacking = np.isnan(self.weak_accuracy) | np.isnan(self.strong_accuracy)
        return np.select([lacking, self.chosen < 0, self.rejected < 0], [1, 2, 3], 0)

    @property
    def usable(self) -> np.ndarray:
        """Indices of the scenes that allow a pair: the candidate set of every strategy."""
        return np.flatnonzero(self.reason == 0)

    @property
    def counts(self) -> dict[str, int]:
        """Number of scenes, of those that allow no pair by the reason, and of the candidates."""
        candidates, *others = np.bincount(self.reason, minlength=len(REASONS)).tolist()
        without = {reason: n for reason, n in zip(REASONS[1:], others, strict=True) if n}
        return {"scenes": len(self.chosen), **without, "candidates": candidates}


def candidates(scenes: Path, weak: Path, strong: Path) -> Candidates:
    """Join scenes with the decisions of both models, judged by the weak one.

    Scenes that were not decided on by both are left out.

    Args:
        scenes: Parquet file of schema `SCENE`.
        weak: Parquet file of schema `DECISION`.
        strong: The same of the strong model, its options scored by the weak one.

    Raises:
        UserError: if a file breaks its schema, decisions were not judged, were made for other
            scenes, or are there twice.
    """
    files = {"scenes": Path(scenes), "weak": Path(weak), "strong": Path(strong)}
    every = _read_scenes(files["scenes"])
    tables = [_read_decisions(files[role], every) for role in ("weak", "strong")]
    there = np.ones(every.num_rows, dtype=bool)
    for table in tables:
        there &= np.bincount(table["scene"], minlength=every.num_rows) > 0
    if not there.any():
        raise UserError("no scene of this file was decided on by both models", where=scenes)
    number = np.cumsum(there) - 1  # scene index among those that stay
    table = every.filter(pa.array(there))
    count = table.num_rows
    kept = [_well_formed(own, there, number) for own in tables]
    of_weak, of_strong = (decompose(own["probabilities"], own["scene"], count) for own in kept)
    decisions = _both(*kept)
    real = table["answer"].to_numpy()
    right = decisions.behavior == real[decisions.scene]
    strong_only = ~decisions.weak
    return Candidates(
        files,
        table,
        decisions,
        of_weak,
        of_strong,
        _share(decisions.scene, right, decisions.weak, count),
        _share(decisions.scene, right, strong_only, count),
        _most_confident(decisions, right & strong_only, count),
        _most_confident(decisions, ~right, count),
    )


def _read_scenes(path: Path) -> pa.Table:
    check_schema(path, SCENE)
    columns = ["scene_id", "domain", "source", "answer", "exposure_origin"]
    table = scene_rows.read_scenes(path, columns, columns)
    options = pc.list_value_length(table["exposure_origin"])
    rows = pa.array(np.arange(table.num_rows))
    return (
        table.drop_columns("exposure_origin")
        .append_column("options", options)
        .append_column("row", rows)
    )


def check_schema(path: Path, expected: pa.Schema) -> None:
    """Raise UserError unless a Parquet file is there and holds the fields of `expected`."""
    given = conform(storage.read_schema(path).empty_table(), expected, path)
    try:
        assert_schema(given.schema, expected)
    except ValueError as error:
        raise UserError(str(error), where=path) from error


def _read_decisions(path: Path, scenes: pa.Table) -> dict[str, Any]:
    """Return the columns of a decision file that are numbers, for rows of known scenes.

    `scene` indexes `scenes`; `probabilities` are [d, k] of float32, NaN padded and, like
    `behavior` and `entropy`, meaningless where `formed` is false.
    """
    check_schema(path, DECISION)
    names = ["scene_id", "model", "sample", "behavior", "malformed", "probabilities", "entropy"]
    table = storage.read_table(path, names, DECISION)
    place = pc.index_in(table["scene_id"], value_set=scenes["scene_id"].combine_chunks())
    known = pc.is_valid(place)
    rows = np.flatnonzero(known.to_numpy())
    table, place = table.filter(known), place.filter(known)
    own = {
        "scene": place.to_numpy(),
        "row": rows,
        "model": table["model"],
        "sample": table["sample"].to_numpy(),
        "formed": pc.equal(table["malformed"], "").to_numpy(),
        "behavior": table["behavior"].fill_null(-1).to_numpy(),
        "entropy": table["entropy"].fill_null(float("nan")).to_numpy(),
        "probabilities": _padded(table["probabilities"]),
    }
    _check_decisions(path, own, scenes)
    return own


def _padded(lists: pa.ChunkedArray) -> np.ndarray:
    """Put lists of numbers into one [d, k] of float32, NaN where a list is null or ends."""
    length = pc.list_value_length(lists).fill_null(0).to_numpy()
    there = np.arange(max(length, default=0)) < length[:, None]
    out = np.full(there.shape, np.nan, dtype=np.float32)
    out[there] = pc.list_flatten(lists).to_numpy()
    return out


def _check_decisions(path: Path, own: Mapping[str, Any], scenes: pa.Table) -> None:
    options = scenes["options"].to_numpy()[own["scene"]]
    p, formed = own["probabilities"], own["formed"]
    length = np.isfinite(p).sum(axis=1)
    total = np.nansum(p, axis=1)
    fits = (length == options) & (np.abs(total - 1) < 1e-3) & ~(p < 0).any(axis=1)
    key = own["scene"].astype(np.int64) << 16 | own["sample"]
    twice = np.ones(len(key), dtype=bool)
    twice[np.unique(key, return_index=True)[1]] = False
    faults = (
        (formed & (length == 0), "were not scored by the judge", "Run the judging step first."),
        (formed & ~fits, "have probabilities that do not fit their scene's options", ""),
        (
            formed & ((own["behavior"] < 0) | (own["behavior"] >= options)),
            "have a behavior that is not among their scene's options",
            "",
        ),
        (twice, "are there twice", "Give the file of one run."),
    )
    for flags, fault, fix in faults:
        if flags.any():
            first = scenes["scene_id"][int(own["scene"][flags.argmax()])].as_py()
            raise UserError(
                f"{int(flags.sum()):,} decisions {fault} (the first is of scene {first})",
                where=path,
                fix=fix,
            )


def _well_formed(own: Mapping[str, Any], there: np.ndarray, number: np.ndarray) -> dict[str, Any]:
    """Keep the well-formed decisions of scenes that are `there`, their index now `number`."""
    keep = own["formed"] & there[own["scene"]]
    kept = {
        name: column.filter(pa.array(keep)) if name == "model" else column[keep]
        for name, column in own.items()
    }
    return {**kept, "scene": number[kept["scene"]], "own_probability": _own_probability(kept)}


def _own_probability(own: Mapping[str, Any]) -> np.ndarray:
    return own["probabilities"][np.arange(len(own["behavior"])), own["behavior"]]


def _both(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> Decisions:
    sides = (weak, strong)
    names = sorted({name for own in sides for name in pc.unique(own["model"]).to_pylist()})
    places = pa.array(names, pa.string())
    joined = {
        name: np.concatenate([own[name] for own in sides])
        for name in ("scene", "row", "sample", "behavior", "entropy", "own_probability")
    }
    return Decisions(
        **joined,
        weak=np.concatenate([np.full(len(own["scene"]), own is weak) for own in sides]),
        model=np.concatenate([pc.index_in(own["model"], places).to_numpy() for own in sides]),
        names=names,
    )


def _share(scene: np.ndarray, right: np.ndarray, of: np.ndarray, scenes: int) -> np.ndarray:
    """Return the share of `right` among the decisions `of` each scene; NaN where it has none."""
    made = np.bincount(scene[of], minlength=scenes)
    matched = np.bincount(scene[of & right], minlength=scenes)
    return np.divide(matched, made, out=np.full(scenes, np.nan), where=made > 0)


def _most_confident(decisions: Decisions, among: np.ndarray, scenes: int) -> np.ndarray:
    """Return the index of each scene's most confident decision `among` those marked, or -1.

    Confidence is the judge's probability of the decision's own behavior: a low entropy may as well
    say that the judge is sure of another option. Ties go by sample, then by model, so that the
    choice is always the same.
    """
    rows = np.flatnonzero(among)
    keys = (decisions.model, decisions.sample, -decisions.own_probability, decisions.scene)
    order = rows[np.lexsort([key[rows] for key in keys])]
    there, first = np.unique(decisions.scene[order], return_index=True)
    best = np.full(scenes, -1)
    best[there] = order[first]
    return best


def thoughts(candidates: Candidates, decisions: np.ndarray) -> pa.ChunkedArray:
    """Return the texts of decision processes, given indices into `candidates.decisions`."""
    weak, row = candidates.decisions.weak[decisions], candidates.decisions.row[decisions]
    place = np.empty(len(decisions), dtype=np.int64)
    parts: list[pa.ChunkedArray] = []
    for role, own in (("weak", np.flatnonzero(weak)), ("strong", np.flatnonzero(~weak))):
        place[own] = np.arange(len(own)) + sum(len(part) for part in parts)
        parts.append(_take(candidates.files[role], ["thought"], row[own])["thought"])
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string()).take(
        pa.array(place)
    )


def scene_texts(candidates: Candidates, indices: np.ndarray) -> pa.Table:
    """Return columns `scene_id`, `profile`, `history`, `exposure` of scenes by their indices."""
    rows = candidates.scenes["row"].to_numpy()[indices]
    path = candidates.files["scenes"]
    texts = _take(path, list(scene_rows.SHOWN), rows)
    if len(rows):
        scene_rows.check(texts, path)
    return texts


def _take(path: Path, columns: list[str], rows: np.ndarray) -> pa.Table:
    """Return some rows of a Parquet file in the order of `rows`, reading it in blocks."""
    order = np.argsort(rows)
    wanted, start, parts = rows[order], 0, []
    # A buffer lets a column stream in; without one its whole row group is held.
    with pq.ParquetFile(path, buffer_size=1 << 20) as file:
        kind = SCENE if set(columns) <= set(SCENE.names) else DECISION
        schema = conform(file.schema_arrow.empty_table().select(columns), kind, path).schema
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if not np.diff(np.searchsorted(wanted, [start, start + count])).item():
                start += count
                continue
            for batch in file.iter_batches(BLOCK_ROWS, [group], columns):
                low, high = np.searchsorted(wanted, [start, start + batch.num_rows])
                if high > low:
                    some = pa.Table.from_batches([batch])
                    some = some.take(pa.array(wanted[low:high] - start))
                    parts.append(conform(some.select(columns), schema, path, start))
                start += batch.num_rows
    return pa.concat_tables([schema.empty_table(), *parts]).take(pa.array(np.argsort(order)))

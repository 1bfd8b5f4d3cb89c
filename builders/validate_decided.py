"""Prove the guarantees of a file of decisions or of pairs, alone and beside the scenes it is of.

What was made from it is recorded in the file (`storage.read_record`); where the scenes are given,
they are held against that record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.common import scene_rows, storage
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import DECISION, LABELS, PREFERENCE
from usermirrorer.builders.decisions.prompts import parse
from usermirrorer.builders.decisions.stage import scenes_hash
from usermirrorer.builders.decisions.uncertainty import entropy
from usermirrorer.builders.validate import Finding, Row, check_schema, pair_checks

#: Rows in memory at a time.
_BLOCK = 4096
#: Entropies and sums of probabilities are stored in 32 bits.
_CLOSE = 1e-3


def validate_file(path: Path, scene_files: Sequence[Path] = ()) -> list[Finding] | None:
    """Check a file of decisions or of pairs; what it is say columns that only one kind has.

    Args:
        path: The file.
        scene_files: Of the scenes that it is of.

    Returns:
        What was found; None if it is neither.

    Raises:
        UserError: if a file cannot be read, or scenes were given for what is neither.
    """
    if path.is_file():
        there = set(storage.read_schema(path).names)
        if {"sample", "malformed"} <= there:
            return validate_decisions(path, scene_files)
        if {"chosen", "rejected"} & there:
            return validate_pairs(path, scene_files)
    if scene_files:
        raise UserError("is neither decisions nor pairs", where=path, fix="Leave --scenes out.")
    return None


def validate_decisions(path: Path, scene_files: Sequence[Path] = ()) -> list[Finding]:
    """Check a file of decisions.

    Args:
        path: Of schema `DECISION`.
        scene_files: Of the scenes that were decided on; without them less is judged.
    """
    with pq.ParquetFile(path) as file:
        given = conform(file.schema_arrow.empty_table(), DECISION, path)
        schema = check_schema("decisions", given, DECISION, rows=file.metadata.num_rows)
    if not schema.ok:
        return [schema]
    scenes, record = _scenes(scene_files), storage.read_record(path)
    checked = _Decisions({name: len(row["exposure"]) for name, row in scenes.items()}, record)
    for row in _rows(path):
        checked.see(row)
    findings = [schema, *checked.findings(bool(scene_files))]
    order = [scenes[name] for name in checked.samples if name in scenes]
    return [*findings, _of_scenes("decisions", record, scenes_hash(order) if scenes else "")]


def validate_pairs(path: Path, scene_files: Sequence[Path] = ()) -> list[Finding]:
    """Check a file of preference pairs.

    Args:
        path: Of schema `PREFERENCE`.
        scene_files: Of the train scenes that they were made of; without them less is judged.
    """
    table = storage.read_table(path, expected=PREFERENCE)
    schema = check_schema("preference pairs", table, PREFERENCE)
    if not schema.ok:
        return [schema]
    frames: dict[str, pl.DataFrame] = {}
    if scene_files:
        wanted = ("scene_id", "source", "answer", "exposure_origin")
        every = [scene_rows.read_scenes(file, wanted, wanted) for file in scene_files]
        frames["train"] = pl.DataFrame(pa.concat_tables(every))
    record = storage.read_record(path)
    findings = [schema, *pair_checks(table.to_pylist(), frames)]
    if record.get("strategy") == "delta_eu":
        delta = table["epistemic_delta"].to_numpy()
        detail = f"from {delta[0]:.3f} to {delta[-1]:.3f} bits"
        falling = bool((np.diff(delta) <= _CLOSE).all())
        findings.append(Finding("pairs: the largest differences come first", falling, detail))
    hashes = [storage.file_hash(file) for file in scene_files]
    return [*findings, _of_scenes("pairs", record, hashes[0] if len(hashes) == 1 else "")]


class _Decisions:
    """Counts what rows of a decision file break, one after another."""

    def __init__(self, options: Mapping[str, int], record: Mapping[str, Any]) -> None:
        self.options = options
        self.think_end = str((record.get("sampling") or {}).get("think_end_token", ""))
        self.samples: dict[str, int] = {}  # scene -> bits of the samples that are there
        self.models: set[str] = set()
        self.formed = self.scored = 0
        self.bad: dict[str, list[str]] = {
            "no decision is there twice": [],
            "a well-formed one has a behavior among its options, a malformed one none": [],
            "texts read as what is stored of them": [],
            "probabilities are one per option, and add up to 1": [],
            "entropy is that of the probabilities, in bits": [],
        }

    def see(self, row: Row) -> None:
        """Check one row."""
        name, bit = row["scene_id"], 1 << max(row["sample"], 0)
        there = self.samples.get(name, 0)
        p = row["probabilities"]
        options = self.options.get(name) or (len(p) if p else len(LABELS))
        faults = (row["sample"] < 0 or bool(there & bit), _misjudged(row, options),
                  self._misread(row, options), p is not None and _no_share(p, options),
                  p is not None and not _is_entropy(row["entropy"], p))  # fmt: skip
        for bad, fault in zip(self.bad.values(), faults, strict=True):
            if fault:
                bad.append(name)
        self.samples[name] = there | bit
        self.models.add(row["model"])
        self.formed += not row["malformed"]
        self.scored += p is not None

    def _misread(self, row: Row, options: int) -> bool:
        read = parse(row["text"], options, think_end=self.think_end)
        told = (row["behavior"], row["malformed"], row["thought"])
        return (read.behavior, read.malformed, read.thought) != told

    def findings(self, scenes_known: bool) -> list[Finding]:
        """Return what was counted."""
        findings = [_counted(promise, bad) for promise, bad in self.bad.items()]
        sizes = Counter(bits.bit_count() for bits in self.samples.values())
        gaps = [name for name, bits in self.samples.items() if bits & (bits + 1)]
        findings.append(_counted("samples of a scene count from 0", gaps))
        told = ", ".join(f"{many:,} of {size}" for size, many in sorted(sizes.items()))
        promise = "decisions: every scene has as many samples"
        findings.append(Finding(promise, len(sizes) == 1, f"scenes by samples: {told}"))
        unknown = [name for name in self.samples if name not in self.options]
        known = _counted("each is of a scene that is there", unknown)
        findings.append(known if scenes_known else known._replace(ok=None, detail=_NO_SCENES))
        judged = f"{self.scored:,} of {self.formed:,} well-formed ones"
        whole = self.scored == self.formed if self.scored else None
        findings.append(Finding("decisions: options are scored by the judge", whole, judged))
        detail = f"{len(self.models):,}, e.g. {min(self.models)}"
        return [*findings, Finding("decisions: are of one model", len(self.models) == 1, detail)]


_NO_SCENES = "name the files with --scenes to know"


def _misjudged(row: Row, options: int) -> bool:
    behavior = row["behavior"]
    if row["malformed"]:
        return behavior is not None
    return behavior is None or not 0 <= behavior < options


def _no_share(p: Sequence[float | None], options: int) -> bool:
    if len(p) != options or any(value is None or not 0 <= value <= 1 + _CLOSE for value in p):
        return True
    return abs(sum(value or 0 for value in p) - 1) > _CLOSE


def _is_entropy(stored: float | None, p: Sequence[float | None]) -> bool:
    values = np.array(p, np.float64)
    return stored is not None and bool(abs(stored - float(entropy(values))) <= _CLOSE)


def _counted(promise: str, bad: Sequence[str]) -> Finding:
    detail = f"{len(bad):,} break it, first: {bad[0]}" if bad else "all"
    return Finding(f"decisions: {promise}", not bad, detail)


def _rows(path: Path) -> Iterator[Row]:
    start = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BLOCK, columns=DECISION.names):
            table = conform(pa.Table.from_batches([batch]), DECISION, path, start)
            start += table.num_rows
            for name in DECISION.names:
                if not DECISION.field(name).nullable and table[name].null_count:
                    raise UserError(f"column {name!r} has missing values", where=path)
            yield from table.to_pylist()


def _scenes(files: Sequence[Path]) -> dict[str, Row]:
    scenes: dict[str, Row] = {}
    for file in files:
        table = scene_rows.read_scenes(file).select(list(scene_rows.SHOWN))
        scenes |= {row["scene_id"]: row for row in table.to_pylist()}
    return scenes


def _of_scenes(what: str, record: Mapping[str, Any], now: str) -> Finding:
    """Hold the scenes that are given against those that a record says it was made from."""
    promise = f"{what}: what they were made from is recorded"
    if not record:
        return Finding(promise, None, "it is not: the file is of an earlier version, or another's")
    kept = {
        name: record[name] for name in ("seed", "strategy", "code", "sampling") if name in record
    }
    made_from = ", ".join(f"{name} {value}" for name, value in kept.items())
    if not now:
        return Finding(promise, None, made_from)
    promise = f"{what}: the scenes are those they were made from"
    return Finding(promise, now == record.get("scenes"), made_from)

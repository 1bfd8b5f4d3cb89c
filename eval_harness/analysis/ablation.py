"""What each feature is worth: accuracy with it alone, and without it.

Tables 10 and 11 and section D.3 of the paper. Runs are named by what was shown: the base (`full`),
`only-FEATURE`, `without-FEATURE`; `usermirrorer ablate` makes such scenes. Tables:

    features   feature, retained (accuracy with it alone), gain (of that over chance), gain_p,
               gain_p_holm, removed (accuracy without it), loss (what removing it costs, paired by
               scene), loss_p, loss_p_holm, scenes (compared)
    base       result, scenes, users, accuracy, chance
    sources    the same as `features` with `source` first (only where there are several)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import metrics, published
from usermirrorer.eval_harness.analysis.answers import Run
from usermirrorer.eval_harness.analysis.inference import (
    accuracy_gap,
    common_scenes,
    holm_cells,
    mean_cells,
    user_of,
)
from usermirrorer.eval_harness.analysis.result import Column, Result, Table, ends

ONLY, WITHOUT = "only-", "without-"
_FEATURES = (
    Column("feature", "what was kept alone, or removed"),
    Column("retained", "accuracy with it alone", "share", interval=True),
    Column("gain", "of that over a guess", "points", interval=True),
    Column("gain_p", "paired by scene, flipped by user", "p"),
    Column("gain_p_holm", "corrected for the number of features", "p"),
    Column("removed", "accuracy without it", "share", interval=True),
    Column("loss", "what removing it costs on the same scenes", "points", interval=True),
    Column("loss_p", "paired by scene, flipped by user", "p"),
    Column("loss_p_holm", "corrected for the number of features", "p"),
    Column("scenes", "scenes compared", "count"),
)
_BASE = (
    Column("result", "with all features"),
    Column("scenes", "scored", "count"),
    Column("users", "people behind them", "count"),
    Column("accuracy", "with all features", "share", interval=True),
    Column("chance", "a guess", "share"),
)
Row = dict[str, Any]


def analyse(runs: Sequence[Run], base: str = "full") -> Result:
    """Compare runs on the same scenes with features kept alone, or removed.

    Args:
        runs: Named as the module says.
        base: Name of the run with all features.

    Raises:
        UserError: if a name says nothing, the base is missing, or two runs share no scene.
    """
    by_name = {run.name: run for run in runs}
    if base not in by_name:
        told = f"none of the results is called {base!r}, which all are compared with"
        raise UserError(told, where=", ".join(by_name), fix="Write NAME=PATH, or name it: --base.")
    whole = by_name.pop(base)
    pairs = _pairs(by_name)
    sources = sorted({a.scene.source for a in whole.answers.values()})
    tables = {
        "features": Table(
            "What each feature is worth",
            "Accuracy with one feature alone, and with all but it; differences are on the same "
            "scenes.",
            _FEATURES,
            _rows(whole, pairs, set(sources)),
        ),
        "base": Table("With all features", "What was compared with.", _BASE, [_base(whole)]),
    }
    if len(sources) > 1:
        rows = [
            {"source": source, **row} for source in sources for row in _rows(whole, pairs, {source})
        ]
        columns = (Column("source", "of the scenes"), *_FEATURES)
        tables["sources"] = Table("By source", "The same by source.", columns, rows)
    return Result(tables, _notes(whole, by_name), _printed(), {"base": base})


def _pairs(runs: dict[str, Run]) -> dict[str, tuple[Run | None, Run | None]]:
    """Return feature -> the run with it alone, and that without it."""
    pairs: dict[str, tuple[Run | None, Run | None]] = {}
    for name, run in runs.items():
        prefix = next((p for p in (ONLY, WITHOUT) if name.startswith(p) and name != p), "")
        if not prefix:
            raise UserError(
                f"{name!r} does not say what was shown",
                fix=f"Name results {ONLY}FEATURE or {WITHOUT}FEATURE: NAME=PATH.",
            )
        feature = name.removeprefix(prefix)
        alone, removed = pairs.get(feature, (None, None))
        pairs[feature] = (run, removed) if prefix == ONLY else (alone, run)
    if not pairs:
        raise UserError(
            "nothing was kept alone or removed", fix="Give such results beside the base."
        )
    return pairs


def _base(run: Run) -> Row:
    answers = list(run.answers.values())
    return {
        "result": run.name,
        "scenes": len(answers),
        "users": len(set(run.users)),
        **mean_cells("accuracy", [answer.right for answer in answers], run.users),
        "chance": float(np.mean([1 / answer.scene.options for answer in answers])),
    }


def _rows(
    whole: Run, pairs: dict[str, tuple[Run | None, Run | None]], sources: set[str]
) -> list[Row]:
    rows = [_row(whole, feature, *both, sources) for feature, both in pairs.items()]
    holm_cells(rows, "gain_p", "gain_p_holm")
    holm_cells(rows, "loss_p", "loss_p_holm")
    return sorted(rows, key=lambda row: -(row.get("loss") or 0.0))


def _row(
    whole: Run, feature: str, alone: Run | None, removed: Run | None, sources: set[str]
) -> Row:
    row: Row = {"feature": feature}
    for run in (alone, removed):
        if run is None:
            continue
        scenes = [s for s in _common(whole, run) if whole.answers[s].scene.source in sources]
        if not scenes:
            continue
        row["scenes"] = len(scenes)
        answers = [run.answers[scene_id] for scene_id in scenes]
        users = [user_of(answer) for answer in answers]
        right = [answer.right for answer in answers]
        if run is removed:
            gap = accuracy_gap(run, whole, scenes)
            row |= mean_cells("removed", right, users)
            row |= {**ends("loss", gap.difference, gap.low, gap.high), "loss_p": gap.p_value}
        else:
            gap = metrics.paired_test([1 / a.scene.options for a in answers], right, users)
            row |= mean_cells("retained", right, users)
            row |= {**ends("gain", gap.difference, gap.low, gap.high), "gain_p": gap.p_value}
    return row


def _common(whole: Run, run: Run) -> list[str]:
    scenes = common_scenes(whole, run)
    if not scenes:
        raise UserError(f"{whole.name!r} and {run.name!r} have no scene in common")
    return scenes


def _notes(whole: Run, others: dict[str, Run]) -> list[str]:
    notes = []
    models = {run.model for run in (whole, *others.values()) if run.model}
    if len(models) > 1:
        notes.append(f"The results are of {len(models)} models: {', '.join(sorted(models))}.")
    short = {len(_common(whole, run)) for run in others.values()} | {len(whole.answers)}
    if len(short) > 1:
        notes.append(
            f"Results share {min(short)} to {max(short)} scenes with {whole.name}; each is "
            "compared on those."
        )
    return notes


def _printed() -> dict[str, Table]:
    columns = (
        Column("feature", "as printed"),
        Column("retained", "accuracy with it alone", "share"),
        Column("removed", "accuracy without it", "share"),
    )
    text = "As printed in the paper, which does not say of which model; nothing of it was run here."
    printed = {
        "table10": ("Steam", published.TABLE_10),
        "table11": ("Goodreads", published.TABLE_11),
    }
    return {
        name: Table(
            f"Table {name.removeprefix('table')} of the paper: {source}",
            text,
            columns,
            [{"feature": f, "retained": a, "removed": b} for f, (a, b) in values.items()],
        )
        for name, (source, values) in printed.items()
    }

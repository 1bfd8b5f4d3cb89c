"""Models trained on one group of domains and tested on the other.

Table 14 and section D.6 of the paper. Tables:

    sources  source, group (1 or 2), base, full, cross (the model trained on the other group),
             over_base (cross minus base) and its base_p, base_p_holm, over_full (cross minus full)
             and its full_p, full_p_holm, kept (share of the full model's gain over the base that
             cross has too), scenes, users
    groups   the same over all scenes of a group, with `trained_on` instead of `source`
    beside   result, source, trained (whether its model was trained on it: yes, no, or empty where
             not told), scenes, users, accuracy
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import metrics, published
from usermirrorer.eval_harness.analysis.answers import Answer, Run
from usermirrorer.eval_harness.analysis.inference import (
    accuracy_gap,
    common_scenes,
    holm_cells,
    mean_cells,
    user_of,
)
from usermirrorer.eval_harness.analysis.result import Column, Result, Table, ends

Row = dict[str, Any]
Groups = Mapping[str, frozenset[str]]
_VALUES = (
    Column("base", "accuracy of the untrained model", "share", interval=True),
    Column("full", "of the model trained on all domains", "share", interval=True),
    Column("cross", "of the model trained on the other group", "share", interval=True),
    Column("over_base", "cross minus base, on the same scenes", "points", interval=True),
    Column("base_p", "paired by scene, flipped by user", "p"),
    Column("base_p_holm", "corrected for the number of rows", "p"),
    Column("over_full", "cross minus full, on the same scenes", "points", interval=True),
    Column("full_p", "paired by scene, flipped by user", "p"),
    Column("full_p_holm", "corrected for the number of rows", "p"),
    Column("kept", "share of the full model's gain over base", "share", interval=True),
    Column("scenes", "common to all three", "count"),
    Column("users", "people behind them", "count"),
)
_SOURCES = (Column("source", "tested"), Column("group", "it is of", "count"), *_VALUES)
_GROUPS = (
    Column("group", "tested", "count"),
    Column("trained_on", "sources of the model's training"),
    *_VALUES,
)
_BESIDE = (
    Column("result", "name of the results"),
    Column("source", "tested"),
    Column("trained", "whether its model was trained on it, where told"),
    Column("scenes", "scored", "count"),
    Column("users", "people behind them", "count"),
    Column("accuracy", "malformed decisions are wrong", "share", interval=True),
)


def groups(trained: Sequence[str]) -> Groups:
    """Return results' name -> sources that their model was trained on, from `NAME=SOURCE,...`.

    Raises:
        UserError: if they are not two, or share a source.
    """
    if not trained:
        both = (published.GROUP_1, published.GROUP_2)
        return {f"group{number}": frozenset(own) for number, own in enumerate(both, 1)}
    told: dict[str, frozenset[str]] = {}
    for text in trained:
        name, _, sources = text.partition("=")
        own = frozenset(source.strip() for source in sources.split(",") if source.strip())
        if not name or not own or name in told:
            raise UserError(f"{text!r} is not NAME=SOURCE,...", where="--trained")
        told[name] = own
    if len(told) != 2:
        raise UserError(f"{len(told)} groups instead of two", where="--trained")
    first, second = told.values()
    if shared := sorted(first & second):
        what = f"{', '.join(shared)} is in both groups: nothing would be unseen"
        raise UserError(what, where="--trained")
    return told


def analyse(runs: Sequence[Run], trained: Groups, base: str = "base", full: str = "full") -> Result:
    """Compare models trained on one group with the base, and with one trained on all.

    Args:
        runs: Those of the two groups, the base, the full one; others stand beside them.
        trained: As `groups` returns it. A source may be named by its domain.
        base: Name of the run of the untrained model.
        full: Name of the run of the model trained on all domains; it may be missing.

    Raises:
        UserError: if a run of a group or the base is missing, or nothing unseen was scored.
    """
    by_name = {run.name: run for run in runs}
    if missing := [name for name in (base, *trained) if name not in by_name]:
        raise UserError(
            f"no results are called {' or '.join(missing)}",
            where=", ".join(by_name),
            fix="Write NAME=PATH, or say with --base and --trained which they are.",
        )
    per_source, per_group = _rows(by_name, trained, base, full)
    if not per_source:
        raise UserError(
            "neither group's model was scored on a source of the other",
            fix="Score each on the domains that it was not trained on.",
        )
    tables = {
        "sources": Table("Unseen domains", _TEXT, _SOURCES, per_source),
        "groups": Table("Unseen groups", "The same over a group's scenes.", _GROUPS, per_group),
        "beside": Table(
            "All results", "Every result on every source.", _BESIDE, _beside(runs, trained)
        ),
    }
    notes = [] if full in by_name else [f"No results are called {full!r}: nothing to compare with."]
    settings = {name: sorted(own) for name, own in trained.items()}
    return Result(
        tables,
        notes,
        {"table14": _printed()},
        {"trained": settings, "base": base, "full": full},
    )


def _rows(
    by_name: Mapping[str, Run], trained: Groups, base: str, full: str
) -> tuple[list[Row], list[Row]]:
    """Return the rows by source, and by group."""
    per_source: list[Row] = []
    per_group: list[Row] = []
    names = list(trained)
    # The model of one group is tested on the sources of the other.
    for number, (name, other) in enumerate(zip(names, names[::-1], strict=True), 1):
        three = (by_name[base], by_name.get(full), by_name[other])
        scenes = _unseen(three, trained[name], trained[other])
        for source in sorted({three[2].answers[s].scene.source for s in scenes}):
            own = [s for s in scenes if three[2].answers[s].scene.source == source]
            per_source.append({"source": source, "group": number, **_row(three, own)})
        if scenes:
            told = ", ".join(sorted(trained[other]))
            per_group.append({"group": number, "trained_on": told, **_row(three, scenes)})
    for rows in (per_source, per_group):
        holm_cells(rows, "base_p", "base_p_holm")
        holm_cells(rows, "full_p", "full_p_holm")
    return per_source, per_group


_TEXT = (
    "Accuracy on domains that the model was not trained on, beside the untrained and the full one."
)


def _of(answer: Answer, sources: frozenset[str]) -> bool:
    return bool(sources & {answer.scene.source, answer.scene.domain})


def _unseen(
    runs: Sequence[Run | None], tested: frozenset[str], trained: frozenset[str]
) -> list[str]:
    """Return the scenes of the tested group that all runs have and none was trained on."""
    first, *others = [run for run in runs if run is not None]
    scenes = set(first.answers)
    for run in others:
        scenes &= set(common_scenes(first, run))
    answers = first.answers
    return sorted(s for s in scenes if _of(answers[s], tested) and not _of(answers[s], trained))


def _row(three: tuple[Run, Run | None, Run], scenes: Sequence[str]) -> Row:
    base, full, cross = three
    users = [user_of(base.answers[scene_id]) for scene_id in scenes]
    row: Row = {"scenes": len(scenes), "users": len(set(users))}
    for name, run in (("base", base), ("full", full), ("cross", cross)):
        if run is not None:
            row |= mean_cells(name, [run.answers[s].right for s in scenes], users)
    for name, run in (("base", base), ("full", full)):
        if run is not None:
            gap = accuracy_gap(run, cross, scenes)
            row |= ends(f"over_{name}", gap.difference, gap.low, gap.high)
            row[f"{name}_p"] = gap.p_value
    return row | (_kept(base, full, cross, scenes, users) if full is not None else {})


def _kept(base: Run, full: Run, cross: Run, scenes: Sequence[str], users: list[str]) -> Row:
    """Return which share of the full model's gain over the base the cross model has.

    Nothing where the full model gains nothing that these scenes show: a share of it would be noise.
    """
    gain = accuracy_gap(base, full, scenes)
    if not gain.low > 0:
        return {}
    rows = np.array([[run.answers[s].right for run in (base, full, cross)] for s in scenes])

    def share(drawn: Any) -> float:
        low, high, middle = drawn.mean(axis=0)
        return float((middle - low) / (high - low)) if high > low else math.nan

    told = metrics.bootstrap(share, rows, users)
    return ends("kept", told.value, told.low, told.high)


def _beside(runs: Sequence[Run], trained: Groups) -> list[Row]:
    rows = []
    for run in runs:
        answers = list(run.answers.values())
        for source in sorted({answer.scene.source for answer in answers}):
            own = [answer for answer in answers if answer.scene.source == source]
            users = [user_of(answer) for answer in own]
            seen = trained.get(run.name)
            rows.append(
                {
                    "result": run.name,
                    "source": source,
                    "trained": "" if seen is None else "yes" if _of(own[0], seen) else "no",
                    "scenes": len(own),
                    "users": len(set(users)),
                    **mean_cells("accuracy", [answer.right for answer in own], users),
                }
            )
    return rows


def _printed() -> Table:
    sources = (*published.GROUP_1, *published.GROUP_2)
    columns = (
        Column("model", "as printed"),
        *(Column(source, "accuracy as printed", "share") for source in sources),
    )
    rows = [
        {"model": name, **{s: v / 100 for s, v in zip(sources, values, strict=True)}}
        for name, values in published.TABLE_14.items()
    ]
    text = (
        "As printed in the paper: the first five sources are group 1, tested by the model trained "
        "on group 2, and the other way round. Nothing of it was run here."
    )
    return Table("Table 14 of the paper", text, columns, rows)

"""Means, differences and associations over answers, clustered by user: what the analyses share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.intervals import quantile
from usermirrorer.eval_harness import metrics
from usermirrorer.eval_harness.analysis.answers import Answer, Run
from usermirrorer.eval_harness.analysis.result import ends
from usermirrorer.eval_harness.metric_table import Unit

Floats = NDArray[np.float64]


def user_of(answer: Answer) -> str:
    """Return whose scene an answer is of; users of two sources are two."""
    return f"{answer.scene.source}/{answer.scene.user}"


def mean_cells(
    name: str, values: ArrayLike, users: Sequence[str], unit: Unit = "share"
) -> dict[str, float]:
    """Return the cells of a mean with its interval, clustered by user; none where no values."""
    if not len(np.asarray(values)):
        return ends(name, math.nan, math.nan, math.nan)
    estimate = metrics.mean(values, users, unit)
    return ends(name, estimate.value, estimate.low, estimate.high)


def common_scenes(a: Run, b: Run) -> list[str]:
    """Return the ids of the scenes that two runs have in common, in order.

    Raises:
        UserError: if a scene has another answer or number of options in one of them.
    """
    common = sorted(a.answers.keys() & b.answers.keys())
    for scene_id in common:
        first, second = a.answers[scene_id].scene, b.answers[scene_id].scene
        if first != second:
            raise UserError(
                f"scene {scene_id} is another one in {a.name!r} than in {b.name!r}",
                fix="Compare results of the same scenes.",
            )
    return common


def accuracy_gap(base: Run, other: Run, scenes: Sequence[str]) -> metrics.Comparison:
    """Compare the accuracy of two runs on the same scenes: `other` minus `base`, by user."""
    x = [base.answers[scene_id].right for scene_id in scenes]
    y = [other.answers[scene_id].right for scene_id in scenes]
    return metrics.paired_test(x, y, [user_of(base.answers[scene_id]) for scene_id in scenes])


def holm_cells(rows: Sequence[dict[str, Any]], p: str = "p", corrected: str = "p_holm") -> None:
    """Add to rows the p-values corrected for the number of those that have one."""
    known = [row for row in rows if row.get(p) is not None and math.isfinite(row[p])]
    for row, value in zip(known, metrics.holm([row[p] for row in known]), strict=True):
        row[corrected] = value


class Association(NamedTuple):
    """How much y changes with one of x within groups: slope, 95 % interval, p-value."""

    slope: float
    low: float
    high: float
    p_value: float


def association(
    x: ArrayLike, y: ArrayLike, groups: Sequence[str], users: Sequence[str]
) -> Association | None:
    """Test whether y goes with x within groups (sources), by user.

    The slope is that of least squares after the means of each group are taken off, its interval
    from the cluster-robust variance (CR1, Student's quantile). The p-value is that of a sign-flip
    test of the users' scores under the hypothesis of no slope, the sums of x times y with means
    taken off: it keeps its level where few users have x at all, which the interval need not.

    Args:
        x: One per decision, [n].
        y: [n].
        groups: [n], equal for decisions of one source.
        users: [n], equal for decisions of one user.

    Returns:
        None where x does not vary within any group, or there are fewer than two users.
    """
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    within = [_centred(np.asarray(v, dtype=np.float64), number, len(names)) for v in (x, y)]
    square = float(within[0] @ within[0])
    _, user = np.unique(np.asarray(users), return_inverse=True)
    clusters = int(user.max(initial=-1)) + 1
    if square < 1e-9 or clusters < 2:
        return None
    slope = float(within[0] @ within[1]) / square
    pull = np.bincount(user, within[0] * (within[1] - slope * within[0]), minlength=clusters)
    error = math.sqrt(clusters / (clusters - 1) * float(pull @ pull)) / square
    z = quantile(clusters)
    scores = np.bincount(user, within[0] * within[1], minlength=clusters)
    p = metrics.paired_test(np.zeros(clusters), scores).p_value
    return Association(slope, slope - z * error, slope + z * error, p)


def _centred(values: Floats, number: NDArray[np.intp], groups: int) -> Floats:
    sizes = np.bincount(number, minlength=groups)
    return values - (np.bincount(number, values, minlength=groups) / np.maximum(sizes, 1))[number]

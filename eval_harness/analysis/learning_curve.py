"""Accuracy against the number of training pairs, with a fitted curve.

Figure 5 of the paper. Runs are named by the number of pairs, `CURVE@PAIRS` if there are several
curves. Tables:

    points  curve, pairs, scenes, users, accuracy, gain (to the next smaller size, on common
            scenes), p, p_holm, fitted
    curves  curve, sizes, form (`power`: a - b * pairs^-c, with four sizes or more, or `logarithm`:
            a + b * log2(pairs)), a, b, c, fitted_at_most (accuracy of the fit at the largest size),
            doubling (what twice the largest size would add by the fit), error (root mean square of
            the fit, shares)

The fit is by least squares, weighted by the number of scenes; its intervals are those of drawing
users anew. It describes these sizes: beyond them it is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis.answers import Run
from usermirrorer.eval_harness.analysis.inference import (
    accuracy_gap,
    common_scenes,
    holm_cells,
    mean_cells,
    user_of,
)
from usermirrorer.eval_harness.analysis.result import Column, Result, Table, ends

Floats = NDArray[np.float64]
Row = dict[str, Any]
#: Exponents that are tried for the power law, and draws of users for the fit's intervals.
EXPONENTS = np.geomspace(0.05, 4, 80)
DRAWS = 300

_POINTS = (
    Column("curve", "name of the curve"),
    Column("pairs", "trained on", "count"),
    Column("scenes", "scored", "count"),
    Column("users", "people behind them", "count"),
    Column("accuracy", "malformed decisions are wrong", "share", interval=True),
    Column("gain", "to the next smaller size, on common scenes", "points", interval=True),
    Column("p", "of the gain, paired by scene, flipped by user", "p"),
    Column("p_holm", "corrected for the number of gains", "p"),
    Column("fitted", "accuracy by the fitted curve", "share", interval=True),
)
_CURVES = (
    Column("curve", "name of the curve"),
    Column("sizes", "different numbers of pairs", "count"),
    Column("form", "of the fitted curve"),
    Column("a", "its level", "number"),
    Column("b", "its scale", "number"),
    Column("c", "its exponent", "number"),
    Column("fitted_at_most", "accuracy of the fit at the largest size", "share", interval=True),
    Column("doubling", "what twice the largest size adds by the fit", "points", interval=True),
    Column("error", "root mean square of the fit", "points"),
)


@dataclass(frozen=True)
class Fit:
    """A fitted curve: `a - b * pairs^-c`, or where c is None `a + b * log2(pairs)`."""

    a: float
    b: float
    c: float | None

    def at(self, pairs: Floats) -> Floats:
        """Return the fitted accuracy at numbers of pairs, [n]."""
        if self.c is None:
            return self.a + self.b * np.log2(pairs)
        return self.a - self.b * pairs**-self.c


def fit(pairs: Floats, accuracy: Floats, weights: Floats) -> Fit | None:
    """Fit a curve by weighted least squares.

    Args:
        pairs: Numbers of pairs, [n], above 0.
        accuracy: [n].
        weights: [n].

    Returns:
        A power law for four different sizes or more, a logarithm for two or three, else None.
    """
    sizes = len(np.unique(pairs))
    if sizes < 2:
        return None
    if sizes < 4:
        (a, b), _ = _line(np.log2(pairs), accuracy, weights)
        return Fit(a, b, None)
    best: tuple[float, Fit] | None = None
    for exponent in EXPONENTS.tolist():
        (a, b), loss = _line(-(pairs**-exponent), accuracy, weights)
        if best is None or loss < best[0]:
            best = (loss, Fit(a, b, exponent))
    assert best is not None
    return best[1]


def _line(x: Floats, y: Floats, weights: Floats) -> tuple[tuple[float, float], float]:
    """Return intercept and slope of a weighted line, and its loss."""
    share = weights / weights.sum()
    x0, y0 = float(share @ x), float(share @ y)
    square = float(share @ (x - x0) ** 2)
    slope = float(share @ ((x - x0) * (y - y0))) / square if square > 0 else 0.0
    intercept = y0 - slope * x0
    return (intercept, slope), float(share @ (y - intercept - slope * x) ** 2)


def analyse(runs: Sequence[Run]) -> Result:
    """Fit accuracy against the number of training pairs.

    Args:
        runs: Named by their number of pairs, behind the curve's name: `10000`, `sft@10000`.

    Raises:
        UserError: if a name holds no number of pairs.
    """
    curves: dict[str, list[tuple[int, Run]]] = {}
    for run in runs:
        name, pairs = _place(run.name)
        curves.setdefault(name, []).append((pairs, run))
    points: list[Row] = []
    summaries: list[Row] = []
    for name, placed in curves.items():
        placed.sort(key=lambda item: item[0])
        rows = _gains(placed)
        fitted = _fitted(placed)
        for row, cells in zip(rows, fitted.cells, strict=True):
            points.append({"curve": name, **row, **cells})
        summaries.append({"curve": name, **fitted.summary})
    holm_cells(points)
    tables = {
        "points": Table("Accuracy by size", "Intervals are by user.", _POINTS, points),
        "curves": Table("Fitted curves", _TEXT, _CURVES, summaries),
    }
    notes = [
        f"Curve {name}: {len({pairs for pairs, _ in placed})} sizes are too few for a power law."
        for name, placed in curves.items()
        if len({pairs for pairs, _ in placed}) < 4
    ]
    printed = "The paper's Figure 5 is a plot without printed numbers; its text says that accuracy "
    notes.append(f"{printed}rises sharply until about 10,000 pairs and little beyond.")
    return Result(tables, notes)


_TEXT = "Least squares; beyond the sizes that were trained, the curve is a guess."


def _place(name: str) -> tuple[str, int]:
    curve, sign, number = name.rpartition("@")
    digits = number.replace(",", "").replace("_", "")
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits[:12]) <= 10**11:
        raise UserError(
            f"{name!r} does not say how many pairs were trained on",
            fix="Name results PAIRS=PATH or CURVE@PAIRS=PATH, as 10000=results/10k.",
        )
    return (curve if sign else "accuracy"), int(digits)


def _gains(placed: Sequence[tuple[int, Run]]) -> list[Row]:
    rows: list[Row] = []
    smaller: Run | None = None
    for index, (pairs, run) in enumerate(placed):
        if index and pairs > placed[index - 1][0]:
            smaller = placed[index - 1][1]
        answers = list(run.answers.values())
        row: Row = {
            "pairs": pairs,
            "scenes": len(answers),
            "users": len(set(run.users)),
            **mean_cells("accuracy", [answer.right for answer in answers], run.users),
        }
        if smaller is not None and (common := common_scenes(smaller, run)):
            gap = accuracy_gap(smaller, run, common)
            row |= {**ends("gain", gap.difference, gap.low, gap.high), "p": gap.p_value}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Fitted:
    cells: list[Row]
    summary: Row


def _fitted(placed: Sequence[tuple[int, Run]]) -> _Fitted:
    pairs = np.array([p for p, _ in placed], dtype=np.float64)
    sums = _sums([run for _, run in placed])
    accuracy = sums[0].sum(axis=1) / sums[1].sum(axis=1)
    whole = fit(pairs, accuracy, sums[1].sum(axis=1))
    summary: Row = {"sizes": len(np.unique(pairs)), "form": "none"}
    if whole is None:
        return _Fitted([{} for _ in placed], summary)
    at = np.append(pairs, 2 * pairs.max())
    values, drawn = whole.at(at), _drawn(pairs, sums, at)
    bounds = (
        np.percentile(drawn, [2.5, 97.5], axis=0) if len(drawn) else np.full((2, len(at)), np.nan)
    )
    cells = [ends("fitted", *map(float, (values[i], *bounds[:, i]))) for i in range(len(placed))]
    last = int(np.argmax(pairs))
    more = drawn[:, -1] - drawn[:, last] if len(drawn) else np.array([np.nan])
    low, high = np.percentile(more, [2.5, 97.5])
    residuals = accuracy - values[:-1]
    summary |= {
        "form": "logarithm" if whole.c is None else "power",
        "a": whole.a,
        "b": whole.b,
        "c": whole.c,
        **ends("fitted_at_most", *map(float, (values[last], *bounds[:, last]))),
        **ends("doubling", float(values[-1] - values[last]), float(low), float(high)),
        "error": float(np.sqrt(np.mean(residuals**2))),
    }
    return _Fitted(cells, summary)


def _sums(runs: Sequence[Run]) -> tuple[Floats, Floats]:
    """Return the sum of right answers and the number of scenes by run and user, [runs, users]."""
    users = sorted({user for run in runs for user in run.users})
    number = {user: index for index, user in enumerate(users)}
    right, scenes = np.zeros((2, len(runs), len(users)))
    for index, run in enumerate(runs):
        for answer in run.answers.values():
            right[index, number[user_of(answer)]] += answer.right
            scenes[index, number[user_of(answer)]] += 1
    return right, scenes


def _drawn(pairs: Floats, sums: tuple[Floats, Floats], at: Floats) -> Floats:
    """Return the fitted accuracy of fits to users drawn anew, [draws, len(at)]."""
    users = sums[0].shape[1]
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(DRAWS if users > 1 else 0):
        often = np.bincount(generator.integers(0, users, users), minlength=users)
        right, scenes = sums[0] @ often, sums[1] @ often
        if (scenes > 0).all() and (made := fit(pairs, right / scenes, scenes)):
            rows.append(made.at(at))
    return np.array(rows)

"""Accuracies and their differences, with intervals clustered by user and by item.

An accuracy has Wilson's interval, a difference the symmetric one: `builders.common.intervals`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from usermirrorer.builders.common.intervals import (
    LEVEL,
    between,
    quantile,
    variance_of_mean,
    wilson,
)


class Estimate(NamedTuple):
    """A mean over `n` scenes and the ends of its interval."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Return it for JSON, rounded to a hundredth of a point."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "n": self.n,
        }


def accuracy(
    hits: np.ndarray, users: np.ndarray, items: np.ndarray | None = None, level: float = LEVEL
) -> Estimate:
    """Return the mean of hits between 0 and 1.

    Args:
        hits: [scenes], parts where guesses tie.
        users: [scenes] of numbers, equal for scenes of one user.
        items: The same for scenes with one target.
        level: Of the interval.

    Raises:
        ValueError: if there are no scenes.
    """
    hits = np.asarray(hits, np.float64)
    n, value, variance, clusters = _moments(hits, users, items)
    if clusters < 2:
        return Estimate(value, 0.0, 1.0, n)
    if 0 < value < 1 and np.ptp(hits) == 0:
        return Estimate(value, value, value, n)  # a guess of the same chance in every scene
    spread = value * (1 - value)
    independent = min(n, spread / variance) if variance > 0 else float(clusters)
    return Estimate(value, *wilson(value, independent, quantile(clusters, level)), n)


def difference(
    deltas: np.ndarray, users: np.ndarray, items: np.ndarray | None = None, level: float = LEVEL
) -> Estimate:
    """Return the mean of paired differences between -1 and 1; arguments as of `accuracy`."""
    n, value, variance, clusters = _moments(deltas, users, items)
    if clusters < 2:
        return Estimate(value, -1.0, 1.0, n)
    return Estimate(value, *between(value, variance**0.5, quantile(clusters, level)), n)


def _moments(
    values: np.ndarray, users: np.ndarray, items: np.ndarray | None
) -> tuple[int, float, float, int]:
    """Return the number of scenes, their mean, its variance and the number of users."""
    if not len(values):
        raise ValueError("no scenes to take a mean of")
    variance = variance_of_mean(np.asarray(values, np.float64), users, items)
    return len(values), float(np.mean(values)), variance, len(np.unique(users))

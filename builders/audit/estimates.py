"""Accuracies and their differences, with intervals clustered by user.

Scenes of one user are not independent: an interval that takes them for so many draws is too narrow.
Both functions use the cluster-robust variance of a ratio of sums over users and Student's t with
one degree of freedom less than there are users. An accuracy has Wilson's interval at the number of
independent scenes that this variance is worth, so that it stays within 0 and 1 and 0 of 12 is not
0 +- 0; a difference has the symmetric one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

#: Level of every interval that is shown.
LEVEL = 0.95


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


def accuracy(hits: np.ndarray, users: np.ndarray, level: float = LEVEL) -> Estimate:
    """Return the mean of hits between 0 and 1.

    Args:
        hits: [scenes], parts where guesses tie.
        users: [scenes] of numbers, equal for scenes of one user.
        level: Of the interval.

    Raises:
        ValueError: if there are no scenes.
    """
    hits = np.asarray(hits, np.float64)
    n, value, variance, clusters = _moments(hits, users)
    if clusters < 2:
        return Estimate(value, 0.0, 1.0, n)
    t = float(stats.t.ppf((1 + level) / 2, clusters - 1))
    if 0 < value < 1 and np.ptp(hits) == 0:
        return Estimate(value, value, value, n)  # a guess of the same chance in every scene
    spread = value * (1 - value)
    independent = min(n, spread / variance) if variance > 0 else float(clusters)
    centre = (value + t**2 / (2 * independent)) / (1 + t**2 / independent)
    half = t / (1 + t**2 / independent)
    half *= (spread / independent + t**2 / (4 * independent**2)) ** 0.5
    return Estimate(value, max(0.0, centre - half), min(1.0, centre + half), n)


def difference(deltas: np.ndarray, users: np.ndarray, level: float = LEVEL) -> Estimate:
    """Return the mean of paired differences between -1 and 1; arguments as of `accuracy`."""
    n, value, variance, clusters = _moments(deltas, users)
    if clusters < 2:
        return Estimate(value, -1.0, 1.0, n)
    half = float(stats.t.ppf((1 + level) / 2, clusters - 1)) * variance**0.5
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), n)


def _moments(values: np.ndarray, users: np.ndarray) -> tuple[int, float, float, int]:
    """Return the number of scenes, their mean, its variance and the number of users."""
    if not len(values):
        raise ValueError("no scenes to take a mean of")
    _, number = np.unique(users, return_inverse=True)
    counts = np.bincount(number)
    mean = float(np.mean(values))
    residuals = np.bincount(number, weights=values) - mean * counts
    clusters = len(counts)
    correction = clusters / max(clusters - 1, 1)
    variance = correction * float(residuals @ residuals) / len(values) ** 2
    return len(values), mean, variance, clusters

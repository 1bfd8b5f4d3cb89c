"""Accuracies and their differences, with intervals clustered by user and by item.

Scenes of one user are not independent, nor are scenes with one target: where a film is the target
of fifty scenes, a guess that likes its title is right or wrong in all of them. An interval that
takes them for so many draws is too narrow. Both functions use the cluster-robust variance of a
mean, two-way where items are given (Cameron, Gelbach and Miller 2011), never less than by user
alone, and Student's t with one degree of freedom less than there are users. An accuracy has
Wilson's interval at the number of independent scenes that this variance is worth, so that it stays
within 0 and 1 and 0 of 12 is not 0 +- 0; a difference has the symmetric one.
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
    t = float(stats.t.ppf((1 + level) / 2, clusters - 1))
    if 0 < value < 1 and np.ptp(hits) == 0:
        return Estimate(value, value, value, n)  # a guess of the same chance in every scene
    spread = value * (1 - value)
    independent = min(n, spread / variance) if variance > 0 else float(clusters)
    centre = (value + t**2 / (2 * independent)) / (1 + t**2 / independent)
    half = t / (1 + t**2 / independent)
    half *= (spread / independent + t**2 / (4 * independent**2)) ** 0.5
    return Estimate(value, max(0.0, centre - half), min(1.0, centre + half), n)


def difference(
    deltas: np.ndarray, users: np.ndarray, items: np.ndarray | None = None, level: float = LEVEL
) -> Estimate:
    """Return the mean of paired differences between -1 and 1; arguments as of `accuracy`."""
    n, value, variance, clusters = _moments(deltas, users, items)
    if clusters < 2:
        return Estimate(value, -1.0, 1.0, n)
    half = float(stats.t.ppf((1 + level) / 2, clusters - 1)) * variance**0.5
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), n)


def _moments(
    values: np.ndarray, users: np.ndarray, items: np.ndarray | None
) -> tuple[int, float, float, int]:
    """Return the number of scenes, their mean, its variance and the number of users."""
    if not len(values):
        raise ValueError("no scenes to take a mean of")
    residuals = values - np.mean(values)
    clusters = len(np.unique(users))
    variance = _variance(residuals, users)
    if items is not None:
        _, pairs = np.unique(np.stack([users, items]), axis=1, return_inverse=True)
        two_way = variance + _variance(residuals, items) - _variance(residuals, pairs)
        variance = max(variance, two_way)
    return len(values), float(np.mean(values)), variance, clusters


def _variance(residuals: np.ndarray, groups: np.ndarray) -> float:
    _, number = np.unique(groups, return_inverse=True)
    sums = np.bincount(number, weights=residuals)
    correction = len(sums) / max(len(sums) - 1, 1)
    return correction * float(sums @ sums) / len(residuals) ** 2

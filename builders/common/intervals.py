"""Intervals of a mean over scenes: the one arithmetic of the audit and of the scores.

Scenes of one user are not independent, nor are scenes with one target: where a film is the target
of fifty scenes, a guess that likes its title is right or wrong in all of them. An interval that
takes them for so many draws is too narrow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Level of every interval that is shown.
LEVEL = 0.95


def quantile(clusters: int, level: float = LEVEL) -> float:
    """Return Student's quantile with one degree of freedom less than there are clusters."""
    from scipy.special import stdtrit

    return float(stdtrit(clusters - 1, (1 + level) / 2))


def variance_of_mean(
    values: NDArray[np.float64], users: NDArray, items: NDArray | None = None
) -> float:
    """Return the cluster-robust variance of the mean of `values`.

    The sums of residuals per cluster, with the factor G / (G - 1) for G clusters (Cameron and
    Miller, "A practitioner's guide to cluster-robust inference", 2015, CR1). Where items are
    given, two-way (Cameron, Gelbach and Miller, "Robust inference with multiway clustering",
    2011), but never less than by user alone.

    Args:
        values: One per scene, [n].
        users: [n], equal for scenes of one user.
        items: [n], equal for scenes with one target.
    """
    residuals = values - np.mean(values)
    by_user = _one_way(residuals, users)
    if items is None:
        return by_user
    _, pairs = np.unique(np.stack([users, items]), axis=1, return_inverse=True)
    return max(by_user, by_user + _one_way(residuals, items) - _one_way(residuals, pairs))


def wilson(share: float, independent: float, z: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share, at the independent scenes that it is worth.

    So many scenes are those whose plain variance would be the one that was estimated (Korn and
    Graubard, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", 1998). It stays within 0 and 1, and 0 of 12 is not 0 +- 0.

    Args:
        share: Between 0 and 1.
        independent: Number of independent scenes.
        z: From `quantile`.
    """
    middle = share + z * z / (2 * independent)
    half = z * (share * (1 - share) / independent + z * z / (4 * independent**2)) ** 0.5
    scale = 1 + z * z / independent
    low, high = (middle - half) / scale, (middle + half) / scale
    return max(min(low, share), 0.0), min(max(high, share), 1.0)


def between(value: float, error: float, z: float) -> tuple[float, float]:
    """Return the symmetric interval of a difference of shares, within -1 and 1."""
    return max(value - z * error, -1.0), min(value + z * error, 1.0)


def _one_way(residuals: NDArray[np.float64], groups: NDArray) -> float:
    _, number = np.unique(groups, return_inverse=True)
    sums = np.bincount(number, weights=residuals)
    correction = len(sums) / max(len(sums) - 1, 1)
    return correction * float(sums @ sums) / len(residuals) ** 2

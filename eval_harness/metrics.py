"""Metrics of user simulation as pure numpy functions, each with a standard error and interval.

Probabilities have shape [k] for one scene of k options, or [n, k] for n sampled decisions of it.
Entropies and log-loss are in bits (log2), as the paper's Table 12. The samples of one scene are not
independent, so that the scene is what is counted; the scenes of one user are not independent
either, so that every standard error, interval and test is clustered by user where users are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usermirrorer.builders.common.intervals import between, quantile, variance_of_mean, wilson
from usermirrorer.builders.decisions import uncertainty
from usermirrorer.eval_harness.metric_table import Unit

Floats = NDArray[np.float64]

#: Resamples of every bootstrap here.
RESAMPLES = 1000
#: Equal-width confidence bins of the expected calibration error.
BINS = 10
_Z = 1.959964


def entropy(probabilities: ArrayLike) -> Floats:
    """Return the Shannon entropy in bits over the last axis (0 log 0 = 0)."""
    return uncertainty.entropy(np.asarray(probabilities, dtype=np.float64))


def normalised_entropy(probabilities: ArrayLike) -> Floats:
    """Return the entropy divided by log2 of the number of options: 0 certain, 1 uniform."""
    return entropy(probabilities) / math.log2(np.shape(probabilities)[-1])


def log_loss(probabilities: ArrayLike, answer: int) -> float:
    """Return -log2 P(answer) in bits; infinite if the answer was given no probability."""
    p = float(np.asarray(probabilities)[answer])
    return -math.log2(p) if p > 0 else math.inf


def brier(probabilities: ArrayLike, answer: int) -> float:
    """Return the Brier score, the squared distance to the one-hot answer: 0 best, 2 worst."""
    p = np.array(probabilities, dtype=np.float64)
    p[answer] -= 1.0
    return float(np.sum(p * p))


def confidence_bin(confidence: ArrayLike, bins: int = BINS) -> NDArray[np.int64]:
    """Return the number of the equal-width bin of each confidence; 1 belongs to the last."""
    p = np.asarray(confidence, dtype=np.float64)
    return np.minimum((p * bins).astype(np.int64), bins - 1)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error over equal-width bins of confidence.

    Args:
        confidence: Probability of the most likely option, [scenes].
        correct: Expected accuracy of picking it, 0 to 1, [scenes].
        bins: How many.
    """
    p, hit = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    gap = np.bincount(confidence_bin(p, bins), hit - p, minlength=bins)
    return float(np.abs(gap).sum() / len(p))


def frequencies(behaviors: Sequence[int | None], options: int) -> Floats:
    """Estimate P(option) from sampled behaviors, where a model gives no log-probabilities.

    Malformed samples (None) are spread evenly over the options, and so is one pseudo-count, so
    that no option has probability 0: (count + malformed/k + 1/k) / (n + 1).
    """
    counts = np.zeros(options)
    for behavior in behaviors:
        if behavior is None:
            counts += 1 / options
        else:
            counts[behavior] += 1
    return (counts + 1 / options) / (len(behaviors) + 1)


def sampled_entropy(behaviors: Sequence[int | None], options: int) -> float:
    """Estimate the entropy in bits from sampled behaviors, malformed ones (None) left out.

    The entropy of the frequencies with Miller and Madow's correction of its bias, at most log2 k,
    which it also is if no sample is well formed.
    """
    seen = [b for b in behaviors if b is not None]
    if not seen:
        return math.log2(options)
    counts = np.bincount(seen)
    correction = (np.count_nonzero(counts) - 1) / (2 * len(seen) * math.log(2))
    return min(float(entropy(counts / len(seen))) + correction, math.log2(options))


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval."""

    value: float
    stderr: float
    low: float
    high: float
    n: int


def mean(
    values: ArrayLike, users: Sequence[Hashable] | None = None, unit: Unit = "number"
) -> Estimate:
    """Return the mean over scenes with its cluster-robust standard error and 95 % interval.

    Scenes that are all alike, as 0 right of 12, do not say that all others are: see
    `_error_of_a_constant`.

    The variance is that of `intervals.variance_of_mean`; without users, each scene is a user of its
    own and it is the ordinary one. The standard error of fewer than two users, or of an infinite
    mean, is NaN.

    Args:
        values: One per scene.
        users: Whose scene each is.
        unit: What the values are: see `interval`.
    """
    x = np.asarray(values, dtype=np.float64)
    value = float(x.mean())
    number = _numbers(users, len(x))
    groups = int(number.max()) + 1
    error = math.nan
    if groups > 1 and math.isfinite(value):  # log-loss can be infinite
        error = math.sqrt(variance_of_mean(x, number))
        if error < 1e-12:  # rounding of a constant
            error = _error_of_a_constant(value, groups, unit)
    return Estimate(value, error, *interval(value, error, groups, unit), len(x))


def _error_of_a_constant(value: float, users: int, unit: Unit) -> float:
    """Return the standard error where every scene has the same value.

    Of a share of 0 or 1 it is that of the posterior from a uniform prior, about 1 / (users + 2); of
    another share that of so many single scenes; of a difference so large that 1.96 of it is the
    upper end of the exact interval for 0 of so many users.
    """
    if unit == "difference":
        return 1.5 / (users + 2)
    if unit != "share":
        return 0.0
    spread = value * (1 - value)
    return math.sqrt(spread / users) if spread > 0 else 1 / (users + 2)


def _numbers(users: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """Return the users as whole numbers from 0, one per scene."""
    if users is None:
        return np.arange(n)
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(user, len(known)) for user in users], dtype=np.int64)


def interval(value: float, stderr: float, users: int, unit: Unit) -> tuple[float, float]:
    """Return the 95 % interval of a mean: the one rule of tasks, tables, cards and pages.

    The quantile is Student's with one degree of freedom less than there are users. A share has
    Wilson's score interval for as many independent scenes as would have this standard error.

    Args:
        value: The mean.
        stderr: Its standard error as `mean` gives it; without one there is no interval (NaN).
        users: Number of users that it rests on.
        unit: `share`, `difference`, `bits`, `number`, or `exact` (no interval).
    """
    if unit == "exact" or not math.isfinite(value) or not math.isfinite(stderr):
        return math.nan, math.nan
    z = _quantile(users)
    if unit == "share":
        return _wilson(min(max(value, 0.0), 1.0), stderr, z)
    if unit == "difference":
        return between(value, stderr, z)
    return value - z * stderr, value + z * stderr


def _quantile(users: int) -> float:
    return quantile(users) if users > 1 else _Z


def _wilson(share: float, stderr: float, z: float) -> tuple[float, float]:
    if stderr <= 0:
        return share, share
    spread = share * (1 - share)
    n = spread / stderr**2 if spread > 1e-9 else max(1 / stderr - 2, 1.0)
    return wilson(share, n, z)


def bootstrap(
    statistic: Callable[[NDArray], float],
    rows: ArrayLike,
    users: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Estimate:
    """Return `statistic(rows)` with the bootstrap's standard error and percentile 95 % interval.

    Args:
        statistic: Maps an array of rows [n, ...] to a number.
        rows: One row per scene.
        users: Whose scene each is; users are drawn, with all their scenes.
        seed: Of the resampling.
    """
    data = np.asarray(rows)
    number = _numbers(users, len(data))
    order = np.argsort(number, kind="stable")
    scenes = np.split(order, np.cumsum(np.bincount(number))[:-1])
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        picked = generator.integers(0, len(scenes), len(scenes))
        chosen = order[picked] if users is None else np.concatenate([scenes[i] for i in picked])
        draws.append(statistic(data[chosen]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(
        float(statistic(data)), float(np.std(draws, ddof=1)), float(low), float(high), len(data)
    )


@dataclass(frozen=True)
class Comparison:
    """Two models on the same scenes: mean difference `b - a`, its interval, and a p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def paired_test(
    a: ArrayLike, b: ArrayLike, users: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Comparison:
    """Compare per-scene scores of two models on the same scenes, in the same order.

    The p-value is that of a sign-flip permutation test of the mean difference, in which the scenes
    of a user are flipped together (exact up to 14 users that differ, 10,000 random flips beyond);
    on 0/1 scores of one scene per user this is McNemar's exact test. The interval is that of
    `mean`.

    Args:
        a: Scores of one model, one per scene.
        b: Scores of the other.
        users: Whose scene each is; without it each scene is a user's only one.
        seed: Of the random flips.

    Raises:
        ValueError: if they have different lengths.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or (users is not None and len(users) != len(x)):
        raise ValueError(f"{x.shape[0]} and {y.shape[0]} scenes cannot be paired")
    difference = y - x
    gap = mean(difference, users, "difference" if _are_shares(x, y) else "number")
    sums = np.bincount(_numbers(users, len(x)), difference).astype(np.float64)
    return Comparison(gap.value, gap.low, gap.high, _sign_flip(sums, seed), len(x))


def _are_shares(*scores: Floats) -> bool:
    return all(bool(((s >= 0) & (s <= 1)).all()) for s in scores)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order.

    S. Holm, "A simple sequentially rejective multiple test procedure", 1979: the chance that any
    of the true null hypotheses is rejected stays below the level.
    """
    corrected, worst = list(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(corrected)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(corrected) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected


def _sign_flip(difference: Floats, seed: int) -> float:
    moved = np.abs(difference[np.abs(difference) > 1e-12])
    observed = abs(difference.sum()) - 1e-9
    if len(moved) == 0:
        return 1.0
    if len(moved) <= 14:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float(np.mean(np.abs((2 * bits - 1) @ moved) >= observed))
    generator = np.random.default_rng(seed)
    hits = sum(
        int(
            np.sum(
                np.abs((generator.integers(0, 2, (1000, len(moved))) * 2 - 1) @ moved) >= observed
            )
        )
        for _ in range(10)
    )
    return (hits + 1) / 10_001

"""Metrics of user simulation as pure numpy functions, each with a standard error or interval.

Probabilities have shape [k] for one scene of k options, or [n, k] for n sampled decisions of it.
Entropies and log-loss are in bits (log2), as the paper's Table 12. Anything that is a mean over
scenes has the standard error of that mean; the scene is the unit, because the samples of one scene
are not independent. Everything else has a bootstrap over scenes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Resamples of every bootstrap here.
RESAMPLES = 1000
#: Equal-width confidence bins of the expected calibration error.
BINS = 10


def softmax(logits: ArrayLike) -> Floats:
    """Return probabilities over the last axis; log-probabilities up to a constant will do."""
    x = np.asarray(logits, dtype=np.float64)
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def entropy(probabilities: ArrayLike) -> Floats:
    """Return the Shannon entropy in bits over the last axis (0 log 0 = 0)."""
    p = np.asarray(probabilities, dtype=np.float64)
    return -np.sum(p * np.log2(np.where(p > 0, p, 1.0)), axis=-1)


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


def top_choice(scores: ArrayLike, answer: int) -> float:
    """Return the accuracy of picking the largest score, ties broken at random (its expectation).

    Scores within 1e-9 are tied: means of the same numbers in another order differ by rounding.
    Missing scores (NaN) are never picked unless all are missing; then every option is a tie.
    """
    x = np.asarray(scores, dtype=np.float64)
    x = np.where(np.isnan(x), -np.inf, x)
    best = (x == x.max()) | (x >= x.max() - 1e-9)
    return float(best[answer] / best.sum())


def calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Return the expected calibration error over `BINS` equal-width bins of confidence.

    Args:
        confidence: Probability of the most likely option, [scenes].
        correct: Expected accuracy of picking it, 0 to 1, [scenes].
    """
    p, hit = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    gap = np.bincount(index, hit - p, minlength=BINS)
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


def mean(values: ArrayLike) -> Estimate:
    """Return the mean over scenes with its standard error and normal 95 % interval.

    The standard error of fewer than two values, or of an infinite mean, is NaN.
    """
    x = np.asarray(values, dtype=np.float64)
    value = float(x.mean())
    finite = len(x) > 1 and math.isfinite(value)  # log-loss can be infinite
    error = float(x.std(ddof=1) / math.sqrt(len(x))) if finite else math.nan
    return Estimate(value, error, value - 1.96 * error, value + 1.96 * error, len(x))


def bootstrap(statistic: Callable[[NDArray], float], rows: ArrayLike, *, seed: int = 0) -> Estimate:
    """Return `statistic(rows)` with the bootstrap's standard error and percentile 95 % interval.

    Args:
        statistic: Maps an array of rows [n, ...] to a number.
        rows: One row a scene.
        seed: Of the resampling.
    """
    data = np.asarray(rows)
    generator = np.random.default_rng(seed)
    draws = [statistic(data[generator.integers(0, len(data), len(data))]) for _ in range(RESAMPLES)]
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


def paired_test(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Comparison:
    """Compare per-scene scores of two models on the same scenes, in the same order.

    The p-value is that of a sign-flip permutation test of the mean difference (exact up to 14
    scenes that differ, 10,000 random flips beyond); on 0/1 scores this is McNemar's exact test.
    The interval is a paired bootstrap.

    Raises:
        ValueError: if the two have different lengths.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"{x.shape[0]} and {y.shape[0]} scenes cannot be paired")
    difference = y - x
    interval = bootstrap(np.mean, difference, seed=seed)
    return Comparison(
        interval.value, interval.low, interval.high, _sign_flip(difference, seed), len(x)
    )


def _sign_flip(difference: Floats, seed: int) -> float:
    moved = np.abs(difference[difference != 0])
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

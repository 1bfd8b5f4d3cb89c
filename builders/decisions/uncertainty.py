"""Uncertainty decomposition over decision processes (Definition 3.1, equations 2 and 3).

All entropies are in bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 65_536  # decisions at a time: what is in memory beside the input does not grow with it


class Uncertainty(NamedTuple):
    """Equation 2 for s scenes, in bits: `total` = `mutual` + `epistemic`, each [s].

    NaN where a scene has no well-formed decision.
    """

    total: np.ndarray
    mutual: np.ndarray
    epistemic: np.ndarray


def softmax(logits: ArrayLike) -> np.ndarray:
    """Return probabilities over the last axis; log-probabilities up to a constant will do."""
    x = np.asarray(logits, dtype=np.float64)
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def entropy(probabilities: ArrayLike) -> np.ndarray:
    """Return the entropy in bits over the last axis; NaN entries are options that are not there.

    Args:
        probabilities: [..., k], each row adding up to 1. A row of NaN alone gives NaN.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    there = np.isfinite(probabilities)
    positive = there & (probabilities > 0)
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=positive)
    sums = -np.where(positive, probabilities * logs, 0.0).sum(axis=-1)
    return np.where(there.any(axis=-1), np.maximum(sums, 0.0), np.nan)


def decompose(probabilities: np.ndarray, scene: np.ndarray, scenes: int) -> Uncertainty:
    """Split the uncertainty of each scene over its decisions.

    Args:
        probabilities: [d, k], P(Y | X + D_i), one row per decision; NaN for options that its scene
            does not have. Rows add up to 1 but for rounding, which is taken out in float64.
        scene: [d], which scene each row is of, in any order.
        scenes: The number s of scenes.
    """
    summed = np.zeros((scenes, probabilities.shape[1]))
    entropies, count = np.zeros(scenes), np.zeros(scenes)
    for start in range(0, len(scene), _BLOCK):
        block = probabilities[start : start + _BLOCK].astype(np.float64)
        block /= np.nansum(block, axis=-1, keepdims=True)
        at = scene[start : start + _BLOCK]
        np.add.at(summed, at, np.nan_to_num(block))
        np.add.at(entropies, at, entropy(block))
        np.add.at(count, at, 1)
    some = np.where(count > 0, count, np.nan)
    total, epistemic = entropy(summed / some[:, None]), entropies / some
    # Rounding may put H(mean) a hair below E[H]; Jensen's inequality says it is not.
    mutual = np.maximum(total - epistemic, 0.0)
    return Uncertainty(epistemic + mutual, mutual, epistemic)


def delta(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Equation 3 with A the weak and B the strong model: epistemic weak - strong, bits, [s]."""
    return weak - strong

"""Uncertainty decomposition over decision processes (Definition 3.1, equations 2 and 3).

All entropies are in bits. Arrays are float64 with NaN where a scene has fewer options or fewer
well-formed decisions than the widest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Uncertainty(NamedTuple):
    """Equation 2 for s scenes, in bits: `total` = `mutual` + `epistemic`, each [s].

    NaN where a scene has no well-formed decision.
    """

    total: np.ndarray
    mutual: np.ndarray
    epistemic: np.ndarray


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy in bits over the last axis; NaN entries are options that are not there.

    Args:
        probabilities: [..., k], each row adding up to 1. A row of NaN alone gives NaN.
    """
    there = np.isfinite(probabilities)
    positive = there & (probabilities > 0)
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=positive)
    sums = -np.where(positive, probabilities * logs, 0.0).sum(axis=-1)
    return np.where(there.any(axis=-1), np.maximum(sums, 0.0), np.nan)


def decompose(probabilities: np.ndarray) -> Uncertainty:
    """Split the uncertainty of each scene.

    Args:
        probabilities: [s, n, k], P(Y | X + D_i) over k options for n decisions of s scenes.
    """
    decisions = np.isfinite(probabilities).any(axis=-1)
    count = decisions.sum(axis=-1)
    some = count > 0
    options = np.isfinite(probabilities).any(axis=-2)
    summed = np.where(np.isfinite(probabilities), probabilities, 0.0).sum(axis=-2)
    mean = np.divide(summed, count[:, None], out=np.zeros_like(summed), where=some[:, None])
    total = entropy(np.where(options, mean, np.nan))
    each = np.where(decisions, entropy(probabilities), 0.0).sum(axis=-1)
    epistemic = np.divide(each, count, out=np.full(len(count), np.nan), where=some)
    # Rounding may put H(mean) a hair below E[H]; Jensen's inequality says it is not.
    mutual = np.maximum(total - epistemic, 0.0)
    return Uncertainty(epistemic + mutual, mutual, epistemic)


def delta(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Equation 3 with A the weak and B the strong model: epistemic weak - strong, bits, [s]."""
    return weak - strong


def stack(rows: Sequence[Sequence[Sequence[float] | None]]) -> np.ndarray:
    """Put ragged probabilities (scenes of decisions of options) into one [s, n, k], NaN padded."""
    n = max((len(scene) for scene in rows), default=0)
    k = max((len(p) for scene in rows for p in scene if p is not None), default=0)
    out = np.full((len(rows), n, k), np.nan)
    for s, scene in enumerate(rows):
        for i, p in enumerate(scene):
            if p is not None:
                out[s, i, : len(p)] = p
    return out

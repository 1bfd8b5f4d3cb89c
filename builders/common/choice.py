"""How right a choice by scores is: the one rule behind accuracies and every baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

#: Scores this close are tied: means of the same numbers in another order differ by rounding.
TIE = 1e-9


def top_choice(scores: ArrayLike | None, answer: int, options: int | None = None) -> float:
    """Return the accuracy of picking the largest score, ties broken at random (its expectation).

    Missing scores (None, NaN) are never picked unless all are missing; then every option is a tie.

    Args:
        scores: One per option.
        answer: Index of the right option.
        options: Number of options, where it is not certain that there are scores: with none, or
            with another number of them, the pick is a guess.
    """
    x = np.asarray([] if scores is None else scores, dtype=np.float64)
    if options is not None and len(x) != options:
        return 1 / options
    x = np.where(np.isnan(x), -np.inf, x)
    best = (x == x.max()) | (x >= x.max() - TIE)
    return float(best[answer] / best.sum())

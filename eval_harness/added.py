"""What a simulator knows of a scene that a baseline does not.

A simulator may be right less often than a baseline and still know what the baseline lacks. So the
two are read together, by a conditional logit (McFadden, "Conditional logit analysis of qualitative
choice behavior", 1974): an option is as likely as exp(a * its score by the baseline + b * its
log-probability by the simulator). The weights are fitted on other users than they are used on, five
times. What the log-loss falls by against the baseline alone, in bits, only the simulator knew. One
that knows nothing adds nothing, since b is then about 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.decisions.uncertainty import softmax
from usermirrorer.eval_harness.metrics import Comparison, log_loss, paired_test

_FOLDS = 5
#: Keeps weights finite where a score is always right; too small to matter otherwise.
_RIDGE = 1e-3
_LEAST = 1e-6
_STEPS = 50
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Added:
    """A baseline alone, and with the simulator beside it, on the same scenes.

    Args:
        bits: What the simulator takes off the baseline's log-loss, clustered by user.
        points: What it adds to its accuracy, as a share.
        alone: Mean log-loss of the baseline alone, in bits.
        together: That of both.
    """

    bits: Comparison
    points: Comparison
    alone: float
    together: float


def added(
    baseline: Sequence[ArrayLike],
    simulator: Sequence[ArrayLike],
    answers: Sequence[int],
    users: Sequence[Hashable],
) -> Added:
    """Return what a simulator adds to a baseline.

    Args:
        baseline: Per scene, a score of each option.
        simulator: Per scene, the probability of each option.
        answers: Index of each scene's real behavior.
        users: Whose scene each is; at least two.

    Raises:
        ValueError: if the lengths differ or all scenes are one user's.
    """
    number = {user: n for n, user in enumerate(dict.fromkeys(users))}
    if len(number) < 2:
        raise ValueError("scenes of one user alone leave nobody to fit on")
    fold = np.array([number[user] for user in users]) % _FOLDS
    scores = _padded(baseline, 0.0)
    own = np.log(np.maximum(_padded(simulator, 1.0), _LEAST))
    there = np.arange(scores.shape[1]) < np.array([[len(np.asarray(row))] for row in baseline])
    if scores.shape != own.shape or {len(answers), len(users)} != {len(scores)}:
        raise ValueError("baseline and simulator do not speak of the same scenes")
    truth = np.asarray(answers)
    alone = _out_of_fold(scores[:, :, None], there, truth, fold)
    both = _out_of_fold(np.stack([scores, own], axis=2), there, truth, fold)
    told = [[p[n, there[n]] for n in range(len(truth))] for p in (alone, both)]
    lost = [np.array([log_loss(*one) for one in zip(p, truth, strict=True)]) for p in told]
    right = [[top_choice(*one) for one in zip(p, truth, strict=True)] for p in told]
    return Added(
        bits=paired_test(lost[1], lost[0], users),
        points=paired_test(right[0], right[1], users),
        alone=float(lost[0].mean()),
        together=float(lost[1].mean()),
    )


def _padded(rows: Sequence[ArrayLike], value: float) -> Floats:
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    padded = np.full((len(arrays), max(map(len, arrays))), value)
    for number, row in enumerate(arrays):
        padded[number, : len(row)] = row
    return padded


def _out_of_fold(x: Floats, there: NDArray, truth: NDArray, fold: NDArray) -> Floats:
    """Return the probability of each option [n, k] by weights of other users' scenes."""
    p = np.zeros(there.shape)
    for part in np.unique(fold):
        held = fold == part
        weights = _fit(x[~held], there[~held], truth[~held])
        p[held] = _probabilities(x[held], there[held], weights)
    return p


def _fit(x: Floats, there: NDArray, truth: NDArray) -> Floats:
    """Return the likeliest weights [features] of a conditional logit, by Newton's method."""
    weights = np.zeros(x.shape[2])
    chosen = x[np.arange(len(truth)), truth]
    for _ in range(_STEPS):
        p = _probabilities(x, there, weights)
        expected = np.einsum("nk,nkf->nf", p, x)
        slope = (chosen - expected).mean(axis=0) - _RIDGE * weights
        second = np.einsum("nk,nkf,nkg->fg", p, x, x) - expected.T @ expected
        bend = second / len(truth) + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        weights += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _probabilities(x: Floats, there: NDArray, weights: Floats) -> Floats:
    return softmax(np.where(there, x @ weights, -np.inf))

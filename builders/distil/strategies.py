"""How scenes are ranked before pairs are made of them: Table 2 and appendix C.4."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import (
    Mode,
)
from usermirrorer.builders.distil.candidates import Candidates


@dataclass(frozen=True)
class Strategy:
    """How scenes are ranked.

    Args:
        rank: Candidates and a seed to [s]; higher is taken first.
        source: Where it comes from.
        mode: `direct` leaves the decision processes out of prompt and responses.
    """

    rank: Callable[[Candidates, int], np.ndarray]
    source: str
    mode: Mode = "decision"


def _random(candidates: Candidates, seed: int) -> np.ndarray:
    keys = [f"{seed}/{name}".encode() for name in candidates.scenes["scene_id"].to_pylist()]
    digests = [hashlib.blake2b(key, digest_size=8).digest() for key in keys]
    return np.array([int.from_bytes(digest) / 2**64 for digest in digests])


def _ifd(candidates: Candidates, seed: int) -> np.ndarray:
    if candidates.ifd is None:
        raise UserError("strategy ifd needs scores of a model", fix="Name it by --model.")
    # From 1 on the prompt does not help at all: the method's authors leave such responses out.
    return np.where(candidates.ifd < 1, candidates.ifd, -candidates.ifd)


#: All of Table 2 and appendix C.4, each on the same candidate set.
STRATEGIES: dict[str, Strategy] = {
    "delta_eu": Strategy(
        lambda c, _: c.delta,
        "equation 3: largest epistemic uncertainty of the weak minus that of the strong model",
    ),
    "random": Strategy(_random, "Table 2, Random (w/ Decisions): scenes at random"),
    "random_direct": Strategy(
        _random,
        "Table 2, Random (w/o Decisions): the scenes of random, behaviors alone (section 3.1)",
        "direct",
    ),
    "high_accuracy": Strategy(
        lambda c, _: c.strong_accuracy,
        "Table 2, High Accuracy: the strong model is right most often",
    ),
    "low_accuracy": Strategy(
        lambda c, _: -c.strong_accuracy,
        "Table 2, Low Accuracy: the strong model is right least often",
    ),
    "difference_accuracy": Strategy(
        lambda c, _: c.strong_accuracy - c.weak_accuracy,
        "Table 2, Diff. Accuracy: the strong model is right more often than the weak one",
    ),
    "ifd": Strategy(
        _ifd,
        "Table 2, IFD Score: largest perplexity of the chosen response with the prompt over that "
        "without it, by --model; ratios of 1 and more come last",
    ),
}


def get_strategy(name: str) -> Strategy:
    """Return a strategy by its name.

    Raises:
        UserError: if there is none.
    """
    if name not in STRATEGIES:
        raise UserError(
            f"no strategy is called {name!r}", fix=f"Choose from {', '.join(STRATEGIES)}."
        )
    return STRATEGIES[name]

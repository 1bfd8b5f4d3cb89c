"""Whether a score shows taste, in words: the same on the leaderboard and on cards."""

from __future__ import annotations

import math
from typing import NamedTuple


class Loss(NamedTuple):
    """What an ablation costs, as a share, with its 95 % interval."""

    value: float
    low: float
    high: float


NO_TASTE = "has learnt no taste"


def shows_taste(no_history: Loss | None, swapped: Loss | None) -> bool | None:
    """Say whether a simulator loses by an ablation; None if neither was run.

    It has learnt no taste if the interval of neither loss lies above zero: without its history, or
    with another user's, it is right as often.
    """
    known = [loss for loss in (no_history, swapped) if loss and math.isfinite(loss.low)]
    return any(loss.low > 0 for loss in known) if known else None


def in_short(no_history: Loss | None, swapped: Loss | None) -> str:
    """Return the verdict for the cell of a table."""
    words = {True: "reads the history", False: "no taste learnt", None: "not known"}
    return words[shows_taste(no_history, swapped)]


def in_words(no_history: Loss | None, swapped: Loss | None) -> str:
    """Return a sentence without a subject, such as `has learnt no taste: it loses ...`."""
    told = shows_taste(no_history, swapped)
    if told is None:
        return "not known: the ablations were not run, or no scene has a history"
    losses = [
        f"{_points(loss)} points {name}"
        for loss, name in ((no_history, "without history"), (swapped, "with another's history"))
        if loss
    ]
    if told:
        return f"reads the history: it loses {' and '.join(losses)}"
    return f"{NO_TASTE}: it loses nothing that these scenes show ({', '.join(losses)})"


def _points(loss: Loss) -> str:
    interval = f" [{100 * loss.low:+.1f}, {100 * loss.high:+.1f}]"
    return f"{100 * loss.value:.1f}{interval if math.isfinite(loss.low) else ''}"

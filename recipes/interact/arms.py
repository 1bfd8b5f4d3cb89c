"""What is added to the log before a recommender learns again: by simulators and by the controls.

Any item of a recommender's own list teaches it its own opinion (self-training), whoever picks it.
So each control picks from the same lists, by a rule that knows nothing of the person, and one that
knows the future. Only what a simulator gains above the former is the simulator's.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from usermirrorer.recipes.interact.exposures import OPTIONS
from usermirrorer.recipes.interact.splits import Split

#: Control -> what it adds.
CONTROLS = {
    "none": "nothing is added",
    "own first": "the recommender's own first item",
    "random": "a random item of the list",
    "most popular": "the item of the list that most people took",
    "ceiling": "the item of the list that the person really takes next, where it holds one",
}
NOTHING = -1


def ranks_of(control: str, ranked: np.ndarray, split: Split, seed: list[int]) -> np.ndarray:
    """Return the rank that a control picks of each list [users], `NOTHING` where it picks none.

    Args:
        control: One of `CONTROLS`.
        ranked: [users, OPTIONS] item numbers, best first.
        split: The log.
        seed: Of `random`.
    """
    if control == "none":
        return np.full(len(ranked), NOTHING)
    if control == "own first":
        return np.zeros(len(ranked), np.int64)
    if control == "random":
        return np.random.default_rng([*seed, 13]).integers(OPTIONS, size=len(ranked))
    if control == "most popular":
        return np.asarray(popularity(split)[ranked].argmax(axis=1))
    return _next(ranked, split)


def popularity(split: Split) -> np.ndarray:
    """Return how many people took each item in the train part [items]."""
    taken = split.log.filter(pl.col("part") == "train")["item"].to_numpy()
    return np.bincount(taken, minlength=len(split.items))


def _next(ranked: np.ndarray, split: Split) -> np.ndarray:
    later = split.log.filter(pl.col("part") != "train").sort("user", "place")
    picks = np.full(len(ranked), NOTHING)
    for (user,), rows in later.group_by("user", maintain_order=True):
        places = {item: rank for rank, item in enumerate(ranked[int(user)].tolist())}  # type: ignore[call-overload]
        hits = (places[item] for item in rows["item"].to_list() if item in places)
        picks[int(user)] = next(hits, NOTHING)  # type: ignore[call-overload]
    return picks


def additions(ranks: np.ndarray, ranked: np.ndarray, split: Split) -> pl.DataFrame:
    """Return what is added to the log: right behind each user's train part."""
    counts = split.log.filter(pl.col("part") == "train").group_by("user").len().sort("user")
    users = np.flatnonzero(ranks != NOTHING)
    return pl.DataFrame(
        {
            "user": users,
            "item": ranked[users, ranks[users]],
            "place": counts["len"].to_numpy()[users] - 0.5,
        },
        schema={"user": pl.Int64, "item": pl.Int64, "place": pl.Float64},
    )

"""The log of people who trained no simulator, in three parts 8:1:1, each person's oldest first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.source import Tables

#: Fewer people than this say nothing about a recommender.
FEWEST_USERS = 20
#: A person needs so many interactions that each of the three parts has one.
FEWEST_EVENTS = 10


@dataclass(frozen=True)
class Split:
    """A log in parts.

    Args:
        log: Columns `user`, `item` (numbers), `place` (of an event in its user's order), `part`
            (train, valid or test), `seconds`, and `event`, its row of the interactions table.
        users: Id of each user number.
        items: Row of the items table of each item number.
        removed: How many people were left out because they trained a simulator.
        short: How many more had too few interactions.
    """

    log: pl.DataFrame
    users: list[str]
    items: np.ndarray
    removed: int
    short: int


def split(tables: Tables, trained: Collection[str], *, users: int, seed: int) -> Split:
    """Return the parts of a log; an item that a person took again counts once, where it was first.

    Args:
        tables: Canonical tables.
        trained: Users to leave out.
        users: How many of the others at most, drawn at random (0: all).
        seed: Of that draw.

    Raises:
        UserError: if too few people are left.
    """
    events = _events(tables)
    everyone = events["user_id"].n_unique()
    kept = events.filter(~pl.col("user_id").is_in(list(trained)))
    removed = everyone - kept["user_id"].n_unique()
    own = kept.group_by("user_id").len().filter(pl.col("len") >= FEWEST_EVENTS)
    left = own["user_id"].sort().to_list()
    short = kept["user_id"].n_unique() - len(left)
    if len(left) < FEWEST_USERS:
        raise UserError(
            f"{len(left)} people are left: {removed} of {everyone} trained a simulator, "
            f"{short} have fewer than {FEWEST_EVENTS} interactions",
            fix=f"At least {FEWEST_USERS} are needed: train on fewer, or take a larger source.",
        )
    if users and users < FEWEST_USERS:
        raise UserError(
            f"{users} people are too few",
            where="--users",
            fix=f"Take at least {FEWEST_USERS}, or 0 for all.",
        )
    if users and users < len(left):
        chosen = np.random.default_rng([seed, 7]).permutation(len(left))[:users]
        left = sorted(left[number] for number in chosen)
    return _parts(kept.filter(pl.col("user_id").is_in(left)), left, removed, short)


def _events(tables: Tables) -> pl.DataFrame:
    rows = tables.items.select("item_id").with_row_index("row")
    return (
        tables.interactions.with_row_index("event")
        .select("event", "user_id", "item_id", seconds=pl.col("timestamp").dt.epoch("s"))
        .join(rows, on="item_id")
        .sort("user_id", "seconds", "item_id")
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
    )


def _parts(events: pl.DataFrame, users: list[str], removed: int, short: int) -> Split:
    items = events["row"].unique().sort()
    numbers = pl.DataFrame({"user_id": users, "user": np.arange(len(users))})
    catalogue = pl.DataFrame({"row": items, "item": np.arange(len(items))})
    count, place = pl.len().over("user_id"), pl.int_range(pl.len()).over("user_id")
    held = (count // 10).clip(lower_bound=1)
    log = (
        events.with_columns(place=place.cast(pl.Float64), _left=count - place, _held=held)
        .with_columns(
            part=pl.when(pl.col("_left") <= pl.col("_held"))
            .then(pl.lit("test"))
            .when(pl.col("_left") <= 2 * pl.col("_held"))
            .then(pl.lit("valid"))
            .otherwise(pl.lit("train"))
        )
        .join(numbers, on="user_id", maintain_order="left")
        .join(catalogue, on="row", maintain_order="left")
        .select("user", "item", "place", "part", "seconds", "event")
    )
    return Split(log, users, items.to_numpy(), removed, short)

"""Which behaviors can become scenes: the same rule for a target as for what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from usermirrorer.builders.raw.source import Tables
from usermirrorer.builders.scenes.contemporaries import Contemporaries, Window, stand
from usermirrorer.builders.scenes.feedback import FirstTimes, Log

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Targets:
    """Real behaviors to make scenes of.

    Shapes: all [b]; `logged` [b, width] holds the other items of a logged list, -1 padded;
    `placebo` is the item that the scene's placebo is made for, -1: it has none.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    end: np.ndarray  # log row where the user's history before the scene ends
    placebo: np.ndarray
    logged: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Targets:
        """Return those of the given rows."""
        return Targets(
            user=self.user[rows],
            item=self.item[rows],
            time=self.time[rows],
            end=self.end[rows],
            placebo=self.placebo[rows],
            logged=None if self.logged is None else self.logged[rows],
        )

    def __len__(self) -> int:
        return len(self.user)


def behaviors(log: Log, firsts: FirstTimes, fewest: int, gap: int) -> tuple[Targets, np.ndarray]:
    """Return each user's first interaction with an item, where enough lies before it.

    Args:
        log: All interactions.
        firsts: Of the same.
        fewest: Interactions that the history must have.
        gap: Seconds between the end of the history and the scene; 0: strictly before.

    Returns:
        The behaviors in the order of the log, and the log row of each.
    """
    rows = np.sort(firsts.rows)
    user, time = log.user[rows], log.time[rows]
    if gap:
        end = log.ends(user, time - gap)
    else:
        starts_moment = np.ones(len(log.user), bool)
        starts_moment[1:] = (log.user[1:] != log.user[:-1]) | (log.time[1:] != log.time[:-1])
        end = np.maximum.accumulate(np.where(starts_moment, np.arange(len(log.user)), 0))[rows]
    enough = end - log.offsets[user] >= fewest
    rows, end = rows[enough], end[enough]
    none = np.full(len(rows), -1)
    return Targets(log.user[rows], log.item[rows], log.time[rows], end, none), rows


def eligible(
    targets: Targets,
    visible_from: np.ndarray,
    pool: Contemporaries | None,
    window: Window,
) -> Targets:
    """Keep the behaviors whose item would be allowed beside another target.

    Args:
        targets: Behaviors.
        visible_from: Seconds from which each item is there, [items].
        pool: What contemporaries took, if the others are drawn from it: then the item must stand in
            the scene's window as well.
        window: How far back they go.
    """
    good = visible_from[targets.item] < targets.time
    if pool is not None:
        good &= stand(pool, window, targets.item, targets.time)
    return targets.take(np.flatnonzero(good))


def cut_time(targets: Targets, share: float) -> int:
    """Return the time before which a share of the behaviors lies."""
    return int(np.quantile(targets.time, share, method="lower"))


def on_side(targets: Targets, split: str, cut: int | None) -> np.ndarray:
    """Say which behaviors lie on a split's side of the time cut, [b] (None: there is no cut)."""
    if cut is None:
        return np.ones(len(targets), bool)
    return (targets.time < cut) == (split == "train")


def at_most(targets: Targets, rows: np.ndarray, most: int, seed: int, split: str) -> np.ndarray:
    """Return at most so many of the given rows of each user, drawn at random, in random order."""
    rng = np.random.default_rng([seed, 2, split == "test"])
    mixed = rng.permutation(rows)
    order = np.argsort(targets.user[mixed], kind="stable")
    owner = targets.user[mixed][order]
    nth = np.arange(len(owner)) - np.searchsorted(owner, owner)
    return mixed[np.sort(order[nth < most])]


def logged(tables: Tables, log: Log, user_ids: pl.Series, gap: int) -> Targets:
    """Return the logged lists with exactly one click and at least two further items."""
    impressions = tables.impressions
    assert impressions is not None
    users = user_ids.to_frame("user_id").with_row_index("user")
    items = tables.items.select(item_ids="item_id").with_row_index("item")
    lists = (
        impressions.filter(pl.col("clicked").list.sum() == 1)
        .join(users, on="user_id")
        .with_columns(time=pl.col("timestamp").dt.epoch("s"))
        .select("impression_id", "user", "item_ids", "clicked", "time")
        .sort("user", "impression_id")
        .with_row_index("list")
        .explode("item_ids", "clicked")
        .join(items, on="item_ids", maintain_order="left")
        .with_columns(target=pl.col("item").filter("clicked").first().over("list"))
        .filter(pl.col("target").is_not_null())
        .group_by("list", maintain_order=True)
        .agg(
            pl.col("user", "time", "target").first(),
            pl.len().alias("shown"),
            pl.col("item").filter(pl.col("item") != pl.col("target")).alias("others"),
        )
        .filter(pl.col("shown") > 2)
    )
    user, time = (lists[name].to_numpy().astype(np.int64) for name in ("user", "time"))
    lengths = lists["others"].list.len().to_numpy().astype(np.int64)
    others = np.full((len(lists), int(lengths.max()) if len(lists) else 0), -1)
    others[np.arange(others.shape[1])[None, :] < lengths[:, None]] = (
        lists["others"].explode(empty_as_null=False).to_numpy()
    )
    item = lists["target"].to_numpy().astype(np.int64)
    none = np.full(len(user), -1)
    return Targets(user, item, time, log.ends(user, time - gap), none, others)

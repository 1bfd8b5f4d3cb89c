"""Which behaviors become scenes, and which of them are made together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.scenes import exposure
from usermirrorer.builders.scenes.world import World

PART_SCENES = 1024  # scenes made, sent and stored together


SPLITS = ("train", "test")


@dataclass(frozen=True)
class Targets:
    """Real behaviors to make scenes of.

    Shapes: all [b]; `logged` [b, width] holds the other items of a logged list, -1 padded.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    end: np.ndarray  # log row where the user's history before the scene ends
    logged: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Targets:
        """Return those of the given rows."""
        logged = None if self.logged is None else self.logged[rows]
        return Targets(self.user[rows], self.item[rows], self.time[rows], self.end[rows], logged)

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Part:
    """Scenes that are made together: of one split, that see one collaborative filter."""

    name: str
    split: str
    before: int | None  # what the filter is fitted on; None: nothing
    targets: Targets


def plan(world: World) -> list[Part]:
    """Choose the behaviors to make scenes of, and part them by collaborative filter and user.

    Raises:
        UserError: if a split that is asked for has none.
    """
    config = world.config
    targets = _behaviors(world) if world.tables.impressions is None else _logged(world)
    times = exposure.refresh_times(world.log, world.train_user)
    filter_of = np.searchsorted(times, targets.time, side="right") - 1
    if targets.logged is not None:
        filter_of[:] = -1
    rows_of = {}
    for split, wanted in zip(SPLITS, (config.train, config.test), strict=True):
        in_split = np.flatnonzero(world.train_user[targets.user] == (split == "train"))
        rows_of[split] = _sample(in_split, wanted, config.seed, split)
        if wanted and not len(rows_of[split]):
            raise UserError(
                f"no {split} behavior has {config.history[0]} earlier interactions of its user",
                where=world.source.name,
                fix="Use more of the raw data, or a shorter smallest history.",
            )
    parts = []
    for number in range(-1, len(times)):
        for split, rows in rows_of.items():
            here = rows[filter_of[rows] == number]  # ordered by user
            for start in range(0, len(here), PART_SCENES):
                name = f"{split}-{number + 1:02d}-{start // PART_SCENES:06d}"
                before = None if number < 0 else int(times[number])
                chosen = targets.take(here[start : start + PART_SCENES])
                parts.append(Part(name, split, before, chosen))
    return parts


def _behaviors(world: World) -> Targets:
    """Each user's first interaction with an item, where enough lies strictly before it."""
    log = world.log
    starts_moment = np.ones(len(log.user), bool)
    starts_moment[1:] = (log.user[1:] != log.user[:-1]) | (log.time[1:] != log.time[:-1])
    end = np.maximum.accumulate(np.where(starts_moment, np.arange(len(log.user)), 0))
    _, first = np.unique(log.user.astype(np.int64) * log.items + log.item, return_index=True)
    enough = first[end[first] - log.offsets[log.user[first]] >= world.config.history[0]]
    rows = np.sort(enough)
    return Targets(log.user[rows], log.item[rows], log.time[rows], end[rows])


def _logged(world: World) -> Targets:
    """Logged lists with exactly one click and at least two further items."""
    impressions = world.tables.impressions
    assert impressions is not None
    users = world.user_ids.to_frame("user_id").with_row_index("user")
    items = world.tables.items.select(item_ids="item_id").with_row_index("item")
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
    return Targets(user, item, time, world.log.ends(user, time), others)


def _sample(rows: np.ndarray, wanted: int, seed: int, split: str) -> np.ndarray:
    rng = np.random.default_rng([seed, 2, split == "test"])
    return rows if len(rows) <= wanted else np.sort(rng.choice(rows, wanted, replace=False))

"""Which behaviors become scenes, and which of them are made together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.scenes.contemporaries import cap
from usermirrorer.builders.scenes.feedback import refresh_times
from usermirrorer.builders.scenes.targets import SPLITS, Targets, at_most
from usermirrorer.builders.scenes.world import World

PART_SCENES = 1024  # scenes made, sent and stored together


@dataclass(frozen=True)
class Part:
    """Scenes that are made together: of one split, that see one collaborative filter."""

    name: str
    split: str
    before: int | None  # what the filter is fitted on; None: nothing
    targets: Targets


def plan(world: World) -> list[Part]:
    """Choose the behaviors to make scenes of, and part them by collaborative filter and user.

    As few as possible are taken of each user: with as many users as scenes are wanted, one each.

    Raises:
        UserError: if a split that is asked for has none.
    """
    config, targets = world.config, world.targets
    times = refresh_times(world.log, world.train_user)
    filter_of = np.searchsorted(times, targets.time, side="right") - 1
    rows_of = {}
    for split, wanted in zip(SPLITS, (config.train, config.test), strict=True):
        rows = world.rows_of(split)
        most = cap(np.bincount(targets.user[rows], minlength=1), wanted)
        rows_of[split] = np.sort(at_most(targets, rows, most, config.seed, split)[:wanted])
        if wanted and not len(rows):
            raise UserError(
                f"no {split} behavior has {config.history[0]} earlier interactions of its user"
                f"{_conditions(world)}",
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


def _conditions(world: World) -> str:
    """What else a behavior must fulfil, for an error."""
    config = world.config
    told = [f"{config.history_gap} s or more before it"] if config.history_gap else []
    if world.pool is not None:
        told.append(f"an item among the last {config.window:,} that train users took")
    if world.cut is not None:
        told.append(f"the right side of the time cut at {config.time_cut:.0%}")
    return "".join(f", {condition}" for condition in told)

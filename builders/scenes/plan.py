"""Which behaviors become scenes, and which of them are made together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.scenes.contemporaries import stand
from usermirrorer.builders.scenes.feedback import refresh_times
from usermirrorer.builders.scenes.targets import SPLITS, Targets, at_most
from usermirrorer.builders.scenes.world import World

PART_SCENES = 1024  # scenes made, sent and stored together
_PLACEBO_ROWS = 4096  # scenes whose placebos are looked for at a time
_NEXT = 256  # scenes that come next, among which they are looked for
_EVER = 36_500  # days


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
        most = world.most_per_user(split)
        rows_of[split] = np.sort(at_most(targets, rows, most, config.seed, split)[:wanted])
        if wanted and not len(rows):
            raise UserError(
                f"no {split} behavior has {config.history[0]} earlier interactions of its user"
                f"{_conditions(world)}",
                where=world.source.name,
                fix="Use more of the raw data, a shorter smallest history"
                + (", or no time cut." if world.cut is not None else "."),
            )
        if world.pool is not None:
            targets = replace(targets, placebo=_placebos(world, targets, rows_of[split], split))
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


def _placebos(world: World, targets: Targets, rows: np.ndarray, split: str) -> np.ndarray:
    """Return `targets.placebo` with that of the given scenes: what was another scene's target.

    It is drawn from the scenes of the same split that come next in time (at the end, from the last
    ones), so that placebos have targets like the real ones; the scene's user never takes it, and it
    is eligible at the scene's time as every target is.
    """
    placebo, config = targets.placebo.copy(), world.config
    by_time = rows[np.argsort(targets.time[rows], kind="stable")]
    for start in range(0, len(by_time), _PLACEBO_ROWS):
        here = by_time[start : start + _PLACEBO_ROWS]
        batch = targets.take(here)
        first = np.minimum(np.arange(start, start + len(here)) + 1, max(len(rows) - _NEXT, 0))
        near = by_time[np.minimum(first[:, None] + np.arange(_NEXT), len(rows) - 1)]
        item = targets.item[near]
        good = ~world.passed_over(batch, _EVER)(np.arange(len(here)), item)
        good &= world.title_of[item] != world.title_of[batch.item][:, None]
        if config.exposure == "exchangeable":
            assert world.pool is not None
            times = np.repeat(batch.time, _NEXT)
            good &= stand(world.pool, world.window, item.ravel(), times).reshape(item.shape)
        some = good.any(axis=1)
        rng = np.random.default_rng([config.seed, 3, split == "test", start])
        nth = (rng.random(len(here)) * np.maximum(good.sum(axis=1), 1)).astype(np.int64)
        column = np.argmax(good.cumsum(axis=1) > nth[:, None], axis=1)
        placebo[here[some]] = item[np.arange(len(here)), column][some]
    return placebo


def _conditions(world: World) -> str:
    """What else a behavior must fulfil, for an error."""
    config = world.config
    told = [f"{config.history_gap} s or more before it"] if config.history_gap else []
    if world.pool is not None:
        told.append(f"an item among the last {config.window:,} that train users took")
    if world.cut is not None:
        told.append(f"the right side of the time cut at {config.time_cut:.0%}")
    return "".join(f", {condition}" for condition in told)

"""A part of the plan to scenes: candidates, exposure, history, texts (Definition 2.1, section 2.2).

A scene sees only what lay before it. Each draws from a generator of its own, seeded by the run's
seed and its id, so that neither order nor batch size nor number of workers changes a single row.

Beside each scene stands its placebo: the same person and history, but the target is what somebody
else took at that time and this person never did, and the exposure was made for it by the same code.
Whatever finds a placebo's target has found how exposures are made, not what the person likes.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import sparse

from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.scenes import (
    contemporaries,
    exposure,
    features,
    feedback,
    gfcf,
    random_numbers,
    render,
)
from usermirrorer.builders.scenes.contemporaries import DAY, PassedOver
from usermirrorer.builders.scenes.plan import Part
from usermirrorer.builders.scenes.targets import Targets
from usermirrorer.builders.scenes.world import World

#: Scenes and their placebos in one table.
SCHEMA = SCENE.append(pa.field("placebo", pa.bool_(), nullable=False))
_BATCH_CELLS = 2**22  # scenes x items scored at once: 16 MB a float32 matrix
_PLACEBO_DRAWS = 64  # interactions around a scene that its placebo's target is looked for in
_FOREVER = 36_500  # days


def make_part(world: World, fitted: gfcf.Filter, part: Part) -> pa.Table:
    """Make the scenes of a part and their placebos; a pure function of its arguments.

    Args:
        world: See `make_world`.
        fitted: Collaborative filter and followers, fitted on what lay before `part.before`.
        part: One of `plan`.

    Returns:
        Rows of `SCHEMA`. A placebo has the id of its scene; not every scene has one.
    """
    size = max(1, _BATCH_CELLS // world.log.items)
    tables = [SCHEMA.empty_table()]
    for start in range(0, len(part.targets), size):
        batch = part.targets.take(np.arange(start, min(start + size, len(part.targets))))
        ids = _scene_ids(world, batch)
        tables.append(_scenes(world, fitted, batch, ids, part.split, placebo=False))
        if world.pool is not None and len(world.pool.item):
            other, rows = _placebo_targets(world, batch, ids, part.split)
            theirs = [ids[row] for row in rows]
            tables.append(_scenes(world, fitted, other, theirs, part.split, placebo=True))
    return pa.concat_tables(tables).combine_chunks()


def _scenes(
    world: World, fitted: gfcf.Filter, batch: Targets, ids: list[str], split: str, *, placebo: bool
) -> pa.Table:
    """Make one scene for each target, by the seeds of `ids`."""
    config = world.config
    seeds = random_numbers.seeds(config.seed, ids)
    past = feedback.histories(world.log, batch.user, batch.end)
    if split == "test":
        others = np.full(len(batch), config.test_others)
    else:
        others = random_numbers.integers(seeds, exposure.OTHERS, *config.train_others)
    if batch.logged is not None:
        others = np.minimum(others, (batch.logged >= 0).sum(axis=1))
    items, of, enough, origins = _exposures(world, fitted, batch, past, seeds, others, split)
    shown = random_numbers.integers(seeds, exposure.HISTORY, *config.history)
    starts = np.maximum(world.log.offsets[batch.user], batch.end - shown)

    batch, items, of, starts = batch.take(enough), items[enough], of[enough], starts[enough]
    options = others[enough] + 1
    real = np.arange(items.shape[1])[None, :] < options[:, None]
    flat = items[real]
    rows, lengths = feedback.ranges(starts, batch.end)
    names = pl.Series([*origins, "target"])
    drafts = render.Drafts(
        scene_id=[name for name, kept in zip(ids, enough, strict=True) if kept],
        user=batch.user,
        item=batch.item,
        time=batch.time,
        shown=lengths,
        events=world.log_rows[rows],
        event_items=world.log.item[rows],
        options=options,
        items=flat,
        origins=names.gather(np.where(of[real] < 0, len(origins), of[real])),
        features=features.of_options(world, fitted, batch, past[enough], flat, options),
        answer=np.argmax((of == -1) & real, axis=1),
        mode=world.mode,
    )
    made = world.texts.complete(drafts)
    return made.append_column(SCHEMA.field("placebo"), pa.array([placebo] * len(made), pa.bool_()))


_Exposures = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]


def _exposures(
    world: World,
    fitted: gfcf.Filter,
    batch: Targets,
    past: sparse.csr_matrix,
    seeds: np.ndarray,
    others: np.ndarray,
    split: str,
) -> _Exposures:
    """Return what `exposure.mix` does, and the names of the origins."""
    if batch.logged is not None:
        lists = exposure.shuffled(seeds, batch.logged)[:, None, :]
        return *exposure.mix(seeds, lists, batch.item, others, world.title_of), ("logged",)
    if world.mode == "exchangeable":
        assert world.pool is not None
        drawn = contemporaries.draw(
            world.pool,
            world.window,
            split,
            seeds,
            batch.item,
            batch.time,
            others,
            _passed_over(world, batch, world.config.later_days),
        )
        return *drawn, ("contemporary",)
    if world.mode == "retrieved":
        return _retrieved(world, fitted, batch, past, seeds, others)
    return _as_printed(world, fitted, batch, past, seeds, others)


def _passed_over(world: World, batch: Targets, days: float) -> PassedOver:
    later = round(days * DAY)
    return PassedOver(
        world.firsts, batch.user, batch.time, later, world.visible_from, world.title_of
    )


def _retrieved(
    world: World,
    fitted: gfcf.Filter,
    batch: Targets,
    past: sparse.csr_matrix,
    seeds: np.ndarray,
    others: np.ndarray,
) -> _Exposures:
    """Candidates for the history alone; the target must be one of them, as the others are."""
    later = batch.time + round(world.config.later_days * DAY) + 1
    taken = feedback.histories(world.log, batch.user, world.log.ends(batch.user, later))
    allowed = world.visible_from[None, :] < batch.time[:, None]
    allowed[taken.nonzero()] = False
    allowed[np.arange(len(batch)), batch.item] = True  # a target is visible, or it were none
    near = np.asarray(past @ world.embeddings) @ world.embeddings.T
    score = gfcf.scores(fitted, past)
    lists = np.concatenate(
        [
            exposure.top(near.astype(np.float32), allowed),
            exposure.top(score, allowed & (score > 0)),
        ],
        axis=1,
    )
    is_target = lists == batch.item[:, None]
    found = is_target.any(axis=1)
    origin = np.where(np.arange(lists.shape[1]) < exposure.K, 0, 1)
    candidates = exposure.shuffled(seeds, exposure.compact(np.where(is_target, -1, lists)))
    items, of, enough = exposure.mix(
        seeds, candidates[:, None, :], batch.item, others, world.title_of
    )
    from_content = (lists[:, None, :] == items[:, :, None]) & (origin == 0)[None, None, :]
    of = np.where(of < 0, -1, np.where(from_content.any(axis=2), 0, 1))
    return items, of, enough & found, ("content", "collaborative")


def _as_printed(
    world: World,
    fitted: gfcf.Filter,
    batch: Targets,
    past: sparse.csr_matrix,
    seeds: np.ndarray,
    others: np.ndarray,
) -> _Exposures:
    """Algorithm 1 over candidates near the target, for the history, and at random (B.1)."""
    allowed = world.visible_from[None, :] < batch.time[:, None]
    met = feedback.histories(world.log, batch.user, world.log.ends(batch.user, batch.time))
    allowed[met.nonzero()] = False
    allowed[np.arange(len(batch)), batch.item] = False
    # Summed in float64 and compared in float32: how BLAS sums, which depends on the size of the
    # batch and the number of threads, decides nothing.
    near = (world.embeddings[batch.item] @ world.embeddings.T).astype(np.float32)
    score = gfcf.scores(fitted, past)
    lists = [
        exposure.top(near, allowed),
        # What no user of the history's items had met is no recommendation.
        exposure.top(score, allowed & (score > 0)),
        exposure.random_items(seeds, allowed),
    ]
    mixed = exposure.mix(seeds, np.stack(lists, axis=1), batch.item, others, world.title_of)
    return *mixed, ("content", "collaborative", "random")


def _placebo_targets(
    world: World, batch: Targets, ids: list[str], split: str
) -> tuple[Targets, np.ndarray]:
    """Return, for the scenes that have one, a target that somebody else took at their time.

    It is looked for among train users' next interactions from the scene's time on (at the end of
    the log, the last ones), weighted as targets are; the scene's user never takes it, and it must
    be eligible at the scene's time as every target is.

    Returns:
        The scenes with other items, and the row of `batch` that each is of.
    """
    pool = world.pool
    assert pool is not None
    seeds = random_numbers.seeds(world.config.seed, ids)
    last = len(pool.item)
    start = np.minimum(np.searchsorted(pool.time, batch.time), max(last - _PLACEBO_DRAWS, 0))
    place = np.minimum(start[:, None] + np.arange(_PLACEBO_DRAWS), last - 1)
    rows = np.arange(len(batch))
    item = pool.item[place].astype(np.int64)
    good = ~_passed_over(world, batch, _FOREVER)(rows, item) & (
        world.title_of[item] != world.title_of[batch.item][:, None]
    )
    if world.mode == "exchangeable":
        times = np.repeat(batch.time, _PLACEBO_DRAWS)
        inside, _ = contemporaries.known(pool, world.window, item.ravel(), times)
        good &= inside.reshape(item.shape)
    weight = np.diff(pool.mass(split))[place] * good
    total = weight.cumsum(axis=1)
    point = random_numbers.uniform(seeds, exposure.PLACEBO, 1) * total[:, -1:]
    found = np.flatnonzero(total[:, -1] > 0)
    column = (total[found] <= point[found]).sum(axis=1)
    return replace(batch.take(found), item=item[found, column]), found


def _scene_ids(world: World, batch: Targets) -> list[str]:
    users = world.user_ids.gather(batch.user).to_list()
    items = world.tables.items["item_id"].gather(batch.item).to_list()
    name = world.source.name
    return [
        hashlib.blake2b(f"{name}|{user}|{item}|{time}".encode(), digest_size=8).hexdigest()
        for user, item, time in zip(users, items, batch.time.tolist(), strict=True)
    ]

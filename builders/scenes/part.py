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
from usermirrorer.builders.scenes.contemporaries import DAY
from usermirrorer.builders.scenes.plan import Part
from usermirrorer.builders.scenes.targets import Targets
from usermirrorer.builders.scenes.world import World

#: Scenes and their placebos in one table.
SCHEMA = SCENE.append(pa.field("placebo", pa.bool_(), nullable=False))
_BATCH_CELLS = 2**22  # scenes x items scored at once: 16 MB a float32 matrix


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
        if len(rows := np.flatnonzero(batch.placebo >= 0)):
            other = replace(batch.take(rows), item=batch.placebo[rows])
            theirs = [ids[row] for row in rows]
            tables.append(_scenes(world, fitted, other, theirs, part.split, placebo=True))
    return pa.concat_tables(tables).combine_chunks()


def _scenes(
    world: World, fitted: gfcf.Filter, batch: Targets, ids: list[str], split: str, *, placebo: bool
) -> pa.Table:
    """Make one scene for each target, by the seeds of `ids`."""
    config = world.config
    seeds = random_numbers.seeds(config.seed, ids)
    first = feedback.newest(world.log, batch.user, batch.end)
    past = feedback.histories(world.log, batch.user, batch.end, first)
    if split == "test":
        others = np.full(len(batch), config.test_others)
    else:
        others = random_numbers.integers(seeds, exposure.OTHERS, *config.train_others)
    if batch.logged is not None:
        others = np.minimum(others, (batch.logged >= 0).sum(axis=1))
    score = gfcf.scores(fitted, past)
    items, of, enough, origins = _exposures(world, score, batch, past, seeds, others, split)
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
        features=features.of_options(
            world, fitted, batch, past[enough], score[enough], flat, options
        ),
        answer=np.argmax((of == -1) & real, axis=1),
        mode=world.mode,
    )
    made = world.texts.complete(drafts)
    return made.append_column(SCHEMA.field("placebo"), pa.array([placebo] * len(made), pa.bool_()))


_Exposures = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]


def _exposures(
    world: World,
    score: np.ndarray,
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
            world.passed_over(batch, world.config.later_days),
        )
        return *drawn, ("contemporary",)
    if world.mode == "retrieved":
        return _retrieved(world, score, batch, past, seeds, others)
    return _as_printed(world, score, batch, past, seeds, others)


def _untaken(world: World, batch: Targets, until: np.ndarray) -> np.ndarray:
    """Say which items were there before each scene and not taken by its user before `until`.

    Bool [b, items]; `until` [b] in seconds.
    """
    taken = feedback.histories(world.log, batch.user, world.log.ends(batch.user, until))
    allowed = world.visible_from[None, :] < batch.time[:, None]
    allowed[taken.nonzero()] = False
    return allowed


def _retrieved(
    world: World,
    score: np.ndarray,
    batch: Targets,
    past: sparse.csr_matrix,
    seeds: np.ndarray,
    others: np.ndarray,
) -> _Exposures:
    """Candidates for the history alone: the target is one of a list, the others are of the same."""
    allowed = _untaken(world, batch, batch.time + round(world.config.later_days * DAY) + 1)
    allowed[np.arange(len(batch)), batch.item] = True  # a target is visible, or it were none
    near = np.asarray(past @ world.embeddings) @ world.embeddings.T
    lists = np.stack(
        [
            exposure.top(near.astype(np.float32), allowed),
            exposure.top(score, allowed & (score > 0)),
        ],
        axis=1,
    )
    is_target = lists == batch.item[:, None, None]
    holds = is_target.any(axis=2)
    nth = random_numbers.integers(seeds, exposure.MIXING, 1, np.maximum(holds.sum(axis=1), 1))
    chosen = np.argmax(np.cumsum(holds, axis=1) == nth[:, None], axis=1)
    rows = np.arange(len(batch))
    candidates = np.where(is_target[rows, chosen], -1, lists[rows, chosen])
    mixed = exposure.shuffled(seeds, exposure.compact(candidates))[:, None, :]
    items, of, enough = exposure.mix(seeds, mixed, batch.item, others, world.title_of)
    origin = np.where(of < 0, -1, chosen[:, None])
    return items, origin, enough & holds.any(axis=1), ("content", "collaborative")


def _as_printed(
    world: World,
    score: np.ndarray,
    batch: Targets,
    past: sparse.csr_matrix,
    seeds: np.ndarray,
    others: np.ndarray,
) -> _Exposures:
    """Algorithm 1 over candidates near the target, for the history, and at random (B.1)."""
    allowed = _untaken(world, batch, batch.time)
    allowed[np.arange(len(batch)), batch.item] = False
    # Summed in float64 and compared in float32: how BLAS sums, which depends on the size of the
    # batch and the number of threads, decides nothing.
    near = (world.embeddings[batch.item] @ world.embeddings.T).astype(np.float32)
    lists = [
        exposure.top(near, allowed),
        # What no user of the history's items had met is no recommendation.
        exposure.top(score, allowed & (score > 0)),
        exposure.random_items(seeds, allowed),
    ]
    mixed = exposure.mix(seeds, np.stack(lists, axis=1), batch.item, others, world.title_of)
    return *mixed, ("content", "collaborative", "random")


def _scene_ids(world: World, batch: Targets) -> list[str]:
    users = world.user_ids.gather(batch.user).to_list()
    items = world.tables.items["item_id"].gather(batch.item).to_list()
    name = world.source.name
    return [
        hashlib.blake2b(f"{name}|{user}|{item}|{time}".encode(), digest_size=8).hexdigest()
        for user, item, time in zip(users, items, batch.time.tolist(), strict=True)
    ]

"""A part of the plan to scenes: candidates, exposure, history, texts (Definition 2.1, section 2.2).

A scene sees only what lay before it. Each draws from a generator of its own, seeded by the run's
seed and its id, so that neither order nor batch size nor number of workers changes a single row.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import sparse

from usermirrorer.builders.common.schema import ORIGINS
from usermirrorer.builders.scenes import exposure, gfcf, random_numbers, render
from usermirrorer.builders.scenes.plan import Part, Targets
from usermirrorer.builders.scenes.world import World

_BATCH_CELLS = 2**22  # scenes x items scored at once: 16 MB a float32 matrix


def make_part(world: World, fitted: gfcf.Filter, part: Part) -> pa.Table:
    """Make the scenes of a part, schema `SCENE`; a pure function of its arguments.

    Args:
        world: See `make_world`.
        fitted: The collaborative filter of `part.before`.
        part: One of `plan`.
    """
    size = max(1, _BATCH_CELLS // world.log.items)
    starts = range(0, len(part.targets), size)
    batches = [part.targets.take(np.arange(len(part.targets))[a : a + size]) for a in starts]
    tables = [world.texts.complete(_drafts(world, fitted, b, part.split)) for b in batches]
    return pa.concat_tables(tables).combine_chunks()


def _drafts(world: World, fitted: gfcf.Filter, batch: Targets, split: str) -> render.Drafts:
    config = world.config
    scene_ids = _scene_ids(world, batch)
    seeds = random_numbers.seeds(config.seed, scene_ids)
    past = exposure.histories(world.log, batch.user, batch.end)
    lists, origins = _candidates(world, fitted, batch, past, seeds)
    if split == "test":
        others = np.full(len(batch), config.test_others)
    else:
        others = random_numbers.integers(seeds, exposure.OTHERS, *config.train_others)
    if batch.logged is not None:
        others = np.minimum(others, (batch.logged >= 0).sum(axis=1))
    items, of, enough = exposure.mix(seeds, lists, batch.item, others, world.title_of)
    shown = random_numbers.integers(seeds, exposure.HISTORY, *config.history)
    starts = np.maximum(world.log.offsets[batch.user], batch.end - shown)
    taste = _unit(past @ world.embeddings)

    batch, items, of, starts = batch.take(enough), items[enough], of[enough], starts[enough]
    options = others[enough] + 1
    real = np.arange(items.shape[1])[None, :] < options[:, None]
    flat, times = items[real], np.repeat(batch.time, options)
    similarity = np.einsum(
        "nd,nd->n", world.embeddings[flat], np.repeat(taste[enough], options, axis=0)
    )
    rows, lengths = exposure.ranges(starts, batch.end)
    names = pl.Series([*origins, "target"])
    return render.Drafts(
        scene_id=[s for s, kept in zip(scene_ids, enough, strict=True) if kept],
        user=batch.user,
        item=batch.item,
        time=batch.time,
        shown=lengths,
        events=world.log_rows[rows],
        event_items=world.log.item[rows],
        options=options,
        items=flat,
        origins=names.gather(np.where(of[real] < 0, len(origins), of[real])),
        popularity=world.popularity.before(flat, times),
        similarity=similarity.round(4).astype(np.float32),
        answer=np.argmax((of == -1) & real, axis=1),
        real_exposure=batch.logged is not None,
    )


def _candidates(
    world: World,
    fitted: gfcf.Filter,
    batch: Targets,
    past: sparse.csr_matrix,
    seeds: np.ndarray,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the ranked lists [b, lists, length] that Algorithm 1 mixes, and their origins."""
    if batch.logged is not None:
        return exposure.shuffled(seeds, batch.logged)[:, None, :], ("logged",)
    allowed = world.visible_from[None, :] <= batch.time[:, None]
    allowed[past.nonzero()] = False
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
    return np.stack(lists, axis=1), ORIGINS[2:]


def _scene_ids(world: World, batch: Targets) -> list[str]:
    users = world.user_ids.gather(batch.user).to_list()
    items = world.tables.items["item_id"].gather(batch.item).to_list()
    name = world.source.name
    return [
        hashlib.blake2b(f"{name}|{user}|{item}|{time}".encode(), digest_size=8).hexdigest()
        for user, item, time in zip(users, items, batch.time.tolist(), strict=True)
    ]


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)

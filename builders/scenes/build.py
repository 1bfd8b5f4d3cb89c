"""Canonical tables to the scenes of one source: plan, parts, two tables (section 2.2).

Finished parts can be kept, so that a killed run goes on with the first that is missing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.schema import SCENE, SCHEMA_VERSION
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.builders.scenes.part import SCHEMA
from usermirrorer.builders.scenes.plan import PART_SCENES, Part, plan
from usermirrorer.builders.scenes.targets import SPLITS
from usermirrorer.builders.scenes.workers import here, on_ray, over_processes
from usermirrorer.builders.scenes.world import SceneConfig, World, make_world

Progress = Callable[[int], None]


def make_scenes(
    source: Source,
    tables: Tables,
    embeddings: np.ndarray,
    config: SceneConfig,
    progress: Progress = lambda scenes: None,
    *,
    workers: int = 1,
    ray: bool = False,
    parts: Path | None = None,
) -> tuple[dict[str, pa.Table], Counter[str]]:
    """Make the train and test scenes of one source.

    Args:
        source: Where the tables come from.
        tables: Its canonical tables.
        embeddings: Sentence embeddings [items, d] in the order of `tables.items`.
        config: Counts, seed, lengths.
        progress: Called with the number of scenes just made.
        workers: Processes that make them; the rows do not depend on it.
        ray: Whether to make them on Ray Data instead (the extra `ray`).
        parts: Folder that keeps finished parts: with the same inputs, a killed run goes on with
            the first part that is missing. Delete it when the result is stored.

    Returns:
        `{"train": table, "test": table}` with schema `SCENE`, ordered by scene id, and, unless the
        exposures were logged, `placebo_train` and `placebo_test` (see `part.py`); and counts of
        scenes that could not be made, by reason.

    Raises:
        UserError: if the source has too few users or behaviors to make any scene.
    """
    names = [*SPLITS, *(f"placebo_{split}" for split in SPLITS)]
    made: dict[str, list[pa.Table]] = {name: [SCENE.empty_table()] for name in names}
    dropped: Counter[str] = Counter()
    for part, table in stream_scenes(
        source, tables, embeddings, config, workers=workers, ray=ray, parts=parts
    ):
        real, placebo = _apart(table)
        made[part.split].append(real)
        if placebo.num_rows:
            made[f"placebo_{part.split}"].append(placebo)
        if lost := len(part.targets) - real.num_rows:
            dropped[f"{part.split}: fewer candidates than options"] += lost
        progress(len(part.targets))
    return {
        split: pa.concat_tables(pieces).combine_chunks().sort_by("scene_id")
        for split, pieces in made.items()
        if split in SPLITS or len(pieces) > 1
    }, dropped


def _apart(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the scenes of a part, and its placebos."""
    is_placebo = table["placebo"]
    bare = table.select(SCENE.names)
    return bare.filter(pc.invert(is_placebo)), bare.filter(is_placebo)


def stream_scenes(
    source: Source,
    tables: Tables,
    embeddings: np.ndarray,
    config: SceneConfig,
    *,
    workers: int = 1,
    ray: bool = False,
    parts: Path | None = None,
) -> Iterator[tuple[Part, pa.Table]]:
    """Yield the scenes of `make_scenes` part by part, the first ones after seconds."""
    world = make_world(source, tables, embeddings, config)
    planned = plan(world)
    if parts is not None:
        _keep_only(parts, _fingerprint(world))
    missing = [p for p in planned if parts is None or not (parts / f"{p.name}.parquet").exists()]
    if ray:
        made = on_ray(world, missing)
    elif workers > 1:
        made = over_processes(world, missing, workers)
    else:
        made = here(world, missing)
    waiting = {part.name for part in missing}
    for part in planned:
        if part.name not in waiting:
            assert parts is not None
            yield part, storage.read_table(parts / f"{part.name}.parquet").cast(SCHEMA)
            continue
        table = next(made)
        if parts is not None:
            storage.write_table(parts / f"{part.name}.parquet", table)
        yield part, table


def _keep_only(parts: Path, key: str) -> None:
    """Remove parts of other inputs."""
    stage = parts / "stage.json"
    if parts.exists() and not (stage.exists() and storage.read_json(stage).get("key") == key):
        shutil.rmtree(parts)
    storage.write_json(stage, {"key": key})


def _fingerprint(world: World) -> str:
    """What all that the scenes depend on has in common with no other inputs."""
    texts = hashlib.sha256(world.embeddings.tobytes())
    frames = (world.tables.users, world.tables.items, world.tables.interactions)
    for frame in (*frames, *world.tables.extras.values()):
        texts.update(frame.hash_rows(seed=0).to_numpy().tobytes())
    if world.tables.impressions is not None:
        texts.update(world.tables.impressions.hash_rows(seed=0).to_numpy().tobytes())
    return storage.fingerprint(
        [world.source.name, asdict(world.config), PART_SCENES, SCHEMA_VERSION, texts.hexdigest()]
    )


def summary(scenes: Mapping[str, pa.Table]) -> dict[str, dict[str, float]]:
    """Return counts and mean lengths per split, for tables and cards."""
    out = {}
    for split, table in scenes.items():
        options = [len(row) for row in table["exposure"].to_pylist()]
        history = [len(row) for row in table["history"].to_pylist()]
        out[split] = {
            "scenes": table.num_rows,
            "users": len(set(table["user_id"].to_pylist())),
            "options": float(np.mean(options)) if options else 0.0,
            "history": float(np.mean(history)) if history else 0.0,
        }
    return out

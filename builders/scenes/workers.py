"""Make parts of scenes here, over processes, or on a Ray cluster: the same rows in the same order.

What all parts need is shared once: as memory-mapped files between processes of a machine, in Ray's
object store between machines. Filters are fitted here one after the other, and only those that
parts under way look at are kept.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from usermirrorer.builders.raw.source import Source
    from usermirrorer.builders.scenes.gfcf import Filter
    from usermirrorer.builders.scenes.plan import Part
    from usermirrorer.builders.scenes.world import SceneConfig, World


_WORLDS: dict[str, World] = {}  # in a process that makes parts: the world of the last run


def here(world: World, parts: Sequence[Part]) -> Iterator[pa.Table]:
    """Yield the scenes of each part, made in this process."""
    from usermirrorer.builders.scenes.part import make_part

    for before, group in itertools.groupby(parts, key=lambda part: part.before):
        fitted = _fit(world, before)
        for part in group:
            yield make_part(world, fitted, part)


def _fit(world: World, before: int | None) -> Filter:
    from usermirrorer.builders.scenes import gfcf, sequence

    if before is None or not (fitted := gfcf.fit(world.log, world.train_user, before)):
        return {}
    return {**fitted, **sequence.fit(world.log, world.train_user, before)}


def over_processes(world: World, parts: Sequence[Part], workers: int) -> Iterator[pa.Table]:
    """Yield the scenes of each part, made by `workers` processes while this one fits filters.

    The first part is made here while they start. Parts wait for one another only so far as they are
    yielded in order; at most two per worker are under way, so that memory stays bounded.
    """
    with tempfile.TemporaryDirectory(prefix="usermirrorer-") as name:
        folder = Path(name)
        arrays, frames = _shared(world)
        _store_arrays(folder / "arrays", arrays)
        (folder / "frames").mkdir()
        for frame_name, frame in frames.items():
            frame.write_ipc(folder / "frames" / f"{frame_name}.arrow")
        made = functools.partial(_stored_part, name, world.source, world.config)
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _one_thread)
        try:
            for _ in range(workers):
                pool.submit(_prepare, name, world.source, world.config)
            yield from here(world, parts[:1])
            waiting: deque[Future[pa.Table]] = deque()
            for before, group in itertools.groupby(parts[1:], key=lambda part: part.before):
                _store_arrays(folder / f"filter-{before}", _fit(world, before))
                for part in group:
                    while waiting and (waiting[0].done() or len(waiting) >= 2 * workers):
                        yield waiting.popleft().result()
                    waiting.append(pool.submit(made, part))
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """Processes share the cores already; read before numpy and polars are imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"


def _prepare(folder: str, source: Source, config: SceneConfig) -> None:
    _stored_world(folder, source, config)


def _stored_part(folder: str, source: Source, config: SceneConfig, part: Part) -> pa.Table:
    from usermirrorer.builders.scenes.part import make_part

    fitted = _load_arrays(f"{folder}/filter-{part.before}")
    return make_part(_stored_world(folder, source, config), fitted, part)


def _stored_world(folder: str, source: Source, config: SceneConfig) -> World:
    import polars as pl
    import pyarrow as pa

    if folder in _WORLDS:
        return _WORLDS[folder]
    files = Path(folder, "frames").glob("*.arrow")
    frames = {
        file.stem: pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(file))).read_all())
        for file in files
    }
    _WORLDS[folder] = _world(source, config, _load_arrays(f"{folder}/arrays"), frames)
    return _WORLDS[folder]


def _store_arrays(folder: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np

    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _load_arrays(folder: str) -> dict[str, np.ndarray]:
    import numpy as np

    files = Path(folder).glob("*.npy")
    return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}


def on_ray(world: World, parts: Sequence[Part]) -> Iterator[pa.Table]:
    """Yield the scenes of each part, made by Ray Data on the cluster that is there.

    Without one, Ray starts on this machine. A part holds the scenes of a range of users.

    Raises:
        UserError: if Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            "Ray is not installed", fix='Install it: pip install "usermirrorer[ray]".'
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    arrays, frames = _shared(world)
    shared = {
        "source": world.source,
        "config": world.config,
        "arrays": {name: ray.put(array) for name, array in arrays.items()},
        "frames": {name: ray.put(frame.to_arrow()) for name, frame in frames.items()},
    }
    for before, group in itertools.groupby(parts, key=lambda part: part.before):
        asked = list(group)
        fitted = {name: ray.put(array) for name, array in _fit(world, before).items()}
        numbers = [{"part": number} for number in range(len(asked))]
        blocks = (
            ray.data.from_items(numbers, override_num_blocks=len(asked))
            .map_batches(
                functools.partial(_ray_part, parts=ray.put(asked), shared=shared, fitted=fitted),
                batch_size=1,
                batch_format="numpy",
            )
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )
        yield from _by_part(blocks, len(asked))


def _by_part(blocks: Iterable[pa.Table], parts: int) -> Iterator[pa.Table]:
    """Yield the scenes of each part of blocks that come in the order of parts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from usermirrorer.builders.scenes.part import SCHEMA

    at, tables = 0, [SCHEMA.empty_table()]
    for block in blocks:
        for number in pc.unique(block["part"]).to_pylist():
            while at < number:
                yield pa.concat_tables(tables).combine_chunks()
                at, tables = at + 1, [SCHEMA.empty_table()]
            rows = block.filter(pc.equal(block["part"], number))
            tables.append(rows.select(SCHEMA.names).cast(SCHEMA))
    for _ in range(at, parts):
        yield pa.concat_tables(tables).combine_chunks()
        tables = [SCHEMA.empty_table()]


def _ray_part(batch: Any, parts: Any, shared: dict[str, Any], fitted: dict[str, Any]) -> pa.Table:
    import pyarrow as pa
    import ray

    from usermirrorer.builders.scenes.part import make_part

    number = int(batch["part"][0])
    part = ray.get(parts)[number]
    arrays = {name: ray.get(ref) for name, ref in fitted.items()}
    table = make_part(_ray_world(shared), arrays, part)
    return table.append_column("part", pa.array([number] * table.num_rows, pa.int64()))


def _ray_world(shared: dict[str, Any]) -> World:
    import polars as pl
    import ray

    key = shared["arrays"]["user"].hex()
    if key not in _WORLDS:
        _WORLDS.clear()
        arrays = {name: ray.get(ref) for name, ref in shared["arrays"].items()}
        frames = {name: pl.from_arrow(ray.get(ref)) for name, ref in shared["frames"].items()}
        _WORLDS[key] = _world(shared["source"], shared["config"], arrays, frames)
    return _WORLDS[key]


def _shared(world: World) -> tuple[dict[str, np.ndarray], dict[str, pl.DataFrame]]:
    """Return what other processes need to put the same world together."""
    from usermirrorer.builders.scenes.world import shared_arrays

    tables = world.tables
    frames = {
        "ids": world.user_ids.to_frame(),
        "users": tables.users,
        "items": tables.items,
        "interactions": tables.interactions,
    }
    extras = {f"extra-{name}": frame for name, frame in tables.extras.items()}
    return shared_arrays(world), frames | extras


def _world(
    source: Source, config: SceneConfig, arrays: dict[str, np.ndarray], frames: dict[str, Any]
) -> World:
    from usermirrorer.builders.raw.source import Tables
    from usermirrorer.builders.scenes.world import world_of

    extras = {
        name.removeprefix("extra-"): frame
        for name, frame in frames.items()
        if name.startswith("extra-")
    }
    tables = Tables(frames["users"], frames["items"], frames["interactions"], extras=extras)
    return world_of(source, config, tables, arrays, frames["ids"].to_series())

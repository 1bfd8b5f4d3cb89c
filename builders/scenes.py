"""Canonical tables to user simulation scenes (Definition 2.1, sections 2.2 and B.1).

    split by user -> choose real behaviors -> candidate lists -> Algorithm 1 -> texts

Users of the test split are chosen first and never occur in train. A scene sees only what lay
before it: its user's earlier interactions, and collaborative scores and popularity of train users
up to that time. Each scene draws from its own generator, seeded by the run's seed and its id, so
that neither order nor batch size nor number of workers changes a single row.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import sparse

from usermirrorer.builders import draws, exposure, gfcf, render, shards, spread
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.schema import ORIGINS, SCENE, SCHEMA_VERSION
from usermirrorer.builders.sources import Source, Tables

_PART = 1024  # scenes made, sent and stored together
_BATCH_CELLS = 2**22  # scenes x items scored at once: 16 MB a float32 matrix
_SPLITS = ("train", "test")
Progress = Callable[[int], None]


@dataclass(frozen=True)
class SceneConfig:
    """What decides which scenes are made.

    Args:
        train: Number of train scenes, at most.
        test: Number of test scenes, at most.
        seed: Fixes every draw.
        test_users: Share of users set aside for test before anything else.
        history: Fewest and most interactions shown; a scene draws its number uniformly.
        train_others: Fewest and most items beside the target in train (N of section 2.2).
        test_others: Items beside the target in test (exposure length 5).
    """

    train: int = 16_384
    test: int = 640
    seed: int = 0
    test_users: float = 0.1
    history: tuple[int, int] = (1, 20)
    train_others: tuple[int, int] = (2, 12)
    test_others: int = 4


@dataclass(frozen=True)
class World:
    """Everything a scene may draw from, indexed by user and item number."""

    source: Source
    config: SceneConfig
    tables: Tables
    visible: Tables  # with the interactions of train users only
    log: exposure.Log
    log_rows: np.ndarray  # log row -> row of tables.interactions
    train_user: np.ndarray
    popularity: exposure.Popularity
    visible_from: np.ndarray  # [items] seconds
    title_of: np.ndarray
    embeddings: np.ndarray  # [items, d], rows of length 1
    user_ids: pl.Series
    texts: render.Texts


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


def build(
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
        `{"train": table, "test": table}` with schema `SCENE`, ordered by scene id, and counts of
        scenes that could not be made, by reason.

    Raises:
        UserError: if the source has too few users or behaviors to make any scene.
    """
    made: dict[str, list[pa.Table]] = {split: [SCENE.empty_table()] for split in _SPLITS}
    dropped: Counter[str] = Counter()
    for part, table in stream(
        source, tables, embeddings, config, workers=workers, ray=ray, parts=parts
    ):
        made[part.split].append(table)
        if lost := len(part.targets) - table.num_rows:
            dropped[f"{part.split}: fewer candidates than options"] += lost
        progress(len(part.targets))
    return {
        split: pa.concat_tables(found).combine_chunks().sort_by("scene_id")
        for split, found in made.items()
    }, dropped


def stream(
    source: Source,
    tables: Tables,
    embeddings: np.ndarray,
    config: SceneConfig,
    *,
    workers: int = 1,
    ray: bool = False,
    parts: Path | None = None,
) -> Iterator[tuple[Part, pa.Table]]:
    """Yield the scenes of `build` part by part, the first ones after seconds."""
    world = make_world(source, tables, embeddings, config)
    planned = plan(world)
    if parts is not None:
        _keep_only(parts, _fingerprint(world))
    missing = [p for p in planned if parts is None or not (parts / f"{p.name}.parquet").exists()]
    if ray:
        made = spread.on_ray(world, missing)
    elif workers > 1:
        made = spread.over_processes(world, missing, workers)
    else:
        made = spread.here(world, missing)
    waiting = {part.name for part in missing}
    for part in planned:
        if part.name not in waiting:
            assert parts is not None
            yield part, shards.read_table(parts / f"{part.name}.parquet").cast(SCENE)
            continue
        table = next(made)
        if parts is not None:
            shards.write_table(parts / f"{part.name}.parquet", table)
        yield part, table


def _keep_only(parts: Path, key: str) -> None:
    """Remove parts of other inputs."""
    stage = parts / "stage.json"
    if parts.exists() and not (stage.exists() and shards.read_json(stage).get("key") == key):
        shutil.rmtree(parts)
    shards.write_json(stage, {"key": key})


def _fingerprint(world: World) -> str:
    """What all that the scenes depend on has in common with no other inputs."""
    texts = hashlib.sha256(world.embeddings.tobytes())
    frames = (world.tables.users, world.tables.items, world.tables.interactions)
    for frame in (*frames, *world.tables.extras.values()):
        texts.update(frame.hash_rows(seed=0).to_numpy().tobytes())
    if world.tables.impressions is not None:
        texts.update(world.tables.impressions.hash_rows(seed=0).to_numpy().tobytes())
    return shards.fingerprint(
        [world.source.name, asdict(world.config), _PART, SCHEMA_VERSION, texts.hexdigest()]
    )


def make_world(
    source: Source, tables: Tables, embeddings: np.ndarray, config: SceneConfig
) -> World:
    """Number users and items, set test users aside, and index what scenes look up."""
    if len(embeddings) != tables.items.height:
        raise ValueError(f"{len(embeddings)} embeddings for {tables.items.height} items")
    users = tables.interactions["user_id"].unique().sort()
    number_of_user = pl.DataFrame({"user_id": users, "u": np.arange(len(users))})
    number_of_item = tables.items.select("item_id").with_row_index("i")
    joined = (
        tables.interactions.with_row_index("row")
        .select("row", "user_id", "item_id", time=pl.col("timestamp").dt.epoch("s"))
        .join(number_of_user, on="user_id")
        .join(number_of_item, on="item_id")
        .select("row", "u", "i", "time")
        .sort("u", "time", "i", "row")
    )
    log = exposure.sorted_log(
        joined["u"].to_numpy(),
        joined["i"].to_numpy(),
        joined["time"].to_numpy(),
        users=len(users),
        items=tables.items.height,
    )
    train_user = _train_users(len(users), config, source)
    return world_of(
        source, config, tables, log, joined["row"].to_numpy(), train_user, embeddings, users
    )


def world_of(
    source: Source,
    config: SceneConfig,
    tables: Tables,
    log: exposure.Log,
    log_rows: np.ndarray,
    train_user: np.ndarray,
    embeddings: np.ndarray,
    user_ids: pl.Series,
) -> World:
    """Put a `World` together from what processes share."""
    popularity = exposure.Popularity.of(log, train_user)
    released = tables.items["available_from"].dt.epoch("s").fill_null(np.iinfo(np.int64).min)
    visible = tables
    if source.item_as_of:
        kept = tables.interactions.filter(
            pl.col("user_id").is_in(user_ids.filter(pl.Series(train_user)).implode())
        )
        visible = replace(tables, interactions=kept)
    return World(
        source=source,
        config=config,
        tables=tables,
        visible=visible,
        log=log,
        log_rows=log_rows,
        train_user=train_user,
        popularity=popularity,
        # On sale by its release date and first seen in the logs: both, to be sure it existed.
        visible_from=np.maximum(popularity.first(), released.to_numpy()),
        title_of=tables.items["title"].str.to_lowercase().rank("dense").to_numpy().astype(np.int64),
        embeddings=np.asarray(embeddings, np.float64),
        user_ids=user_ids,
        texts=render.Texts(source, tables, visible, user_ids),
    )


def _train_users(users: int, config: SceneConfig, source: Source) -> np.ndarray:
    test = round(users * config.test_users) if config.test else 0
    if config.test and not 0 < test < users:
        raise UserError(f"{users} users cannot be split into train and test", where=source.name)
    train = np.ones(users, bool)
    train[np.random.default_rng([config.seed, 1]).permutation(users)[:test]] = False
    return train


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
    for split, wanted in zip(_SPLITS, (config.train, config.test), strict=True):
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
            for start in range(0, len(here), _PART):
                name = f"{split}-{number + 1:02d}-{start // _PART:06d}"
                before = None if number < 0 else int(times[number])
                chosen = targets.take(here[start : start + _PART])
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
    seeds = draws.seeds(config.seed, scene_ids)
    past = exposure.histories(world.log, batch.user, batch.end)
    lists, origins = _candidates(world, fitted, batch, past, seeds)
    if split == "test":
        others = np.full(len(batch), config.test_others)
    else:
        others = draws.integers(seeds, exposure.OTHERS, *config.train_others)
    if batch.logged is not None:
        others = np.minimum(others, (batch.logged >= 0).sum(axis=1))
    items, of, enough = exposure.mix(seeds, lists, batch.item, others, world.title_of)
    shown = draws.integers(seeds, exposure.HISTORY, *config.history)
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

"""Canonical tables to user simulation scenes (Definition 2.1, sections 2.2 and B.1).

    split by user -> choose real behaviors -> candidate lists -> Algorithm 1 -> texts

Users of the test split are chosen first and never occur in train. A scene sees only what lay
before it: its user's earlier interactions, and collaborative scores and popularity of train users
up to that time. Each scene draws from its own generator, seeded by the run's seed and its id, so
that neither order nor batch size nor number of workers changes a single row.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from usermirrorer.builders import exposure, render
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.schema import SCENE
from usermirrorer.builders.sources import Source, Tables

_BATCH_CELLS = 2**25  # scenes x items scored at once: 128 MB a float32 matrix
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
class _World:
    """Everything a scene may draw from, indexed by user and item number."""

    source: Source
    tables: Tables
    log: exposure.Log
    log_rows: np.ndarray  # log row -> row of tables.interactions
    train_user: np.ndarray
    popularity: exposure.Popularity
    visible_from: np.ndarray  # [items] seconds
    title_of: np.ndarray
    embeddings: np.ndarray  # [items, d], rows of length 1
    user_ids: list[str]
    item_ids: list[str]


@dataclass(frozen=True)
class _Targets:
    """Real behaviors to make scenes of; `logged` holds the other items of a logged list."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    end: np.ndarray  # log row where the user's history before the scene ends
    logged: list[list[int]] | None = None

    def take(self, rows: np.ndarray) -> _Targets:
        logged = [self.logged[r] for r in rows] if self.logged is not None else None
        return _Targets(self.user[rows], self.item[rows], self.time[rows], self.end[rows], logged)

    def __len__(self) -> int:
        return len(self.user)


def build(
    source: Source,
    tables: Tables,
    embeddings: np.ndarray,
    config: SceneConfig,
    progress: Progress = lambda scenes: None,
) -> tuple[dict[str, pa.Table], Counter[str]]:
    """Make the train and test scenes of one source.

    Args:
        source: Where the tables come from.
        tables: Its canonical tables.
        embeddings: Sentence embeddings [items, d] in the order of `tables.items`.
        config: Counts, seed, lengths.
        progress: Called with the number of scenes just made.

    Returns:
        `{"train": table, "test": table}` with schema `SCENE`, ordered by scene id, and counts of
        scenes that could not be made, by reason.

    Raises:
        UserError: if the source has too few users or behaviors to make any scene.
    """
    world = _world(source, tables, embeddings, config)
    targets = _logged(world) if tables.impressions is not None else _behaviors(world, config)
    dropped: Counter[str] = Counter()
    made = {}
    for split, wanted in (("train", config.train), ("test", config.test)):
        in_split = world.train_user[targets.user] == (split == "train")
        rows = _sample(np.flatnonzero(in_split), wanted, config.seed, split)
        if wanted and not len(rows):
            raise UserError(
                f"no {split} behavior has {config.history[0]} earlier interactions of its user",
                where=source.name,
                fix="Use more of the raw data, or a shorter smallest history.",
            )
        scenes = list(_scenes(world, targets.take(rows), config, split, dropped, progress))
        scenes.sort(key=lambda scene: scene["scene_id"])
        made[split] = pa.Table.from_pylist(scenes, schema=SCENE)
    return made, dropped


def _world(source: Source, tables: Tables, embeddings: np.ndarray, config: SceneConfig) -> _World:
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
        .sort("u", "time", "i", "row")
    )
    log = exposure.make_log(
        joined["u"].to_numpy(),
        joined["i"].to_numpy(),
        joined["time"].to_numpy(),
        users=len(users),
        items=tables.items.height,
    )
    train_user = _train_users(len(users), config, source)
    popularity = exposure.Popularity.of(log, train_user)
    released = tables.items["available_from"].dt.epoch("s").fill_null(np.iinfo(np.int64).min)
    return _World(
        source=source,
        tables=tables,
        log=log,
        log_rows=joined["row"].to_numpy(),
        train_user=train_user,
        popularity=popularity,
        # On sale by its release date and first seen in the logs: both, to be sure it existed.
        visible_from=np.maximum(popularity.first(), released.to_numpy()),
        title_of=tables.items["title"].str.to_lowercase().rank("dense").to_numpy(),
        embeddings=embeddings.astype(np.float32),
        user_ids=users.to_list(),
        item_ids=tables.items["item_id"].to_list(),
    )


def _train_users(users: int, config: SceneConfig, source: Source) -> np.ndarray:
    test = round(users * config.test_users) if config.test else 0
    if config.test and not 0 < test < users:
        raise UserError(f"{users} users cannot be split into train and test", where=source.name)
    train = np.ones(users, bool)
    train[np.random.default_rng([config.seed, 1]).permutation(users)[:test]] = False
    return train


def _behaviors(world: _World, config: SceneConfig) -> _Targets:
    """Each user's first interaction with an item, where enough lies strictly before it."""
    log = world.log
    starts_moment = np.ones(len(log.user), bool)
    starts_moment[1:] = (log.user[1:] != log.user[:-1]) | (log.time[1:] != log.time[:-1])
    end = np.maximum.accumulate(np.where(starts_moment, np.arange(len(log.user)), 0))
    _, first = np.unique(log.user.astype(np.int64) * log.items + log.item, return_index=True)
    enough = first[end[first] - log.offsets[log.user[first]] >= config.history[0]]
    rows = np.sort(enough)
    return _Targets(log.user[rows], log.item[rows], log.time[rows], end[rows])


def _logged(world: _World) -> _Targets:
    """Logged lists with exactly one click and at least two further items."""
    impressions = world.tables.impressions
    assert impressions is not None
    users = {user: i for i, user in enumerate(world.user_ids)}
    items = {item: i for i, item in enumerate(world.item_ids)}
    once = impressions.filter(pl.col("clicked").list.sum() == 1).sort("impression_id")
    user, item, time, others = [], [], [], []
    rows = once.with_columns(pl.col("timestamp").dt.epoch("s")).iter_rows(named=True)
    for row in rows:
        shown = [items[i] for i in row["item_ids"] if i in items]
        clicked = row["item_ids"][row["clicked"].index(True)]
        if row["user_id"] in users and clicked in items and len(shown) > 2:
            target = items[clicked]
            user.append(users[row["user_id"]])
            item.append(target)
            time.append(row["timestamp"])
            others.append([i for i in shown if i != target])
    user_, time_ = np.array(user, np.int64), np.array(time, np.int64)
    end = np.array(
        [
            world.log.offsets[u]
            + np.searchsorted(world.log.time[world.log.offsets[u] : world.log.offsets[u + 1]], t)
            for u, t in zip(user, time, strict=True)
        ],
        np.int64,
    )
    return _Targets(user_, np.array(item, np.int64), time_, end, others)


def _sample(rows: np.ndarray, wanted: int, seed: int, split: str) -> np.ndarray:
    rng = np.random.default_rng([seed, 2, split == "test"])
    return rows if len(rows) <= wanted else np.sort(rng.choice(rows, wanted, replace=False))


def _scenes(
    world: _World,
    targets: _Targets,
    config: SceneConfig,
    split: str,
    dropped: Counter[str],
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    texts = render.Texts(world.source, world.tables, _visible(world))
    size = max(1, _BATCH_CELLS // world.log.items)
    for before, group in exposure.snapshots(targets.time):
        score = None
        if targets.logged is None:
            score = exposure.collaborative_scores(world.log, world.train_user, before)
        for start in range(0, len(group), size):
            batch = targets.take(group[start : start + size])
            drafts = list(_drafts(world, batch, score, config, split, dropped))
            yield from texts.complete(drafts)
            progress(len(batch))


def _visible(world: _World) -> Tables:
    train = [user for user, keep in zip(world.user_ids, world.train_user, strict=True) if keep]
    kept = world.tables.interactions.filter(pl.col("user_id").is_in(train))
    return replace(world.tables, interactions=kept)


def _drafts(
    world: _World,
    batch: _Targets,
    score: exposure.Score | None,
    config: SceneConfig,
    split: str,
    dropped: Counter[str],
) -> Iterator[render.Draft]:
    past = exposure.histories(world.log, batch.user, batch.end)
    taste = _unit(past @ world.embeddings)
    if score is not None:
        allowed = world.visible_from[None, :] <= batch.time[:, None]
        allowed[past.nonzero()] = False
        allowed[np.arange(len(batch)), batch.item] = False
        content = exposure.top(world.embeddings[batch.item] @ world.embeddings.T, allowed)
        collaborative = exposure.top(score(past), allowed)
    for row in range(len(batch)):
        scene_id = _scene_id(world, batch, row)
        rng = random.Random(f"{config.seed}/{scene_id}")
        if score is None:
            assert batch.logged is not None
            lists = {"logged": rng.sample(batch.logged[row], len(batch.logged[row]))}
        else:
            lists = {
                "content": [int(i) for i in content[row] if i >= 0],
                "collaborative": [int(i) for i in collaborative[row] if i >= 0],
                "random": exposure.random_items(rng, allowed[row]),
            }
        others = config.test_others if split == "test" else rng.randint(*config.train_others)
        if score is None:
            others = min(others, len(lists["logged"]))
        mixed = exposure.mix(rng, lists, int(batch.item[row]), others, world.title_of)
        if mixed is None:
            dropped[f"{split}: fewer candidates than options"] += 1
            continue
        yield _draft(world, batch, row, scene_id, mixed, rng.randint(*config.history), taste[row])


def _draft(
    world: _World,
    batch: _Targets,
    row: int,
    scene_id: str,
    mixed: tuple[list[int], list[str]],
    shown: int,
    taste: np.ndarray,
) -> render.Draft:
    items, origins = mixed
    user, end, time = int(batch.user[row]), int(batch.end[row]), int(batch.time[row])
    start = max(int(world.log.offsets[user]), end - shown)
    similarity = world.embeddings[items] @ taste
    return render.Draft(
        scene_id=scene_id,
        interaction_rows=world.log_rows[start:end].tolist(),
        user_id=world.user_ids[user],
        time=time,
        items=items,
        origins=origins,
        popularity=world.popularity.before(items, time),
        similarity=[round(float(s), 4) for s in similarity],
        answer=origins.index("target"),
        real_exposure=batch.logged is not None,
    )


def _scene_id(world: _World, batch: _Targets, row: int) -> str:
    user, item = world.user_ids[batch.user[row]], world.item_ids[batch.item[row]]
    key = f"{world.source.name}|{user}|{item}|{batch.time[row]}"
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


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

"""What scenes may draw from: users split into train and test, and indices over their feedback.

Users of the test split are chosen first and never occur in train.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.builders.scenes import exposure, render


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

"""What scenes may draw from: users split into train and test, and indices over their feedback.

Users of the test split are chosen first and never occur in train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import EXPOSURE_MODES
from usermirrorer.builders.common.text import numbered_by_looks
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.builders.scenes import contemporaries, feedback, render, targets
from usermirrorer.builders.scenes.contemporaries import DAY, Contemporaries, PassedOver, Window
from usermirrorer.builders.scenes.targets import Targets

#: How the items beside a target are found; sources with logged lists show those (mode `logged`).
#:
#: * `exchangeable`: drawn from what contemporaries took, by the rule by which the target became
#:   one (`contemporaries.py`): nothing but the person tells them apart.
#: * `retrieved`: content and collaborative candidates for the history alone; the target must be
#:   among them, and the others are drawn from the same lists.
#: * `paper`: Algorithm 1 as printed, for reproduction only. Its exposures have tells: content
#:   candidates are neighbours of the target, which so is the hub of its list.
EXPOSURES = EXPOSURE_MODES[:3]


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
        exposure: One of `EXPOSURES`.
        window: Exchangeable: how many interactions of train users before a scene count as what its
            contemporaries took.
        window_days: Exchangeable: how many days before it, at most (0: no bound).
        later_days: Items that the user takes within so many days after the scene are not used as
            wrong answers (not in mode `paper`).
        history_gap: Seconds that the history ends before the scene, at least (0: any time before).
            People often act on page after page; a gap leaves taste and takes the order of pages.
        time_cut: Train scenes lie before, test scenes after the time at which this share of the
            behaviors has passed (0: no cut).
    """

    train: int = 16_384
    test: int = 640
    seed: int = 0
    test_users: float = 0.1
    history: tuple[int, int] = (1, 20)
    train_others: tuple[int, int] = (2, 12)
    test_others: int = 4
    exposure: str = "exchangeable"
    window: int = 3_000
    window_days: float = 0
    later_days: float = 30
    history_gap: int = 0
    time_cut: float = 0

    def __post_init__(self) -> None:
        """Refuse what no scenes can be made by.

        Raises:
            UserError: naming the setting.
        """
        if self.exposure not in EXPOSURES:
            raise UserError(
                f"no exposure mode is called {self.exposure!r}",
                fix=f"Choose from {', '.join(EXPOSURES)}.",
            )
        if not 0 <= self.time_cut < 1:
            raise UserError(f"{self.time_cut} is no share of time", where="time_cut", fix="0 to 1.")
        if self.window < 1 or min(self.window_days, self.later_days, self.history_gap) < 0:
            raise UserError("windows, days and gaps are not negative", where="SceneConfig")


@dataclass(frozen=True)
class World:
    """Everything a scene may draw from, indexed by user and item number."""

    source: Source
    config: SceneConfig
    tables: Tables
    log: feedback.Log
    log_rows: np.ndarray  # log row -> row of tables.interactions
    train_user: np.ndarray
    popularity: feedback.Popularity
    visible_from: np.ndarray  # [items] seconds; an item is there strictly after it
    known_from: np.ndarray  # [items] seconds of its release, or where that is not known, first use
    title_of: np.ndarray  # equal for titles that look alike
    embeddings: np.ndarray  # [items, d], rows of length 1
    user_ids: pl.Series
    texts: render.Texts
    firsts: feedback.FirstTimes
    pool: Contemporaries | None  # of mode `exchangeable`, and for placebo targets; None: logged
    targets: Targets  # what plan.py chooses from; empty where parts are made elsewhere
    cut: int | None = None  # seconds, see SceneConfig.time_cut

    @property
    def window(self) -> Window:
        """How far back contemporaries go."""
        return Window(self.config.window, round(self.config.window_days * DAY))

    @property
    def mode(self) -> str:
        """How exposures are made: a mode of `EXPOSURES`, or `logged`."""
        return "logged" if self.pool is None else self.config.exposure

    def passed_over(self, batch: Targets, days: float) -> PassedOver:
        """Return the rule of what may not be an option, with so many days after each scene."""
        later = round(days * DAY)
        return PassedOver(
            self.firsts, batch.user, batch.time, later, self.visible_from, self.title_of
        )

    def rows_of(self, split: str) -> np.ndarray:
        """Return the rows of `targets` that may become scenes of a split."""
        theirs = self.train_user[self.targets.user] == (split == "train")
        return np.flatnonzero(theirs & targets.on_side(self.targets, split, self.cut))

    def most_per_user(self, split: str) -> int:
        """Return how many behaviors of one user may become scenes of a split."""
        wanted = self.config.train if split == "train" else self.config.test
        counts = np.bincount(self.targets.user[self.rows_of(split)], minlength=1)
        return contemporaries.cap(counts, wanted)


def make_world(
    source: Source, tables: Tables, embeddings: np.ndarray, config: SceneConfig
) -> World:
    """Number users and items, set test users aside, and index what scenes look up."""
    if len(embeddings) != tables.items.height:
        raise ValueError(f"{len(embeddings)} embeddings for {tables.items.height} items")
    users = tables.interactions["user_id"].unique().sort()
    joined = _numbered(tables, users)
    log = feedback.sorted_log(
        joined["u"].to_numpy(),
        joined["i"].to_numpy(),
        joined["time"].to_numpy(),
        users=len(users),
        items=tables.items.height,
    )
    arrays = {
        "user": log.user,
        "item": log.item,
        "time": log.time,
        "offsets": log.offsets,
        "log_rows": joined["row"].to_numpy(),
        "train_user": train_users(len(users), config, source),
        "embeddings": embeddings,
    }
    firsts = feedback.FirstTimes.of(log)
    arrays |= {"first_keys": firsts.keys, "first_rows": firsts.rows}
    bare = world_of(source, config, tables, arrays, users)
    if tables.impressions is not None:
        chosen = targets.logged(tables, log, users, config.history_gap)
        return _cut(replace(bare, targets=chosen))
    chosen, rows = targets.behaviors(log, firsts, config.history[0], config.history_gap)
    return _with_pool(bare, chosen, contemporaries.gather(log, rows, bare.train_user))


def _numbered(tables: Tables, users: pl.Series) -> pl.DataFrame:
    """Return the interactions by number of user `u` and item `i`, in the order of a log."""
    number_of_user = pl.DataFrame({"user_id": users, "u": np.arange(len(users))})
    number_of_item = tables.items.select("item_id").with_row_index("i")
    return (
        tables.interactions.with_row_index("row")
        .select("row", "user_id", "item_id", time=pl.col("timestamp").dt.epoch("s"))
        .join(number_of_user, on="user_id")
        .join(number_of_item, on="item_id")
        .select("row", "u", "i", "time")
        .sort("u", "time", "i", "row")
    )


def _cut(world: World) -> World:
    theirs = np.flatnonzero(world.train_user[world.targets.user])  # test users reach nothing
    if not world.config.time_cut or not len(theirs):
        return world
    cut = targets.cut_time(world.targets.take(theirs), world.config.time_cut)
    return replace(world, cut=cut)


def _with_pool(world: World, chosen: Targets, pool: Contemporaries) -> World:
    """Keep eligible targets, and weight what contemporaries took as scenes weight targets."""
    config, window = world.config, world.window
    alike = pool if config.exposure == "exchangeable" else None
    kept = targets.eligible(chosen, world.visible_from, alike, window)
    world = _cut(replace(world, targets=kept))
    masses, fits = [], []
    for number, split in enumerate(targets.SPLITS):
        most = world.most_per_user(split)
        # Contemporaries are train users: what they would give if this split were theirs.
        side = targets.on_side(kept, split, world.cut)
        theirs = np.flatnonzero(side & world.train_user[kept.user])
        counts = np.bincount(kept.user[theirs], minlength=world.log.users)
        masses.append(contemporaries.mass_of(pool, counts, most))
        like = targets.at_most(kept, theirs, most, config.seed, split)
        batch = kept.take(like[: contemporaries.SAMPLED])
        rule = world.passed_over(batch, config.later_days)
        rng = np.random.default_rng([config.seed, 4, number])
        fits.append(
            contemporaries.fit_kept(pool, window, masses[-1], batch.item, batch.time, rule, rng)
        )
    edges, keep = (np.stack(arrays) for arrays in zip(*fits, strict=True))
    pool = replace(pool, mass_train=masses[0], mass_test=masses[1], edges=edges, kept=keep)
    return replace(world, pool=pool)


def world_of(
    source: Source,
    config: SceneConfig,
    tables: Tables,
    arrays: Mapping[str, np.ndarray],
    user_ids: pl.Series,
) -> World:
    """Put a `World` together from what processes share, see `shared_arrays`."""
    log = feedback.Log(
        arrays["user"], arrays["item"], arrays["time"], arrays["offsets"], tables.items.height
    )
    train_user = arrays["train_user"]
    popularity = feedback.Popularity.of(log, train_user)
    stated = tables.items["available_from"].dt.epoch("s")
    released, first = stated.fill_null(np.iinfo(np.int64).min).to_numpy(), popularity.first()
    visible = visible_tables(source, tables, user_ids, train_user)
    pool = {name.removeprefix(_POOL): a for name, a in arrays.items() if name.startswith(_POOL)}
    none = np.empty(0, np.int64)
    return World(
        source=source,
        config=config,
        tables=tables,
        log=log,
        log_rows=arrays["log_rows"],
        train_user=train_user,
        popularity=popularity,
        # On sale by its release date and first seen in the logs: both, to be sure it existed.
        visible_from=np.maximum(first, released),
        known_from=np.where(stated.is_null().to_numpy(), first, released),
        title_of=numbered_by_looks(tables.items["title"].fill_null("").to_list()),
        embeddings=np.asarray(arrays["embeddings"], np.float64),
        user_ids=user_ids,
        texts=render.Texts(source, tables, visible, user_ids),
        firsts=feedback.FirstTimes(log, arrays["first_keys"], arrays["first_rows"]),
        pool=Contemporaries.of_arrays(pool) if pool else None,
        targets=Targets(none, none, none, none, none),
    )


_POOL = "pool_"


def shared_arrays(world: World) -> dict[str, np.ndarray]:
    """Return what `world_of` puts together again in another process, by name."""
    log = world.log
    arrays = {name: getattr(log, name) for name in ("user", "item", "time", "offsets")}
    arrays |= {"first_keys": world.firsts.keys, "first_rows": world.firsts.rows}
    arrays |= {name: getattr(world, name) for name in ("log_rows", "train_user", "embeddings")}
    pool = {} if world.pool is None else world.pool.arrays()
    return arrays | {_POOL + name: array for name, array in pool.items()}


def visible_tables(
    source: Source, tables: Tables, user_ids: pl.Series, train_user: np.ndarray
) -> Tables:
    """Return the tables that values of items as of a time are computed from: train users' alone."""
    if not source.item_as_of:
        return tables
    theirs = pl.col("user_id").is_in(user_ids.filter(pl.Series(train_user)).implode())
    return replace(tables, interactions=tables.interactions.filter(theirs))


def train_users(users: int, config: SceneConfig, source: Source) -> np.ndarray:
    """Say of each user number whether it is of the train split, the others being set aside.

    Raises:
        UserError: if there are too few users to split.
    """
    test = round(users * config.test_users) if config.test else 0
    if config.test and not 0 < test < users:
        raise UserError(f"{users} users cannot be split into train and test", where=source.name)
    train = np.ones(users, bool)
    train[np.random.default_rng([config.seed, 1]).permutation(users)[:test]] = False
    return train

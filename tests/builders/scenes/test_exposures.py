"""Exposures have no tells: one rule for the target and for what stands beside it, and a placebo."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import ks_2samp

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.made_up import Size, write
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import contemporaries, feedback, targets, world
from usermirrorer.builders.scenes.build import make_scenes
from usermirrorer.builders.scenes.world import SceneConfig

DAY = 86_400
CONFIG = SceneConfig(train=400, test=80, seed=1, history=(1, 4), window=800)


@pytest.fixture(scope="module")
def source():
    return get_source("movielens")


@pytest.fixture(scope="module")
def feedback_tables(tmp_path_factory, source):
    raw = write("movielens", tmp_path_factory.mktemp("raw"), Size(200, 150, 8_000))
    return source.read(raw, Report())


@pytest.fixture(scope="module")
def unit(feedback_tables):
    drawn = np.random.default_rng(0).standard_normal((feedback_tables.items.height, 8))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=world.EXPOSURES)
def made(request, source, feedback_tables, unit):
    config = replace(CONFIG, exposure=request.param)
    return config, make_scenes(source, feedback_tables, unit, config)[0]


@pytest.fixture(scope="module")
def exchangeable(source, feedback_tables, unit):
    return make_scenes(source, feedback_tables, unit, CONFIG)[0]


@pytest.fixture(scope="module")
def taken(feedback_tables):
    """User -> item -> seconds of the first interaction."""
    found: dict[str, dict[str, float]] = {}
    columns = feedback_tables.interactions.sort("timestamp").select(
        "user_id", "item_id", "timestamp"
    )
    for user, item, time in columns.iter_rows():
        found.setdefault(user, {}).setdefault(item, time.timestamp())
    return found


def every(made, *splits):
    return [row for split in splits or made for row in made[split].to_pylist()]


def test_every_row_says_how_its_exposure_was_made(made):
    config, splits = made
    assert {row["exposure_mode"] for row in every(splits)} == {config.exposure}
    assert not any(row["real_exposure"] for row in every(splits))


def test_target_and_others_alike_were_taken_by_train_users_strictly_before(made):
    _, splits = made
    for row in every(splits):
        assert min(row["exposure_popularity"]) >= 1


def test_nothing_taken_before_at_the_same_moment_or_soon_after_is_a_wrong_answer(made, taken):
    config, splits = made
    soon = 0 if config.exposure == "paper" else config.later_days * DAY
    for row in every(splits):
        own, time = taken[row["user_id"]], row["timestamp"].timestamp()
        for item in row["exposure_item_ids"]:
            if item != row["item_id"]:
                first = own.get(item, np.inf)
                assert first >= time if config.exposure == "paper" else first > time + soon


def test_algorithm_1_as_printed_counts_right_answers_as_wrong(source, feedback_tables, unit, taken):
    """Why the other modes leave them out: in the paper's mode there are many."""
    config = replace(CONFIG, exposure="paper")
    later = 0
    for row in every(make_scenes(source, feedback_tables, unit, config)[0], "train"):
        own = taken[row["user_id"]]
        later += any(i in own for i in row["exposure_item_ids"] if i != row["item_id"])
    assert later > 20


def test_others_are_what_train_users_took_in_the_window(exchangeable, feedback_tables):
    users = {row["user_id"] for row in every(exchangeable, "test")}
    theirs = feedback_tables.interactions.filter(~pl.col("user_id").is_in(sorted(users)))
    firsts = theirs.sort("timestamp").unique(["user_id", "item_id"], keep="first").sort("timestamp")
    for row in every(exchangeable)[::7]:
        before = firsts.filter(pl.col("timestamp") < row["timestamp"])
        # First behaviors have no history and are not drawn: they lengthen the window a bit.
        window = set(before.tail(2 * CONFIG.window)["item_id"])
        assert set(row["exposure_item_ids"]) <= window


def test_a_window_of_days_is_kept_too(source, feedback_tables, unit):
    config = replace(CONFIG, window=10_000, window_days=5, train=200)
    made = make_scenes(source, feedback_tables, unit, config)[0]
    times = feedback_tables.interactions
    for row in every(made, "train")[::9]:
        low = row["timestamp"].timestamp() - 5 * DAY
        near = times.filter(
            pl.col("timestamp").dt.epoch("s").is_between(low, row["timestamp"].timestamp())
        )
        assert set(row["exposure_item_ids"]) <= set(near["item_id"])


@dataclass
class Busy:
    """Every user takes these items just after every scene."""

    soon: np.ndarray  # [items] of bool

    def when(self, users, items):
        return np.where(self.soon[items], 0, feedback.NEVER)


def long_tail(window, soon=0):
    """Targets and contemporaries where most items are taken a few times, and the rule for options.

    So the bias of counting is large; `soon` of the most popular items may not stand beside targets.
    """
    rng = np.random.default_rng(0)
    share = np.sort(rng.pareto(1.0, 3_000))
    item = rng.choice(3_000, 12_000, p=share / share.sum())
    user, time = rng.integers(0, 4_000, 12_000), np.sort(rng.integers(0, 10**6, 12_000))
    log = feedback.make_log(user, item, time, users=4_000, items=3_000)
    chosen, rows = targets.behaviors(log, feedback.FirstTimes.of(log), 0, 0)
    pool = contemporaries.gather(log, rows, np.ones(4_000, bool))
    kept = targets.eligible(chosen, np.full(3_000, -1), pool, window)
    kept = kept.take(rng.choice(len(kept), 3_000, replace=False))
    rule = contemporaries.PassedOver(
        Busy((np.arange(3_000) >= 3_000 - soon) & (np.arange(3_000) % 2 == 0)),
        np.zeros(3_000, int),
        kept.time,
        0,
        np.full(3_000, -1),
        np.arange(3_000),
    )
    return pool, kept, rule


def taken_before(pool, window, kept, rule):
    """How often targets and drawn items were taken in the window, and ever before: [2, n] each."""
    items, origin, enough = contemporaries.draw(
        pool,
        window,
        "train",
        np.arange(len(kept), dtype=np.uint64),
        kept.item,
        kept.time,
        np.full(len(kept), 4),
        rule,
    )
    assert enough.all()
    sides = ((kept.item, kept.time), (items[origin == 0], np.repeat(kept.time, 4)))
    return [
        np.stack(contemporaries.often(pool, side, *window.of(pool, times))) for side, times in sides
    ]


def apart(of_targets, of_drawn):
    """The largest difference of two distributions, for each of both numbers."""
    return [ks_2samp(*pair).statistic for pair in zip(of_targets, of_drawn, strict=True)]


@pytest.mark.parametrize(("soon", "most"), [(0, 0.06), (60, 0.12)])
def test_drawn_items_were_taken_as_often_as_targets_and_would_not_be_without_the_fit(soon, most):
    """Neither what counting does to rare items, nor that right answers are left out, is seen.

    The second case is extreme: half of the items that make up most behaviors are never allowed.
    """
    window = contemporaries.Window(2_000)
    pool, kept, rule = long_tail(window, soon)
    plain = apart(*taken_before(pool, window, kept, rule))
    edges, keep = contemporaries.fit_kept(
        pool, window, pool.mass_train, kept.item, kept.time, rule, np.random.default_rng(1)
    )
    fitted = replace(pool, edges=np.stack([edges] * 2), kept=np.stack([keep] * 2))
    now = apart(*taken_before(fitted, window, kept, rule))
    assert max(plain) > 2 * most and max(now) < most, (plain, now)


def test_every_scene_has_a_placebo_of_the_same_person_at_the_same_time(exchangeable, taken):
    for split in targets.SPLITS:
        real = {row["scene_id"]: row for row in every(exchangeable, split)}
        placebos = every(exchangeable, f"placebo_{split}")
        assert len(placebos) > 0.9 * len(real)
        for row in placebos:
            scene = real[row["scene_id"]]
            same = ("user_id", "timestamp", "history", "profile", "history_gap")
            assert all(row[name] == scene[name] for name in same)
            assert row["item_id"] not in taken[row["user_id"]]  # nothing to be found
            assert row["exposure_item_ids"][row["answer"]] == row["item_id"] != scene["item_id"]


def test_placebo_targets_are_those_of_other_people_of_the_same_split(exchangeable):
    for split in targets.SPLITS:
        owners: dict[str, set[str]] = {}
        for row in every(exchangeable, split):
            owners.setdefault(row["item_id"], set()).add(row["user_id"])
        for row in every(exchangeable, f"placebo_{split}"):
            assert owners[row["item_id"]] - {row["user_id"]}


def test_the_history_ends_a_stated_gap_before_the_scene(source, feedback_tables, unit):
    gap = 3 * DAY
    made = make_scenes(source, feedback_tables, unit, replace(CONFIG, history_gap=gap))[0]
    rows = every(made, "train", "test")
    assert len(rows) > 200
    for row in rows:
        last = row["history_timestamps"][-1]
        assert row["history_gap"] == (row["timestamp"] - last).total_seconds() >= gap


def test_options_stay_clear_of_what_was_taken_within_the_gap(source, feedback_tables, unit, taken):
    """The gap hides the newest history from the simulator, not from the rule for options."""
    made = make_scenes(source, feedback_tables, unit, replace(CONFIG, history_gap=3 * DAY))[0]
    for row in every(made, "train", "test"):
        own, time = taken[row["user_id"]], row["timestamp"].timestamp()
        others = [i for i in row["exposure_item_ids"] if i != row["item_id"]]
        assert all(own.get(item, np.inf) > time for item in others)


def test_a_time_cut_puts_train_before_and_test_after_it(source, feedback_tables, unit):
    made = make_scenes(source, feedback_tables, unit, replace(CONFIG, time_cut=0.7))[0]
    train, test = ([r["timestamp"] for r in every(made, s)] for s in targets.SPLITS)
    assert train and test and max(train) < min(test)


def test_each_user_has_one_test_scene_where_there_are_enough_users(source, feedback_tables, unit):
    made = make_scenes(source, feedback_tables, unit, replace(CONFIG, test=10, train=60))[0]
    for split, wanted in (("test", 10), ("train", 60)):
        counts = Counter(row["user_id"] for row in every(made, split))
        assert len(every(made, split)) == wanted and max(counts.values()) == 1


def test_the_cap_is_the_least_with_which_enough_scenes_can_be_made():
    counts = np.array([1, 2, 5, 9])
    assert [contemporaries.cap(counts, n) for n in (3, 4, 5, 7, 13, 17, 99)] == [
        1,
        1,
        2,
        2,
        5,
        9,
        9,
    ]


def test_features_of_options_travel_with_the_scenes(exchangeable, unit, feedback_tables):
    number = {item: i for i, item in enumerate(feedback_tables.items["item_id"])}
    for row in every(exchangeable, "test"):
        vectors = unit[[number[i] for i in row["exposure_item_ids"]]].astype(np.float64)
        cosines = vectors @ vectors.T
        size = len(vectors)
        hub = (cosines.sum(axis=1) - np.diag(cosines)) / (size - 1)
        before = [0.0, *(cosines[i, :i].max() for i in range(1, size))]
        np.testing.assert_allclose(row["exposure_hub"], hub, atol=1e-5)
        np.testing.assert_allclose(row["exposure_before"], before, atol=1e-5)
        assert all(age is None or age > 0 for age in row["exposure_age"])
    for name in ("exposure_collaborative", "exposure_sequential"):
        assert any(any(row[name]) for row in every(exchangeable, "test"))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"exposure": "ours"}, "exchangeable, retrieved, paper"),
        ({"time_cut": 1.0}, "share"),
        ({"later_days": -1}, "negative"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, word):
    with pytest.raises(UserError, match=word):
        SceneConfig(**settings)


def test_what_happens_at_the_same_moment_is_neither_before_nor_after():
    """Days alone are known in some sources: events of the scene's day tell it nothing."""
    log = feedback.make_log(
        np.array([0, 1, 1]), np.array([0, 1, 2]), np.array([50, 50, 49]), users=2, items=4
    )
    rule = contemporaries.PassedOver(
        feedback.FirstTimes.of(log),
        users=np.array([1]),
        times=np.array([50]),
        seconds=0,
        visible_from=np.array([49, 0, 0, 50]),
        title_of=np.arange(4),
    )
    # Item 1 is taken at the same moment, 2 was before, and 3 is only there from that moment on.
    assert rule(np.array([0]), np.arange(4)[None]).tolist() == [[False, True, True, True]]
    found, _ = targets.behaviors(log, feedback.FirstTimes.of(log), 1, 0)
    kept = targets.eligible(found, np.array([49, 50, 49, 0]), None, contemporaries.Window(9))
    assert len(found) == 1 and not len(kept)
    pool = contemporaries.gather(log, np.arange(3), np.ones(2, bool))
    there = contemporaries.stand(pool, contemporaries.Window(9), np.arange(3), np.full(3, 50))
    assert there.tolist() == [False, False, True]

"""Guarantees of scenes, each shown on built scenes and on a source made to break it."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import build as scene_build
from usermirrorer.builders.scenes import exposure, feedback, gfcf, part, plan, random_numbers, world


def rows(built, split="train"):
    return built[split].to_pylist()


def build(tables, vectors, **settings):
    config = world.SceneConfig(**{"train": 200, "test": 40, "history": (1, 4), **settings})
    return scene_build.make_scenes(get_source("movielens"), tables, vectors, config)[0]


def test_scenes_follow_the_documented_schema(built):
    assert built["train"].schema.equals(SCENE)
    assert built["test"].num_rows == 120


def test_test_users_never_occur_in_train(built):
    train, test = ({r["user_id"] for r in rows(built, s)} for s in ("train", "test"))
    assert train and test and not train & test


def test_lengths_are_2_to_12_others_in_train_and_five_options_in_test(built):
    train = {len(r["exposure"]) for r in rows(built)}
    assert train == set(range(3, 14))
    assert {len(r["exposure"]) for r in rows(built, "test")} == {5}


def test_nothing_of_the_scene_or_after_it_is_in_its_history(built):
    for row in rows(built):
        assert all(time < row["timestamp"] for time in row["history_timestamps"])
        assert row["item_id"] not in row["history_item_ids"]


def test_options_were_not_interacted_with_before(built, tables):
    seen = tables.interactions.select("user_id", "item_id", "timestamp")
    by_user = {k[0]: v for k, v in seen.partition_by("user_id", as_dict=True).items()}
    for row in rows(built):
        earlier = by_user[row["user_id"]].filter(pl.col("timestamp") < row["timestamp"])
        assert not set(row["exposure_item_ids"]) & set(earlier["item_id"])


def test_later_interactions_change_nothing(tables, vectors):
    """Scenes of early behaviors stay the same when all that came later is taken away."""
    middle = tables.interactions["timestamp"].median()
    cut = replace(tables, interactions=tables.interactions.filter(pl.col("timestamp") < middle))
    log, early = (_log(t) for t in (tables, cut))
    train = np.ones(log.users, bool)
    moment = int(middle.timestamp()) - 86_400
    history = feedback.histories(early, np.arange(5), early.offsets[1:6])
    full, less = (gfcf.scores(gfcf.fit(x, train, moment), history) for x in (log, early))
    assert np.array_equal(full, less) and full.any()
    items, moments = np.arange(20), np.full(20, moment)
    all_, past = (feedback.Popularity.of(x, train).before(items, moments) for x in (log, early))
    assert np.array_equal(all_, past) and all_.any()


def _log(tables):
    users = tables.users["user_id"].to_list()
    items = {item: i for i, item in enumerate(tables.items["item_id"])}
    frame = tables.interactions
    return feedback.make_log(
        np.array([users.index(u) for u in frame["user_id"]]),
        np.array([items[i] for i in frame["item_id"]]),
        frame["timestamp"].dt.epoch("s").to_numpy(),
        users=len(users),
        items=len(items),
    )


def test_test_users_reach_neither_popularity_nor_collaborative_scores(tables, vectors, built):
    """All behaviors of test users are moved to other items: train does not notice."""
    test_users = {r["user_id"] for r in rows(built, "test")}
    everyone = tables.interactions
    theirs = pl.col("user_id").is_in(sorted(test_users))
    other = ((pl.col("item_id").cast(pl.Int32) + 13) % 120 + 1).cast(pl.String)
    shuffled = everyone.with_columns(
        pl.when(theirs).then(other).otherwise(pl.col("item_id")).alias("item_id")
    )
    config = world.SceneConfig(train=600, test=120, seed=3, history=(1, 4))
    source = get_source("movielens")
    again, _ = scene_build.make_scenes(
        source, replace(tables, interactions=shuffled), vectors, config
    )
    assert again["train"].equals(built["train"])


def test_options_existed_at_the_time(tables, vectors):
    """A film released in 2090 is in no exposure, and one nobody had seen yet is in none either."""
    future = datetime(2090, 1, 1, tzinfo=UTC)
    items = tables.items.with_columns(
        pl.when(pl.col("item_id").cast(pl.Int32) <= 20)
        .then(pl.lit(future).dt.cast_time_unit("ms"))
        .otherwise(pl.col("available_from"))
        .alias("available_from")
    )
    made = build(replace(tables, items=items), vectors)
    for row in rows(made):
        assert not {str(i) for i in range(1, 21)} & set(row["exposure_item_ids"])
        assert min(row["exposure_popularity"]) > 0  # of the target as of the others


def test_options_that_read_the_same_never_stand_together(tables, vectors):
    same = tables.items.with_columns(pl.lit("One Title (1990)").alias("title"))
    few = same.with_columns(
        pl.when(pl.col("item_id").cast(pl.Int32) % 2 == 0)
        .then(pl.col("title"))
        .otherwise(tables.items["title"])
        .alias("title")
    )
    made = build(replace(tables, items=few), vectors)
    for row in rows(made):
        titles = [text.split(" - ")[0] for text in row["exposure"]]
        assert len(set(titles)) == len(titles)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tables, vectors):
    first, again, other = (build(tables, vectors, seed=s) for s in (1, 1, 2))
    assert first["train"].equals(again["train"])
    assert not first["train"].equals(other["train"])


def test_batches_do_not_change_rows(tables, vectors, monkeypatch):
    whole = build(tables, vectors, seed=5)
    monkeypatch.setattr(part, "_BATCH_CELLS", tables.items.height * 7)
    assert build(tables, vectors, seed=5)["train"].equals(whole["train"])


@pytest.mark.parametrize("workers", [{"workers": 2}, {"ray": True}], ids=["processes", "ray"])
def test_processes_and_ray_give_the_rows_of_one_process(tables, vectors, monkeypatch, workers):
    if "ray" in workers:
        ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    monkeypatch.setattr(plan, "PART_SCENES", 50)
    source = get_source("movielens")
    config = world.SceneConfig(train=300, test=60, seed=5, history=(1, 4))
    alone = scene_build.make_scenes(source, tables, vectors, config)
    try:
        assert scene_build.make_scenes(source, tables, vectors, config, **workers) == alone
    finally:
        if "ray" in workers:
            ray.shutdown()


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from usermirrorer.builders.scenes import plan
from usermirrorer.builders.scenes.build import make_scenes
from usermirrorer.builders.scenes.world import SceneConfig
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source
source = get_source("movielens")
tables = source.read(Path(sys.argv[1]), Report())
plan.PART_SCENES, made = 50, 0
config = SceneConfig(train=300, test=60, seed=5, history=(1, 4))
def progress(done):
    global made
    made += done
    if made > 200:
        os.kill(os.getpid(), signal.SIGKILL)
make_scenes(source, tables, np.load(sys.argv[2]), config, progress, parts=Path(sys.argv[3]))
"""


def test_a_killed_build_goes_on_with_the_first_missing_part(
    raw_movielens, tables, vectors, tmp_path, monkeypatch
):
    np.save(tmp_path / "vectors.npy", vectors)
    parts = tmp_path / "parts"
    arguments = [str(raw_movielens), str(tmp_path / "vectors.npy"), str(parts)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
    monkeypatch.setattr(plan, "PART_SCENES", 50)
    source = get_source("movielens")
    config = world.SceneConfig(train=300, test=60, seed=5, history=(1, 4))
    resumed = scene_build.make_scenes(source, tables, vectors, config, parts=parts)
    after = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
    assert before and len(after) > len(before) and before.items() <= after.items()
    assert resumed == scene_build.make_scenes(source, tables, vectors, config)
    scene_build.make_scenes(source, tables, vectors, replace(config, seed=6), parts=parts)
    again = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
    assert not again.items() & after.items()  # parts of another run are not used


def test_a_scene_does_not_depend_on_how_many_others_are_made(tables, vectors):
    few, many = (build(tables, vectors, train=n, exposure="paper") for n in (50, 10_000))
    by_id = {row["scene_id"]: row for row in rows(many)}
    assert all(by_id[row["scene_id"]] == row for row in rows(few))


def test_fewer_scenes_are_a_clear_error_when_nobody_has_history(tables, vectors):
    one = replace(tables, interactions=tables.interactions.unique("user_id", keep="first"))
    with pytest.raises(UserError, match="earlier interactions"):
        build(one, vectors)


def mixed(lists, others, scenes=4000, titles=None):
    """Algorithm 1 on the same lists for many scenes: items, origins, whether they sufficed."""
    width = max(map(len, lists))
    padded = np.array([[*row, *[-1] * (width - len(row))] for row in lists])
    return exposure.mix(
        random_numbers.seeds(0, [str(n) for n in range(scenes)]),
        np.repeat(padded[None], scenes, axis=0),
        np.zeros(scenes, int),
        np.full(scenes, others),
        np.arange(200) if titles is None else titles,
    )


def test_algorithm_1_puts_the_target_at_every_position_alike():
    items, origins, enough = mixed([[*range(1, 33)], [*range(20, 52)], [*range(40, 72)]], 4)
    assert enough.all() and ((origins == -1).sum(axis=1) == 1).all()
    assert (items[origins == -1] == 0).all()
    assert all(len(set(row)) == 5 for row in items.tolist())
    counts = np.bincount(np.argmax(origins == -1, axis=1), minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_algorithm_1_draws_from_the_three_lists_alike_and_in_rank_order():
    lists = [[*range(1, 33)], [*range(40, 72)], [*range(80, 112)]]
    items, origins, _ = mixed(lists, 6)
    for row, origin in zip(items, origins, strict=True):
        for of, ranked in enumerate(lists):
            of_list = row[origin == of].tolist()
            assert of_list == ranked[: len(of_list)]
    assert stats.chisquare(np.bincount(origins[origins >= 0])).pvalue > 1e-3


def test_algorithm_1_passes_over_titles_that_read_the_same():
    titles = np.arange(200) // 2  # 0 and 1, 2 and 3, ... read the same
    items, origins, enough = mixed([[1, 2, 3, 4, 5, 6]], 3, scenes=5, titles=titles)
    assert enough.all()
    assert (items[origins >= 0].reshape(5, 3) == [2, 4, 6]).all()


def test_algorithm_1_says_when_candidates_run_out():
    assert not mixed([[1, 1, 0], []], 4, scenes=3)[2].any()
    assert mixed([[1, 2], [3, 4]], 4, scenes=3)[2].all()


def test_top_is_what_sorting_gives():
    rng = np.random.default_rng(0)
    scores, allowed = rng.integers(0, 9, (50, 40)).astype(np.float32), rng.random((50, 40)) < 0.5
    for row, ranked in enumerate(exposure.top(scores, allowed, 12)):
        best = sorted(np.flatnonzero(allowed[row]), key=lambda i: (-scores[row, i], i))[:12]
        assert ranked.tolist() == best + [-1] * (12 - len(best))


@pytest.mark.parametrize("share", [0.9, 0.02])
def test_random_candidates_are_allowed_different_and_all_equally_likely(share):
    allowed = np.random.default_rng(0).random(1000) < share
    seeds = random_numbers.seeds(0, [str(n) for n in range(3000)])
    found = exposure.random_items(seeds, np.repeat(allowed[None], 3000, axis=0), 8)
    assert all(len(set(row)) == 8 for row in found.tolist())
    for place in (0, 7):
        counts = np.bincount(found[:, place], minlength=1000)
        assert not counts[~allowed].any()
        assert stats.chisquare(counts[allowed]).pvalue > 1e-3


def test_random_numbers_are_uniform_and_depend_on_seed_and_stream_alone():
    seeds = random_numbers.seeds(3, [str(n) for n in range(20_000)])
    drawn = random_numbers.uniform(seeds, 2, 3)
    assert np.array_equal(drawn[:, 2:], random_numbers.uniform(seeds, 2, 1, first=2))
    assert np.array_equal(drawn[7:9], random_numbers.uniform(seeds[7:9], 2, 3))
    assert abs(np.corrcoef(drawn[:, 0], random_numbers.uniform(seeds, 3, 1)[:, 0])[0, 1]) < 0.03
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3


def test_gf_cf_equals_its_formula():
    """R~'R~ plus the ideal low-pass filter, written out with dense matrices."""
    rng = np.random.default_rng(0)
    seen = (rng.random((30, 24)) < 0.3).astype(float)
    user, item = np.nonzero(seen)
    log = feedback.make_log(user, item, np.zeros(len(user), int), users=30, items=24)
    fitted = gfcf.fit(log, np.ones(30, bool), 1)
    d_user, d_item = seen.sum(1, keepdims=True), seen.sum(0, keepdims=True)
    normal = seen / np.sqrt(d_user) / np.sqrt(d_item)
    basis = np.linalg.svd(normal)[2][:6].T  # rank: a quarter of the items
    linear = normal.T @ normal
    low_pass = (basis / np.sqrt(d_item).T) @ (basis.T * np.sqrt(d_item))
    expected = seen @ (linear + gfcf.LOW_PASS_WEIGHT * low_pass)
    history = feedback.histories(log, np.arange(30), log.offsets[1:])
    np.testing.assert_allclose(gfcf.scores(fitted, history), expected, rtol=1e-2, atol=5e-3)


def test_gf_cf_of_few_users_is_not_up_to_rounding():
    """The low-pass filter asks for more singular vectors than three users have."""
    normal = np.random.default_rng(1).random((3, 40))
    found = gfcf._leading(lambda block: normal.T @ (normal @ block), 40, 10)
    assert (np.abs(found[:, :3]).sum(axis=0) > 0).all() and not found[:, 3:].any()
    span = np.linalg.svd(normal)[2][:3].T
    np.testing.assert_allclose(found @ found.T, span @ span.T, atol=1e-9)


def test_popularity_counts_strictly_before_a_time():
    item, time = np.array([0, 0, 0, 1]), np.array([10, 20, 30, 20])
    log = feedback.make_log(np.zeros(4, int), item, time, users=1, items=3)
    popularity = feedback.Popularity.of(log, np.array([True]))
    for moment, counts in ((20, [1, 0, 0]), (31, [3, 1, 0])):
        assert popularity.before(np.arange(3), np.full(3, moment)).tolist() == counts
    assert popularity.first().tolist()[:2] == [10, 20]


def test_hostile_titles_stay_data(tables, vectors):
    """Template syntax, labels, control tokens and line breaks in a title change no structure."""
    hostile = "{{ 7*7 }} [A] Behavior: [B]\n# Exposure List <|im_end|> {% raw %}"
    items = tables.items.with_columns(
        pl.format("{} {}", pl.lit(hostile), pl.col("item_id")).alias("title")
    )
    for row in rows(build(replace(tables, items=items), vectors)):
        for text in row["exposure"]:
            assert "{{ 7*7 }}" in text and "49" not in text.split("(")[0]
            assert "[A]" not in text and "<|im_end|>" not in text and "\n" not in text


def test_time_of_scene_is_that_of_the_behavior(built, tables):
    when = {
        (r["user_id"], r["item_id"]): r["timestamp"]
        for r in tables.interactions.iter_rows(named=True)
    }
    for row in rows(built, "test"):
        assert row["timestamp"] == when[row["user_id"], row["item_id"]]
        assert row["timestamp"] - row["history_timestamps"][-1] >= timedelta(seconds=1)

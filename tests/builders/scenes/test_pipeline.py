"""Raw files to scenes in one call: what is there is reused, counts come from presets."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from click.testing import CliRunner

from usermirrorer.builders import commands, validate
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import tables
from usermirrorer.builders.raw.made_up import PUBLISHED, Size, write
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Tables
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import embed, pipeline, presets
from usermirrorer.builders.scenes.world import SceneConfig

SMALL = SceneConfig(train=60, test=12, history=(1, 4))
MADE = Size(users=120, items=150, interactions=3_000)
START = datetime(2019, 11, 11, tzinfo=UTC)


@pytest.mark.parametrize("name", PUBLISHED)
def test_scenes_of_every_source_keep_every_promise(name, tiny_encoder, tmp_path):
    """Eleven sources, from files in their publishers' layouts to validated scenes."""
    source = get_source(name)
    raw = write(name, tmp_path / "raw", MADE)
    facts = pipeline.raw_to_scenes(source, raw, tmp_path / "out", SMALL, embedder=str(tiny_encoder))
    assert facts["train"]["scenes"] > 40 and facts["test"]["scenes"] > 5
    findings = validate.validate(*validate.load(str(tmp_path / "out")))
    assert [f for f in findings if f.ok is False] == []


def test_a_second_run_reads_and_embeds_nothing_again(
    raw_movielens, tiny_encoder, tmp_path, monkeypatch
):
    source = get_source("movielens")
    first = pipeline.raw_to_scenes(
        source, raw_movielens, tmp_path, SMALL, embedder=str(tiny_encoder)
    )

    def never(*args, **kwargs):
        raise AssertionError("done twice")

    monkeypatch.setattr(embed, "embed", never)
    again = pipeline.raw_to_scenes(
        replace(source, read=_like(source.read, never)),
        raw_movielens,
        tmp_path,
        SMALL,
        embedder=str(tiny_encoder),
    )
    assert (
        again
        == first
        == storage.read_json(tmp_path / "scenes.json") | {"configuration": first["configuration"]}
    )


def _like(read, function):
    """Give a function the module of a reader: its code is what tables depend on."""
    function.__module__ = read.__module__
    return function


def test_scenes_from_tables_are_those_from_raw_files(raw_movielens, tiny_encoder, tmp_path):
    source = get_source("movielens")
    tables.write(source, raw_movielens, tmp_path / "tables")
    built = [
        pipeline.raw_to_scenes(source, raw, tmp_path / name, SMALL, embedder=str(tiny_encoder))
        for name, raw in (("one", raw_movielens), ("two", tmp_path / "tables"))
    ]
    assert built[0] == built[1]
    with pytest.raises(UserError, match="holds tables of movielens, not steam"):
        pipeline.raw_to_scenes(
            get_source("steam"), tmp_path / "tables", tmp_path, SMALL, embedder=""
        )


def test_presets_are_the_papers_counts():
    assert sum(p.pairs for p in presets.PAPER.values()) == 10_000  # Table 6
    assert sum(p.test for p in presets.PAPER.values()) == 6_400
    assert presets.preset("paper", "mobilerec") == (100_000, 16_384, 640, "paper", 0.0)
    assert presets.preset("small", "mind") == (100_000, 2_048, 256, "exchangeable", 0.8)
    assert presets.preset("tiny", "amazon_beauty") == (10_000, 256, 16, "exchangeable", 0.0)
    with pytest.raises(UserError, match="Choose from standard, paper, small, tiny"):
        presets.preset("huge", "mind")


def test_exposures_without_tells_are_the_default_and_the_papers_are_asked_for():
    assert presets.DEFAULT == "standard" and SceneConfig().exposure == "exchangeable"
    config, most = presets.settings("paper", "steam", seed=3, test=None, later_days=7)
    assert (config.exposure, config.seed, config.test, config.later_days) == ("paper", 3, 640, 7)
    assert most == 2_091_415
    assert presets.settings("standard", "steam")[0].time_cut == 0.8


def test_a_limit_keeps_whole_users_and_nearly_fills_up(tables: Tables):
    many, few = pipeline.limited(tables, 1_500), pipeline.limited(tables, 500)
    assert 450 < few.interactions.height <= 500
    assert 1_450 < many.interactions.height <= 1_500
    whole = tables.interactions.filter(
        pl.col("user_id").is_in(few.interactions["user_id"].unique().implode())
    )
    assert few.interactions.equals(whole)
    assert set(few.items["item_id"]) == set(few.interactions["item_id"])
    assert pipeline.limited(tables, 10**9) is tables


@pytest.mark.parametrize("rank", [0, 51])
def test_a_user_with_more_than_fits_is_passed_over_and_told(tables: Tables, rank):
    usual = pipeline.limited(tables, 2_000)
    order = sorted(
        tables.users["user_id"],
        key=lambda user: hashlib.blake2b(user.encode(), digest_size=8).digest(),
    )
    own = tables.interactions.filter(pl.col("user_id") == order[rank])
    again = [
        own.with_columns(pl.col("timestamp") + pl.duration(days=day)) for day in range(2_100)
    ]  # far more than the limit
    heavy = replace(tables, interactions=pl.concat([tables.interactions, *again]))
    dropped: Counter[str] = Counter()
    kept = pipeline.limited(heavy, 2_000, dropped)
    assert order[rank] not in set(kept.users["user_id"])
    assert kept.interactions.height > 0.97 * usual.interactions.height
    assert (
        sum(n for reason, n in dropped.items() if "more interactions than are left" in reason) >= 1
    )


def test_a_limit_below_every_user_is_one_error(tables: Tables):
    with pytest.raises(UserError, match="every user has more than 1 interactions"):
        pipeline.limited(tables, 1)


def test_the_command_takes_counts_from_a_preset(raw_movielens, tiny_encoder, tmp_path):
    words = ["movielens", str(raw_movielens), "--out", str(tmp_path), "--preset", "tiny"]
    words += ["--embedder", str(tiny_encoder), "--history", "1", "4", "--train", "20"]
    ran = CliRunner().invoke(commands.scenes, words, catch_exceptions=False)
    assert "train.parquet: 20 scenes" in ran.output and "test.parquet: 32 scenes" in ran.output


# -- logged lists ---------------------------------------------------------------------------------


def lists(*rows: tuple[int, str, str, str]) -> Tables:
    """Make MIND's tables: (minutes after the start, user, articles shown, articles clicked)."""
    users = sorted({user for _, user, _, _ in rows})
    news = [f"N{n}" for n in range(60)]
    when = pl.Datetime("ms", "UTC")
    logged = pl.DataFrame(
        {
            "impression_id": [f"train-{n:03d}" for n in range(len(rows))],
            "user_id": [user for _, user, _, _ in rows],
            "timestamp": [START + timedelta(minutes=m) for m, *_ in rows],
            "item_ids": [shown.split() for _, _, shown, _ in rows],
            "clicked": [[i in c.split() for i in s.split()] for _, _, s, c in rows],
        },
        schema_overrides={"timestamp": when},
    )
    read = pl.DataFrame(
        {
            "user_id": users,
            "item_id": ["N59"] * len(users),
            "timestamp": [START] * len(users),
            "timestamp_known": [False] * len(users),
        },
        schema_overrides={"timestamp": when},
    )
    clicks = logged.explode("item_ids", "clicked").filter("clicked")
    clicks = clicks.select(
        "user_id", pl.col("item_ids").alias("item_id"), "timestamp", timestamp_known=pl.lit(True)
    )
    items = pl.DataFrame({"item_id": news, "title": news, "text": news}).with_columns(
        category=pl.lit("news"), subcategory=pl.lit("world"), available_from=pl.lit(None, when)
    )
    return Tables(read.select("user_id"), items, pl.concat([read, clicks]), logged)


FIVE = "N0 N1 N2 N3 N4"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((1, "U1", FIVE, ""), "logged list without a click"),
        ((1, "U1", FIVE, "N0 N3"), "logged list with several clicks"),
        ((1, "U1", "N0 N1 N2 N3", "N0"), "logged list of fewer than 5 items"),
        ((0, "U1", FIVE, "N0"), "logged list after fewer than 1 interactions"),
        ((9, "U0", FIVE, "N1"), "logged list with the same click at the same moment"),
    ],
)
def test_a_logged_list_that_makes_no_scene_is_counted(row, reason):
    dropped: Counter[str] = Counter()
    kept = pipeline.answerable(lists((9, "U0", FIVE, "N1"), row), SMALL, dropped)
    assert +dropped == {reason: 1}
    assert kept.impressions["impression_id"].to_list() == ["train-000"]


def test_the_exposure_of_a_logged_list_is_that_list(tiny_encoder, tmp_path):
    """Long lists are drawn from; nothing that was not shown stands beside the click."""
    raw = write("mind", tmp_path / "raw", MADE)
    source = get_source("mind")
    pipeline.raw_to_scenes(source, raw, tmp_path / "out", SMALL, embedder=str(tiny_encoder))
    logged = {
        (r["user_id"], r["timestamp"], i): set(r["item_ids"])
        for r in source.read(raw, Report()).impressions.iter_rows(named=True)
        for i, clicked in zip(r["item_ids"], r["clicked"], strict=True)
        if clicked
    }
    found = validate.load(str(tmp_path / "out"))[0]
    for row in [*found["train"].to_pylist(), *found["test"].to_pylist()]:
        shown = logged[row["user_id"], row["timestamp"], row["item_id"]]
        assert row["real_exposure"] and set(row["exposure_item_ids"]) <= shown
        assert set(row["exposure_origin"]) == {"target", "logged"}
        assert row["history"]
    assert {len(row) for row in found["test"]["exposure"].to_pylist()} == {5}

"""What changes with time never shows anything at or after the scene's time."""

import dataclasses
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.raw.golden import CASES, HERE, at
from usermirrorer.builders.raw import as_of
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source

START = datetime(2020, 1, 1, tzinfo=UTC)
TIMED = [case for case, (name, _) in CASES.items() if get_source(name).item_as_of]
events = st.tuples(st.sampled_from("xyz"), st.integers(0, 9), st.none() | st.integers(1, 5))


def frame(rows, *names):
    days = [(item, START + timedelta(days=day), *rest) for item, day, *rest in rows]
    types = {"item_id": pl.String, "timestamp": pl.Datetime("ms", "UTC"), "rating": pl.Float32}
    return pl.DataFrame(days, schema={name: types[name] for name in names}, orient="row")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(events, max_size=20), st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9)))
)
def test_ratings_are_those_given_strictly_before(rated, asked):
    rows = frame(asked, "item_id", "timestamp")
    got = as_of.ratings(rows, frame(rated, "item_id", "timestamp", "rating"))
    for (item, day), (average, number) in zip(asked, got.iter_rows(), strict=True):
        seen = [rating for i, d, rating in rated if i == item and d < day and rating]
        assert number == (len(seen) or None)
        assert average == (pytest.approx(sum(seen) / len(seen), abs=0.0501) if seen else None)


def test_an_item_is_never_newer_than_its_first_use():
    items = pl.DataFrame(
        {
            "item_id": ["early", "late", "unstated"],
            "available_from": [START, START + timedelta(days=9), None],
        }
    ).with_columns(pl.col("available_from").cast(pl.Datetime("ms", "UTC")))
    used = frame([(i, 3) for i in ("early", "late", "unstated")], "item_id", "timestamp")
    got = as_of.not_after_first(items, used)["available_from"].to_list()
    assert got == [START, START + timedelta(days=3), None]


@pytest.mark.parametrize("case", TIMED)
def test_items_look_the_same_when_the_future_is_removed(case):
    name, raw = CASES[case]
    source = get_source(name)
    tables = source.read(HERE / "raw" / raw, Report())
    pairs = tables.users.join(tables.items.select("item_id"), how="cross")
    pairs = pairs.select("user_id", "item_id")
    told = 0
    for moment in tables.interactions["timestamp"].unique():
        rows = at(pairs, moment)
        past = dataclasses.replace(
            tables,
            interactions=tables.interactions.filter(pl.col("timestamp") < moment),
            extras={
                key: table.filter(pl.col("timestamp") < moment) if "timestamp" in table else table
                for key, table in tables.extras.items()
            },
        )
        now = source.item_as_of(tables, rows)
        assert now.equals(source.item_as_of(past, rows))
        assert now.height == rows.height
        told += now.select(pl.all_horizontal(pl.all().is_not_null()).sum()).item()
    assert told  # something was known at some moment, or nothing was tested


def test_steam_counts_the_games_bought_before_the_scene():
    source = get_source("steam")
    tables = source.read(HERE / "raw" / "steam", Report())
    syren = tables.users["user_id"][0]
    asked = pl.DataFrame({"user_id": [syren] * 3 + ["nobody"]}).with_columns(
        pl.Series("timestamp", [START.replace(year=y) for y in (2021, 2018, 2017, 2021)]).cast(
            pl.Datetime("ms", "UTC")
        )
    )
    assert source.user_as_of(tables, asked)["products"].to_list() == [2, 1, None, None]


def test_kuairec_counts_are_those_of_the_days_before_in_beijing():
    source = get_source("kuairec")
    tables = source.read(HERE / "raw" / "kuairec", Report())
    first_day = datetime(2020, 7, 5, 15, 59, tzinfo=UTC)  # one minute before midnight in Beijing
    for moment, plays in ((first_day, None), (first_day + timedelta(minutes=1), 1000)):
        rows = at(pl.DataFrame({"user_id": ["0"], "item_id": ["3649"]}), moment)
        assert source.item_as_of(tables, rows)["play_count"].to_list() == [plays]


def test_goodreads_ratings_are_known_from_their_update():
    source = get_source("goodreads")
    tables = source.read(HERE / "raw" / "goodreads", Report())
    shelved = datetime(2012, 2, 3, 10, tzinfo=UTC)  # B shelved the book, and rated it in March
    for moment, count in ((shelved, 1), (datetime(2012, 3, 3, tzinfo=UTC), 2)):
        rows = at(pl.DataFrame({"item_id": ["25742454"]}), moment)
        assert source.item_as_of(tables, rows)["ratings_count"].to_list() == [count]

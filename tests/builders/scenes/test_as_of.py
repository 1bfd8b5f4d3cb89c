"""No text shows anything of its scene's own moment or of a later one.

Each source is asked on made-up feedback in its publisher's layout: what happens at a moment or
after it is changed, and nothing that is told as of that moment may change with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from usermirrorer.builders.raw import made_up
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Tables
from usermirrorer.builders.raw.sources import all_sources, get_source
from usermirrorer.builders.scenes import build, pipeline, world

MADE = made_up.Size(users=60, items=80, interactions=900)
CONFIG = world.SceneConfig(train=120, test=20, history=(1, 4))
ITEMS = [name for name, source in all_sources().items() if source.item_as_of]
USERS = [name for name, source in all_sources().items() if source.user_as_of]
VALUES = [name for name, source in all_sources().items() if source.columns.get("interactions")]
TICK = timedelta(milliseconds=1)
#: Column of the interactions from which their values are known, where it is not their time.
KNOWN = {"goodreads": "updated_at"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that gives the tables of a source, read once."""
    read: dict[str, Tables] = {}

    def tables(name: str) -> Tables:
        if name not in read:
            folder = made_up.write(name, tmp_path_factory.mktemp("made") / name, MADE)
            read[name] = get_source(name).read(folder, Report())
        return read[name]

    return tables


def altered(name: str, tables: Tables, moment) -> Tables:
    """Change every value that becomes known at a moment or after it, and no id and no time."""
    known = pl.col(KNOWN.get(name, "timestamp")) >= moment
    frame = tables.interactions
    ids = {"user_id", "item_id", "timestamp", "updated_at", "timestamp_known"}
    other = {
        pl.String: lambda c: pl.lit("changed later"),
        pl.Float32: lambda c: pl.when(pl.col(c) >= 3).then(1.0).otherwise(5.0).cast(pl.Float32),
        pl.Boolean: lambda c: ~pl.col(c),
        pl.List: lambda c: pl.lit(["changed later"]),
    }
    changed = [
        pl.when(known).then(other[frame.schema[c].base_type()](c)).otherwise(pl.col(c)).alias(c)
        for c in frame.columns
        if c not in ids
    ]
    later = pl.col("timestamp") >= moment
    extras = {
        key: table.with_columns(
            pl.when(later).then(c * 7 + 1).otherwise(c) for c in (pl.col(pl.Int64),)
        )
        if "timestamp" in table
        else table
        for key, table in tables.extras.items()
    }
    return replace(tables, interactions=frame.with_columns(changed), extras=extras)


def moments(name: str, tables: Tables, count: int = 25) -> list:
    """Return moments at which something becomes known, spread over the feedback."""
    daily = tables.extras.get("daily")
    times = (
        daily["timestamp"]
        if daily is not None
        else tables.interactions[KNOWN.get(name, "timestamp")]
    )
    unique = times.unique().sort().to_list()
    return [unique[i] for i in np.linspace(0, len(unique) - 1, count).astype(int)]


def at(tables: Tables, moment) -> pl.DataFrame:
    """Ask about every user and item at once."""
    pairs = tables.users.select("user_id").join(tables.items.select("item_id"), how="cross")
    return pairs.with_columns(pl.lit(moment, pl.Datetime("ms", "UTC")).alias("timestamp"))


@pytest.mark.parametrize("name", ITEMS)
def test_items_are_told_as_they_were_before_the_moment(name, made):
    """At a moment its own values are not known; a tick later those of some moments are."""
    source, tables, seen = get_source(name), made(name), 0
    for moment in moments(name, tables):
        other = altered(name, tables, moment)
        now, after = at(tables, moment), at(tables, moment + TICK)
        told = source.item_as_of(tables, now)
        assert told.equals(source.item_as_of(other, now)), moment
        past = tables.interactions.filter(pl.col("timestamp") < moment)
        assert told.equals(source.item_as_of(replace(tables, interactions=past), now)), moment
        seen += not source.item_as_of(tables, after).equals(source.item_as_of(other, after))
    assert seen > 5


@pytest.mark.parametrize("name", USERS)
def test_users_are_told_as_they_were_before_the_moment(name, made):
    """What a user does at a moment or after it is taken away; the profile stays the same."""
    source, tables, seen = get_source(name), made(name), 0
    for moment in moments(name, replace(tables, extras={})):
        past = tables.interactions.filter(pl.col("timestamp") < moment)
        without = replace(tables, interactions=past)
        now, after = at(tables, moment), at(tables, moment + TICK)
        assert source.user_as_of(tables, now).equals(source.user_as_of(without, now)), moment
        told = source.user_as_of(tables, after)
        seen += not told.equals(source.user_as_of(without, after))
    assert seen > 5 or name == "kuairec"  # whose profiles do not come from interactions


def scenes(name: str, tables: Tables) -> dict[str, dict]:
    """Return all scenes of a source by id."""
    kept = pipeline.answerable(tables, CONFIG, Counter())
    drawn = np.random.default_rng(0).standard_normal((kept.items.height, 8))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    built = build.make_scenes(get_source(name), kept, vectors, CONFIG)[0]
    return {row["scene_id"]: row for split in ("train", "test") for row in built[split].to_pylist()}


@pytest.mark.parametrize("name", VALUES)
def test_no_text_of_a_scene_changes_with_what_happens_at_its_time_or_later(name, made):
    tables, texts = made(name), ("profile", "history", "exposure")
    before, changed = scenes(name, tables), 0
    times = sorted(row["timestamp"] for row in before.values())
    for moment in (times[len(times) // 3], times[2 * len(times) // 3]):
        after = scenes(name, altered(name, tables, moment))
        assert before.keys() == after.keys()
        for key, row in before.items():
            same = all(row[text] == after[key][text] for text in texts)
            assert same or row["timestamp"] > moment, (row["timestamp"], moment)
            changed += not same
    assert changed > 5 or name == "mind"  # whose interactions have no values


def test_what_was_said_of_a_book_later_is_not_in_an_earlier_history(made):
    """A rating that becomes known at the scene's own moment is not known; a tick before, it is."""
    tables = made("goodreads")
    row = max(scenes("goodreads", tables).values(), key=lambda row: row["timestamp"])
    theirs = (pl.col("user_id") == row["user_id"]) & (pl.col("timestamp") < row["timestamp"])

    def behaviors(known_at) -> list[str]:
        moment = pl.lit(known_at, pl.Datetime("ms", "UTC"))
        frame = tables.interactions.with_columns(
            pl.when(theirs).then(moment).otherwise("updated_at").alias("updated_at"),
            rating=pl.when(theirs).then(pl.lit(4, pl.Float32)).otherwise("rating"),
        )
        history = scenes("goodreads", replace(tables, interactions=frame))[row["scene_id"]]
        return [line.partition("My Behavior: ")[2] for line in history["history"]]

    assert all(text == "Put on a shelf" for text in behaviors(row["timestamp"]))
    assert all("Rating: 4/5" in text for text in behaviors(row["timestamp"] - TICK))

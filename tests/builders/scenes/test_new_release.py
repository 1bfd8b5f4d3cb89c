"""What is called a new release: an item that came out in the 365 days before the scene."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import build, render, world


@pytest.fixture(scope="module")
def options(tables, vectors):
    """Return (days since its release, text) of every option; films came out six days apart."""
    first = datetime(1996, 1, 1, tzinfo=UTC)
    released = {
        item: first + timedelta(days=6 * n) for n, item in enumerate(tables.items["item_id"])
    }
    stamps = pl.Series(list(released.values())).dt.cast_time_unit("ms")
    items = tables.items.with_columns(stamps.alias("available_from"))
    config = world.SceneConfig(train=300, test=60, history=(1, 4))
    made = build.make_scenes(
        get_source("movielens"), replace(tables, items=items), vectors, config
    )[0]
    return [
        ((row["timestamp"] - released[item]).days, text)
        for row in made["train"].to_pylist()
        for item, text in zip(row["exposure_item_ids"], row["exposure"], strict=True)
    ]


def test_items_of_the_last_365_days_are_new_and_no_others(options):
    assert render.NEW_RELEASE_DAYS == 365
    for days, text in options:
        assert text.startswith("NEW RELEASE ") == (0 <= days < 365), days
    ages = {days for days, _ in options}
    assert any(30 <= days < 365 for days in ages) and any(365 <= days < 400 for days in ages)

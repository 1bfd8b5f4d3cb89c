"""A small log of people with two tastes, and the second environment if it is there."""

from __future__ import annotations

import polars as pl
import pytest

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.source import Tables
from usermirrorer.recipes.interact import environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what trains recommenders where their environment is missing."""
    try:
        environment.python()
    except UserError as error:
        for item in items:
            if item.get_closest_marker("recsys"):
                item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture
def tables() -> Tables:
    """Forty people, thirty films; who has an even number takes even films."""
    rows = [
        (f"u{user:02}", f"f{(2 * step + user % 2 + 2 * user) % 30:02}", 1000 * user + step)
        for user in range(40)
        for step in range(12)
    ]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "when"], orient="row")
    moment = pl.from_epoch("when", "s").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    films = [f"f{number:02}" for number in range(30)]
    return Tables(
        users=interactions.select("user_id").unique().sort("user_id"),
        items=pl.DataFrame({"item_id": films, "title": films, "text": films}),
        interactions=interactions.select("user_id", "item_id", timestamp=moment),
    )

"""Guesses that read one thing of an option, and right answers that are counted as wrong."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import pyarrow as pa

from usermirrorer.builders.audit.lists import Lists
from usermirrorer.builders.common.schema import LABELS

#: The only guesses of `cues` that read the history.
OF_HISTORY = ("nearest to the history", "farthest from the history")


def cues(lists: Lists, marks: list[str], has: np.ndarray) -> dict[str, np.ndarray]:
    """Return the name of each guess and its scores [options]: the largest of a list is guessed.

    Where a guess has nothing to go by, all options tie.

    Args:
        lists: Scenes.
        marks: Names of the fields that texts have or lack.
        has: bool [options, marks].
    """
    numbers = lists.numbers
    age, seen = numbers["exposure_age"], numbers["exposure_popularity"]
    length = lengths(lists.text)
    scores = {
        "most popular": seen,
        "least popular": -seen,
        "never met before": (seen < 1).astype(float),
        "longest text": length,
        "shortest text": -length,
        "newest": -age,
        "oldest": age,
        "of unknown age": np.isnan(age).astype(float),
        "nearest to the other options": numbers["exposure_hub"],
        "farthest from the other options": -numbers["exposure_hub"],
        "most like an option before it": numbers["exposure_before"],
        "least like an option before it": -numbers["exposure_before"],
        "nearest to the history": numbers["history_similarity"],
        "farthest from the history": -numbers["history_similarity"],
    }
    most = int(lists.sizes.max(initial=0))
    scores |= {f"option {LABELS[k]}": (lists.position == k).astype(float) for k in range(most)}
    for number, mark in enumerate(marks):
        scores[f"has {mark!r}"] = has[:, number].astype(float)
        scores[f"lacks {mark!r}"] = -has[:, number].astype(float)
    return scores


def lengths(text: pa.Array) -> np.ndarray:
    """Return the number of characters of each option's text."""
    return pa.compute.utf8_length(text).to_numpy(zero_copy_only=False).astype(float)


def taken_later(tables: Iterable[pa.Table], seconds: int) -> tuple[np.ndarray, np.ndarray]:
    """Say which scenes hold a wrong answer that their user took within some time after the scene.

    Only what the scenes themselves tell of a user is known: targets, and the lines of histories. It
    is a lower bound, and none where users have one scene each.

    Args:
        tables: Scenes of one source, all splits.
        seconds: How long after the scene; at the same moment counts.

    Returns:
        bool [scenes] and the number of each scene's user [scenes].
    """
    scenes = pl.concat(_frame(table) for table in tables).with_row_index("scene")
    events = pl.concat(
        [
            scenes.select("user_id", item="item_id", at="timestamp"),
            scenes.select("user_id", item="history_item_ids", at="history_timestamps")
            .explode("item", "at", empty_as_null=True)
            .drop_nulls(),
        ]
    ).unique()
    options = (
        scenes.select("scene", "user_id", "item_id", "timestamp", item="exposure_item_ids")
        .explode("item")
        .filter(pl.col("item") != pl.col("item_id"))
    )
    after = pl.col("at") - pl.col("timestamp")
    soon = (
        options.join(events, on=["user_id", "item"])
        .filter(after.is_between(pl.duration(), pl.duration(seconds=seconds)))
        .get_column("scene")
    )
    hit = np.zeros(scenes.height, bool)
    hit[soon.unique().to_numpy()] = True
    users = scenes["user_id"].rank("dense").to_numpy().astype(np.int64)
    return hit, users


def _frame(table: pa.Table) -> pl.DataFrame:
    names = ["user_id", "item_id", "timestamp", "history_item_ids", "history_timestamps"]
    frame = pl.DataFrame(table.select([*names, "exposure_item_ids"]))
    # Lists that do not fit each other are `validate`'s to tell.
    return frame.filter(
        pl.col("history_item_ids").list.len() == pl.col("history_timestamps").list.len()
    )

"""Values as they stood at a scene's time, a whole column at once (see `Source.item_as_of`)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import polars as pl


def latest(rows: pl.DataFrame, known: pl.DataFrame, by: str) -> pl.DataFrame:
    """Return, for each row, the last values of `known` strictly before the row's timestamp.

    Args:
        rows: Has `by` and `timestamp`; any order.
        known: Has `by`, `timestamp` (from when the values are known) and the values. Of several
            with the same timestamp, the last one counts.
        by: The column that both share.

    Returns:
        The value columns, in the order of `rows`; null where nothing was known yet.
    """
    wanted = rows.select(by, "timestamp").with_row_index("_row").sort("timestamp")
    values = known.join(rows.select(by).unique(), on=by, how="semi")
    joined = wanted.join_asof(
        values.sort("timestamp", maintain_order=True),
        on="timestamp",
        by=by,
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,  # sorted above; a check by group is not possible
    )
    return joined.sort("_row").drop("_row", by, "timestamp")


def ratings(
    rows: pl.DataFrame, interactions: pl.DataFrame, time: str = "timestamp"
) -> pl.DataFrame:
    """Return how an item was rated before each row's timestamp.

    The interactions are put in order once; further calls with the same frame only look up.

    Args:
        rows: Has `item_id` and `timestamp`.
        interactions: Has `item_id`, `rating` and `time`; rows without rating are left out.
        time: Column with the time from which a rating is known.

    Returns:
        `average_rating` (one decimal) and `rating_number`, in the order of `rows`.
    """
    known = _ordered(_Same(interactions), time)
    asked = rows.select("item_id", "timestamp").join(
        known.numbers, on="item_id", how="left", maintain_order="left"
    )
    number = asked["number"].fill_null(-1).to_numpy()
    moment = asked["timestamp"].dt.epoch("ms").to_numpy()
    first = np.searchsorted(known.keys, number << _TIME_BITS)
    end = np.maximum(np.searchsorted(known.keys, (number << _TIME_BITS) | moment), first)
    count = np.where(number >= 0, end - first, 0)
    total = known.sums[end] - known.sums[first]
    totals = pl.DataFrame({"total": total, "rating_number": count.astype(np.int64)})
    some = pl.col("rating_number") > 0
    return totals.select(
        pl.when(some)
        .then((pl.col("total") / pl.col("rating_number")).round(1))
        .alias("average_rating"),
        pl.when(some).then("rating_number").alias("rating_number"),
    )


_TIME_BITS = 42  # milliseconds up to the year 2109; leaves two million items


@dataclass(frozen=True)
class _Ordered:
    """Ratings by item, then time."""

    numbers: pl.DataFrame  # item_id, number
    keys: np.ndarray  # [ratings] number << _TIME_BITS | milliseconds, ascending
    sums: np.ndarray  # [ratings + 1] sum of the ratings before


class _Same:
    """A frame as a key of a cache: equal to itself alone."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __hash__(self) -> int:
        return id(self.frame)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.frame is other.frame


@functools.lru_cache(maxsize=2)
def _ordered(interactions: _Same, time: str) -> _Ordered:
    rated = interactions.frame.select("item_id", pl.col(time).dt.epoch("ms"), "rating").drop_nulls()
    numbers = (
        rated.select("item_id")
        .unique(maintain_order=True)
        .with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("number"))
    )
    rated = rated.join(numbers, on="item_id")
    keys = (rated["number"].to_numpy() << _TIME_BITS) | rated[time].to_numpy()
    order = np.argsort(keys, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(rated["rating"].to_numpy()[order], dtype=np.float64)])
    return _Ordered(numbers, keys[order], sums)


def not_after_first(items: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """Move `available_from` to an item's first interaction where its stated date is later.

    Publishers state dates of one edition or of a relaunch; an item that was used was there.
    """
    first = interactions.group_by("item_id").agg(pl.col("timestamp").min().alias("_first"))
    stated = pl.col("available_from")
    earlier = pl.when(stated.is_not_null()).then(pl.min_horizontal(stated, "_first"))
    joined = items.join(first, on="item_id", how="left", maintain_order="left")
    return joined.with_columns(earlier.alias("available_from")).drop("_first")

"""Values as they stood at a scene's time, a whole column at once (see `Source.item_as_of`)."""

from __future__ import annotations

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
    found = wanted.join_asof(
        values.sort("timestamp", maintain_order=True),
        on="timestamp",
        by=by,
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,  # sorted above; a check by group is not possible
    )
    return found.sort("_row").drop("_row", by, "timestamp")


def ratings(rows: pl.DataFrame, rated: pl.DataFrame) -> pl.DataFrame:
    """Return how an item was rated before each row's timestamp.

    Args:
        rows: Has `item_id` and `timestamp`.
        rated: Has `item_id`, `timestamp` and `rating`; rows without rating are left out.

    Returns:
        `average_rating` (one decimal) and `rating_number`, in the order of `rows`.
    """
    seen = rated.select("item_id", "timestamp", "rating").drop_nulls()
    seen = seen.join(rows.select("item_id").unique(), on="item_id", how="semi").sort("timestamp")
    number = pl.col("rating").cum_count().over("item_id")
    total = pl.col("rating").cast(pl.Float64).cum_sum().over("item_id")
    running = seen.select(
        "item_id",
        "timestamp",
        (total / number).round(1).alias("average_rating"),
        number.cast(pl.Int64).alias("rating_number"),
    )
    return latest(rows, running, "item_id")


def not_after_first(items: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """Move `available_from` to an item's first interaction where its stated date is later.

    Publishers state dates of one edition or of a relaunch; an item that was used was there.
    """
    first = interactions.group_by("item_id").agg(pl.col("timestamp").min().alias("_first"))
    stated = pl.col("available_from")
    earlier = pl.when(stated.is_not_null()).then(pl.min_horizontal(stated, "_first"))
    joined = items.join(first, on="item_id", how="left", maintain_order="left")
    return joined.with_columns(earlier.alias("available_from")).drop("_first")

"""Counts and means of interactions strictly before a moment, a whole column at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from usermirrorer.builders.raw.source import Tables

_TIME_BITS = 43  # milliseconds, negative ones too; leaves a million times a million numbers
_SHIFT = 1 << 42


@dataclass(frozen=True)
class _Ordered:
    """Values by user or item, then time."""

    numbers: pl.DataFrame  # id, number
    keys: np.ndarray  # number << _TIME_BITS | moment, ascending
    sums: np.ndarray  # sum of the values before


def values(
    rules: Mapping[str, Mapping[str, Any]], by: str, tables: Tables, rows: pl.DataFrame
) -> pl.DataFrame:
    """Return the values that rules name, as of the rows' timestamps; see `Source.item_as_of`.

    Args:
        rules: Name -> `count: rows` or `mean: <column>`, and `digits`.
        by: `item_id` or `user_id`.
        tables: Whose interactions count.
        rows: Has `by` and `timestamp`.
    """
    made = [
        _value(name, rule, by, _Frame(tables.interactions), rows) for name, rule in rules.items()
    ]
    return pl.DataFrame(made)


def _value(
    name: str, rule: Mapping[str, Any], by: str, interactions: _Frame, rows: pl.DataFrame
) -> pl.Series:
    column = rule.get("mean", "")
    known = _ordered(interactions, by, column)
    asked = rows.select(by, "timestamp").join(
        known.numbers, on=by, how="left", maintain_order="left"
    )
    number = asked["number"].fill_null(-1).to_numpy()
    moment = np.clip(asked["timestamp"].dt.epoch("ms").to_numpy() + _SHIFT, 0, 2 * _SHIFT - 1)
    place = np.maximum(number, 0) << _TIME_BITS
    first = np.searchsorted(known.keys, place)
    end = np.maximum(np.searchsorted(known.keys, place | moment), first)
    count = np.where(number >= 0, end - first, 0)
    some = count > 0
    if not column:
        return pl.Series(name, count.astype(np.int64)).set(pl.Series(~some), None)
    total = known.sums[end] - known.sums[first]
    mean = np.round(total / np.maximum(count, 1), rule.get("digits", 1))
    return pl.Series(name, mean, pl.Float64).set(pl.Series(~some), None)


class _Frame:
    """A frame as a key of a cache: equal to itself alone."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __hash__(self) -> int:
        return id(self.frame)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frame) and self.frame is other.frame


@functools.lru_cache(maxsize=16)
def _ordered(interactions: _Frame, by: str, column: str) -> _Ordered:
    value = pl.col(column).cast(pl.Float64) if column else pl.lit(1.0)
    rows = interactions.frame.select(
        by, pl.col("timestamp").dt.epoch("ms").alias("moment"), value.alias("value")
    ).drop_nulls()
    numbers = rows.select(pl.col(by).unique(maintain_order=True)).with_row_index("number")
    numbers = numbers.with_columns(pl.col("number").cast(pl.Int64))
    rows = rows.join(numbers, on=by, maintain_order="left")
    keys = (rows["number"].to_numpy() << _TIME_BITS) | (rows["moment"].to_numpy() + _SHIFT)
    # The sum of one item must not depend on the order of the rows: equal keys go by value.
    order = np.lexsort((rows["value"].to_numpy(), keys))
    sums = np.concatenate([[0.0], np.cumsum(rows["value"].to_numpy()[order])])
    return _Ordered(numbers, keys[order], sums)

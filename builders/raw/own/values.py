"""Text to typed values and times, by what a definition says of its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw.own.text_columns import UNIT

#: Type in a definition -> type of the column, and in the stored table.
TYPES: dict[str, tuple[Any, pa.DataType]] = {
    "text": (pl.String, pa.string()),
    "number": (pl.Float64, pa.float64()),
    "integer": (pl.Int64, pa.int64()),
    "yes-no": (pl.Boolean, pa.bool_()),
}
#: What stands for a missing value where a definition does not say.
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-")
EPOCHS = {"epoch-s": 1_000, "epoch-ms": 1, "epoch-us": 1 / 1_000, "epoch-ns": 1 / 1_000_000}
YES = ("true", "yes", "y", "t", "1", "1.0")
NO = ("false", "no", "n", "f", "0", "0.0")
_ISO = (
    *("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d"),
    "%Y-%m-%dT%H:%M%#z",
)
TEXT_LIMIT = 200


def stated(column: pl.Expr, missing: Sequence[str]) -> pl.Expr:
    """Text without spaces around it, null where it stands for a missing value."""
    text = column.str.strip_chars()
    return pl.when(~text.is_in(list(missing))).then(text)


def identifier(column: pl.Expr, missing: Sequence[str]) -> pl.Expr:
    """An id as `whole` makes it, null where it is missing."""
    return whole(stated(column, missing))


def whole(ids: pl.Expr) -> pl.Expr:
    """Ids of text: `00123` stays, `123.0` (a number that passed through a float) is `123`."""
    return ids.str.replace(r"^(\d+)\.0+$", "${1}")


def typed(column: pl.Expr, about: Mapping[str, Any], missing: Sequence[str]) -> pl.Expr:
    """Text as the type that a definition states, null where it is missing or no such value."""
    text, kind = stated(column, missing), about.get("type", "text")
    if kind == "text":
        listed = text.fill_null("").str.replace_all(UNIT, ", ", literal=True)
        return clean_column(listed, about.get("limit", TEXT_LIMIT))
    if kind == "yes-no":
        small = text.str.to_lowercase()
        return pl.when(small.is_in(YES)).then(True).when(small.is_in(NO)).then(False)
    if about.get("decimal") == ",":
        text = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    number = text.cast(pl.Float64, strict=False)
    number = pl.when(number.is_finite()).then(number)
    return number if kind == "number" else number.cast(pl.Int64, strict=False)


def moment(text: pl.Expr, how: str, zone: str) -> pl.Expr:
    """Text to the canonical time, null if it is not of the format.

    Args:
        text: The column, null where missing.
        how: `epoch-s` and so on, `iso`, or a strptime pattern.
        zone: Time zone of times that state none.
    """
    if how in EPOCHS:
        return _epoch(text, how)
    if how == "iso":
        plain = text.str.replace(r"^(\d{4}-\d\d-\d\d)[ T]+", "${1}T")
        plain = plain.str.replace(r"(:\d\d),(\d+)", "${1}.${2}")
        plain = plain.str.replace(r"(:\d\d(?:\.\d+)?)\s*(?:[Zz]|UTC|GMT)$", "${1}+00:00")
        plain = plain.str.replace(r"(:\d\d(?:\.\d+)?)\s*([+-]\d\d)$", "${1}${2}:00")
        plain = plain.str.replace(r"(:\d\d(?:\.\d+)?)\s+([+-]\d\d)", "${1}${2}")
        return pl.coalesce(_parsed(plain, pattern, zone) for pattern in _ISO)
    return _parsed(text, how, zone)


def _epoch(text: pl.Expr, how: str) -> pl.Expr:
    whole = text.cast(pl.Int64, strict=False)  # exact: a float loses nanoseconds
    number = text.cast(pl.Float64, strict=False)
    if how == "epoch-s":
        exact: pl.Expr = pl.when(whole.abs() < 10**11).then(whole * 1000)
        rounded = pl.when(number.abs() < 1e11).then((number * 1000).round())
    else:
        per = round(1 / EPOCHS[how])
        exact = whole // per
        rounded = pl.when(number.abs() < 1e19).then((number / per).floor())
    stamp = exact.fill_null(rounded.cast(pl.Int64, strict=False))
    within = pl.when(stamp.is_between(-(2**42), 2**42)).then(stamp)
    return within.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def _parsed(text: pl.Expr, pattern: str, zone: str) -> pl.Expr:
    if "%z" in pattern or "%#z" in pattern:
        time = text.str.to_datetime(pattern, time_unit="ms", time_zone="UTC", strict=False)
        return time.dt.convert_time_zone("UTC")
    if "%H" in pattern or "%I" in pattern or "%T" in pattern or "%R" in pattern:
        time = text.str.to_datetime(pattern, time_unit="ms", strict=False)
    elif "%d" not in pattern and "%j" not in pattern:  # a year, or a month of one
        month = "" if "%m" in pattern else "-01"
        full, whole = pattern + ("-%d" if month == "" else "-%m-%d"), month + "-01"
        time = (text + whole).str.to_date(full, strict=False).cast(pl.Datetime("ms"))
    else:
        time = text.str.to_date(pattern, strict=False).cast(pl.Datetime("ms"))
    zone = "UTC" if re.search("UTC|GMT|Z$", pattern) else zone
    local = time.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")

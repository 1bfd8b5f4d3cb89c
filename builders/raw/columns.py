"""Conversions and checks of raw columns: what makes a row usable, and the times that it states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw.files import Raw
from usermirrorer.builders.raw.report import Report

#: reason -> expression that is true for good rows.
Checks = Mapping[str, pl.Expr]
#: Column with the line of each row, where a reader selects it for the checks of a whole table.
LINE = "_line"


def checked(
    frames: Iterator[pl.DataFrame],
    raw: Raw,
    report: Report,
    select: Sequence[pl.Expr | str],
    checks: Checks,
) -> pl.DataFrame:
    """Keep the selected columns of the rows that pass all checks."""
    kept, why = [], ""
    for frame in frames:
        chosen = frame.select("line", *select)
        if chosen.select(
            pl.all_horizontal(pl.lit(True), *checks.values()).fill_null(False).all()
        ).item():
            kept.append(chosen.drop("line"))
            continue
        for reason, good in checks.items():
            bad = chosen.filter(~good.fill_null(False))
            if len(bad):
                line = first_line(bad["line"])
                why = why or f", the first because: {reason} (line {line})"
                report.skip(reason, len(bad), where=raw, line=line)
                chosen = chosen.filter(good.fill_null(False))
        kept.append(chosen.drop("line"))
    if not any(len(frame) for frame in kept):
        raise UserError(f"none of its rows can be used{why or _reason(raw, report)}", where=raw)
    return pl.concat(kept)


def _reason(raw: Raw, report: Report) -> str:
    """Why the first row of a file was left out, while it was parsed."""
    name = f"{Path(str(raw)).name}: "
    reasons = [(line, key) for key, line in report.first_line.items() if key.startswith(name)]
    line, key = min(reasons, default=(0, ""))
    return f", the first because: {key.removeprefix(name)} (line {line})" if key else ""


def first_line(lines: pl.Series) -> int:
    """Return the line of the first row, 0 if there is none."""
    return int(lines[0]) if len(lines) else 0


def line_of(rows: pl.DataFrame) -> int:
    """Return the line of the first row, 0 where the reader kept none."""
    return first_line(rows[LINE].drop_nulls()) if LINE in rows.columns else 0


def unique(
    frame: pl.DataFrame, key: str, report: Report, where: object, reason: str = ""
) -> pl.DataFrame:
    """Keep the first row of each `key`, counting the others."""
    first = frame[key].is_first_distinct()
    again = frame.filter(~first)
    reason = reason or f"duplicate {key}"
    report.skip(reason, len(again), where=where, line=line_of(again))
    return frame.filter(first)


def known(
    interactions: pl.DataFrame,
    other: pl.DataFrame,
    key: str,
    report: Report,
    where: object,
    reason: str = "",
) -> pl.DataFrame:
    """Keep the interactions whose `key` is in `other`, counting the rest.

    Raises:
        UserError: if none is left; it says how many there were, and names the first.
    """
    names = other.select(key)
    kept = interactions.join(names, on=key, how="semi", maintain_order="left")
    what = key.removesuffix("_id")
    if len(interactions) and not len(kept):
        raise UserError(
            f"every interaction ({len(interactions):,}) is of an unknown {what}, "
            + _first_one(interactions, key)
            + (f": {reason}" if reason else ""),
            where=where,
        )
    if len(kept) < len(interactions):
        gone = interactions.join(names, on=key, how="anti", maintain_order="left")
        reason = reason or f"interaction of an unknown {what}"
        report.skip(reason, len(gone), where=where, line=line_of(gone))
    return kept


def _first_one(rows: pl.DataFrame, key: str) -> str:
    line = line_of(rows)
    return f"the first {rows[key][0]!r}" + (f" (line {line})" if line else "")


def behaviors(
    interactions: pl.DataFrame, chosen: pl.Expr, reason: str, report: Report, where: object
) -> pl.DataFrame:
    """Keep the interactions that count as chosen, by a rule that the source states.

    The others are sound rows, so that they are counted but no fault: `strict` lets them pass.

    Raises:
        UserError: if none is left.
    """
    kept = interactions.filter(chosen)
    if len(interactions) and not len(kept):
        line = line_of(interactions)
        first = f", the first on line {line}" if line else ""
        raise UserError(f"every row ({len(interactions):,}) is {reason}{first}", where=where)
    report.leave_out(reason, len(interactions) - len(kept), where=where)
    return kept


def once(interactions: pl.DataFrame, report: Report, where: object) -> pl.DataFrame:
    """Drop exact repetitions: the same user, item and time."""
    kept = interactions.unique(
        ["user_id", "item_id", "timestamp"], keep="first", maintain_order=True
    )
    line = 0
    if len(kept) < len(interactions) and LINE in kept.columns:
        line = line_of(interactions.join(kept.select(LINE), on=LINE, how="anti"))
    report.skip("the same interaction again", len(interactions) - len(kept), where=where, line=line)
    return kept


def users_of(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return the users of interactions, in order of appearance, for sources without profiles."""
    return interactions.select("user_id").unique(maintain_order=True)


def utc(seconds: pl.Expr) -> pl.Expr:
    """Unix seconds (any number) to the canonical time; numbers outside of 1900 to 2200 are null."""
    whole = seconds.cast(pl.Float64, strict=False)
    safe = pl.when(whole.is_between(-2.2e9, 7.3e9)).then(whole)
    return (safe * 1000).round().cast(pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def parsed_time(text: pl.Expr, pattern: str) -> pl.Expr:
    """Text to the canonical time by a strptime `pattern` (UTC unless it says), null if it fails."""
    time = text.str.to_datetime(pattern, time_unit="ms", strict=False)
    if "%z" in pattern:
        return time.dt.convert_time_zone("UTC")
    return time.dt.replace_time_zone("UTC")


def parsed_day(text: pl.Expr, pattern: str, zone: str = "UTC") -> pl.Expr:
    """Text to the canonical time of the day's start in `zone`, null if it is not of `pattern`."""
    day = text.str.to_date(pattern, strict=False).cast(pl.Datetime("ms"))
    return day.dt.replace_time_zone(zone).dt.convert_time_zone("UTC")


def without_markup(text: pl.Expr) -> pl.Expr:
    """Text without HTML tags; of an image, and of a tag cut short, what its `alt` says."""
    alt = text.str.extract(r"""(?i)<img\b[^>]*\balt\s*=\s*["']([^"'<>]*)["']""")
    plain = text.str.replace_all(r"<[^<>]*>?", " ").str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when((plain == "") & alt.is_not_null()).then(alt.str.strip_chars()).otherwise(plain)


def joined(values: pl.Expr, separator: str, limit: int) -> pl.Expr:
    """Join a list of names to one text of at most `limit` characters, whole names alone.

    The names are cleaned. Where the first alone is too long, it is cut at a word.
    """
    names = values.list.eval(clean_column(pl.element(), limit))
    names = names.list.eval(pl.element().filter(pl.element() != ""))
    ends = names.list.eval((pl.element().str.len_chars() + len(separator)).cum_sum())
    whole = ends.list.eval(pl.element() <= limit + len(separator)).list.sum()
    return names.list.head(whole).list.join(separator).fill_null("")


def between_years(first: int, last: int, column: str = "timestamp") -> dict[str, pl.Expr]:
    """Check that a time lies from the start of `first` to the end of `last`."""
    time = pl.col(column)
    return {f"{column} outside of {first} to {last}": time.dt.year().is_between(first, last)}


def filled(*names: str) -> dict[str, pl.Expr]:
    """Check that columns of text are not empty."""
    return {f"empty {name}": pl.col(name).fill_null("") != "" for name in names}

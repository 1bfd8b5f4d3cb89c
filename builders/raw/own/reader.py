"""The files of a definition to canonical tables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, files
from usermirrorer.builders.raw.own import shown, text_columns, values
from usermirrorer.builders.raw.own.check import nearest
from usermirrorer.builders.raw.own.expressions import condition
from usermirrorer.builders.raw.own.yaml_text import Document
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Tables

_YEARS = (1900, 2100)


def read(document: Document, folder: Path, report: Report) -> Tables:
    """Read the files that a definition names.

    Args:
        document: A checked definition.
        folder: Where its relative paths start.
        report: Counts the rows left out.

    Raises:
        UserError: if a file or column is missing, or none of its rows can be used; it names the
            line of the definition.
    """
    items = _items(document, folder, report)
    users = _users(document, folder, report)
    interactions, where = _interactions(document, folder, report)
    impressions = None
    if "impressions" in document.value:
        impressions = _impressions(document, folder, report, items)
        interactions = _with_clicks(interactions, impressions)
    unknown = f"column {document.value['interactions']['item']!r} names no item of "
    unknown += document.value["files"]["items"]["path"]
    reason = _told(document, unknown, "interactions", "item")
    interactions = columns.known(interactions, items, "item_id", report, where, reason)
    interactions = (
        columns.once(interactions, report, where)
        .drop(columns.LINE)
        .sort("timestamp", "user_id", "item_id", maintain_order=True)
    )
    if "available" in document.value["items"]:
        items = as_of.not_after_first(items, interactions)
    if impressions is not None:
        items = _shown_first(items, impressions)
    everyone = [columns.users_of(interactions)]
    if impressions is not None:
        everyone.append(impressions.select("user_id").unique(maintain_order=True))
    alone = pl.concat(everyone).unique(maintain_order=True)
    alone = alone.join(users, on="user_id", how="anti", maintain_order="left")
    users = pl.concat([users, alone], how="diagonal").sort("user_id")
    return Tables(_no_null_texts(users), items.sort("item_id"), interactions, impressions)


def located(document: Document, folder: Path) -> dict[str, Path]:
    """Return the path on disk of every file that a definition names, by the name it gives."""
    paths = {}
    for kind in document.value["files"]:
        name = document.value["files"][kind]["path"]
        paths[name] = _raw(document, kind, folder).path
    return paths


def _raw(document: Document, kind: str, folder: Path) -> files.Raw:
    name = document.value["files"][kind]["path"]
    path = Path(folder) / Path(name).expanduser()
    if not Path(str(path).partition("!")[0]).exists() and "!" not in name:
        beside = Path(folder) / Path(name).name
        path = beside if beside.exists() else path
    with _at(document, "files", kind, "path"):
        return text_columns.locate(path)


@contextlib.contextmanager
def _at(document: Document, *keys: str) -> Iterator[None]:
    """Add the line of the definition to an error of a file that does not name one yet."""
    try:
        yield
    except UserError as error:
        if f"{document.file.name}:" in str(error):
            raise
        fix = f"{error.fix} See {document.at(*keys)}.".strip()
        raise UserError(error.what, where=error.where, fix=fix) from error


def _told(document: Document, reason: str, *keys: str) -> str:
    """Return a reason with the line of the definition behind it."""
    return f"{reason} ({Path(document.at(*keys)).name})"


class _Table:
    """How one file is read: what is selected of it, and what makes a row usable."""

    def __init__(self, document: Document, kind: str, folder: Path) -> None:
        self.document, self.kind = document, kind
        self.about = document.value["files"][kind]
        self.raw = _raw(document, kind, folder)
        self.missing = document.value.get("missing", list(values.MISSING))
        with _at(document, "files", kind):
            self.there = text_columns.names(self.raw, self.about)
        self.needed: list[str] = []
        self.select: list[pl.Expr] = [pl.col("line").alias(columns.LINE)]
        self.checks: dict[str, pl.Expr] = {}
        self.types: dict[str, Any] = {}

    def column(self, name: str, *keys: str) -> pl.Expr:
        """Return a column of the file, which must be there."""
        if name not in self.there:
            raise UserError(
                f"column {name!r} is missing in {self.raw}",
                where=self.document.at(self.kind, *keys),
                fix=nearest(name, self.there),
            )
        if name not in self.needed:
            self.needed.append(name)
        return pl.col(name)

    def check(self, reason: str, good: pl.Expr, *keys: str) -> None:
        """Leave out rows that are not good, with a reason that names the definition's line."""
        self.checks[_told(self.document, reason, self.kind, *keys)] = good

    def id(self, key: str, called: str) -> None:
        """Select an id, which must be filled."""
        name = self.document.value[self.kind][key]
        column = self.column(name, key)
        self.select.append(values.identifier(column, self.missing).alias(called))
        self.check(f"column {name!r} is empty", pl.col(called).is_not_null(), key)

    def time(self, rule: Mapping[str, Any], called: str, *keys: str, needed: bool = True) -> None:
        """Select a time."""
        name, how = rule["column"], rule.get("format", "iso")
        zone = rule.get("timezone", self.document.value.get("timezone", "UTC"))
        text = values.stated(self.column(name, *keys, "column"), self.missing)
        self.select.append(values.moment(text, how, zone).alias(called))
        good = pl.col(called).dt.year().is_between(*_YEARS)
        if not needed:
            self.select.append(text.is_null().alias("_untimed"))
            good = pl.col("_untimed") | good.fill_null(False)
        self.check(f"column {name!r} is no time of the format {how}", good, *keys)

    def columns(self) -> None:
        """Select the columns that templates, conditions and running values read."""
        own = self.document.value[self.kind].get("columns", {})
        for called, rule in own.items():
            about = {"column": rule} if isinstance(rule, str) else rule
            name = about.get("column", called)
            raw = self.column(name, "columns", called)
            value = values.typed(raw, about, self.missing)
            self.types[called] = values.TYPES[about.get("type", "text")][0]
            self.select.append(value.cast(self.types[called]).alias(called))
            if about.get("type", "text") != "text":
                given = f"_given_{called}"
                self.select.append(values.stated(raw, self.missing).is_not_null().alias(given))
                good = ~pl.col(given) | pl.col(called).is_not_null()
                self.check(f"column {name!r} is no {about['type']}", good, "columns", called)

    def rule(self, key: str) -> pl.Expr | None:
        """Return the condition under a key."""
        text = self.document.value[self.kind].get(key)
        where = self.document.at(self.kind, key)
        return condition(text, self.types, where) if text else None

    def read(self, report: Report) -> pl.DataFrame:
        """Read the file."""
        with _at(self.document, self.kind):
            frame = text_columns.read(
                *(self.raw, self.about, report, self.needed, self.select, self.checks)
            )
        helpers = [n for n in frame.columns if n.startswith(("_given_", "_untimed"))]
        frame = frame.drop(helpers)
        if (wanted := self.rule("filter")) is not None:
            frame = self.chosen(frame, wanted, "filter", report)
        return frame

    def chosen(
        self, frame: pl.DataFrame, wanted: pl.Expr, key: str, report: Report
    ) -> pl.DataFrame:
        """Keep the rows that the condition under a key wants."""
        reason = _told(self.document, f"not {self.document.value[self.kind][key]}", self.kind, key)
        return columns.behaviors(frame, wanted, reason, report, self.raw)

    def unique(self, frame: pl.DataFrame, called: str, report: Report) -> pl.DataFrame:
        """Keep the first row of each id."""
        name = self.document.value[self.kind]["id"]
        again = f"column {name!r} has an id again"
        reason = _told(self.document, again, self.kind, "id")
        return columns.unique(frame, called, report, self.raw, reason).drop(columns.LINE)


def _interactions(
    document: Document, folder: Path, report: Report
) -> tuple[pl.DataFrame, files.Raw]:
    table = _Table(document, "interactions", folder)
    table.id("user", "user_id")
    table.id("item", "item_id")
    table.time(document.value["interactions"]["time"], "timestamp", "time")
    table.columns()
    chosen = table.rule("behavior")
    frame = table.read(report)
    if chosen is not None:
        frame = table.chosen(frame, chosen, "behavior", report)
    return _no_null_texts(frame), table.raw


def _items(document: Document, folder: Path, report: Report) -> pl.DataFrame:
    about = document.value["items"]
    table = _Table(document, "items", folder)
    table.id("id", "item_id")
    title = values.stated(table.column(about["title"], "title"), table.missing)
    table.select.append(clean_column(title.fill_null(""), 160).alias("title"))
    table.check(f"column {about['title']!r} is empty", pl.col("title") != "", "title")
    table.columns()
    dated = isinstance(about.get("available"), dict)
    if dated:
        table.time(about["available"], "available_from", "available", needed=False)
    frame = table.unique(table.read(report), "item_id", report)
    if not dated:
        never = pl.lit(None, pl.Datetime("ms", "UTC"))
        frame = frame.with_columns(never.alias("available_from"))
    texts = list(dict.fromkeys(["title", *about.get("text", ())]))
    shown = [pl.col(name).cast(pl.String) for name in texts]
    shown = [pl.when(part != "").then(part) for part in shown]
    text = pl.concat_str(shown, separator=" - ", ignore_nulls=True)
    return _no_null_texts(frame.with_columns(clean_column(text, 500).alias("text")))


def _users(document: Document, folder: Path, report: Report) -> pl.DataFrame:
    if "users" not in document.value:
        return pl.DataFrame(schema={"user_id": pl.String})
    table = _Table(document, "users", folder)
    table.id("id", "user_id")
    table.columns()
    return table.unique(table.read(report), "user_id", report)


def _no_null_texts(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.String).fill_null(""))


def _impressions(
    document: Document, folder: Path, report: Report, items: pl.DataFrame
) -> pl.DataFrame:
    about = document.value["impressions"]
    table = _Table(document, "impressions", folder)
    table.id("user", "user_id")
    table.time(about["time"], "timestamp", "time")
    for key in ("shown", "clicked"):
        text = values.stated(table.column(about[key], key), table.missing)
        table.select.append(text.fill_null("").alias(f"_{key}"))
    if "id" in about:
        table.id("id", "impression_id")
    rows = table.read(report)
    if "id" not in about:
        listed = about.get("layout", "list") == "list"
        name = pl.int_range(pl.len()).cast(pl.String) if listed else _list_key()
        rows = rows.with_columns(name.alias("impression_id"))
    tell = functools.partial(_of_shown, document)
    made = _of_known(shown.lists(rows, about, tell), document, items)
    kept = made.filter(pl.col(shown.FAULT).is_null())
    for (why,), bad in made.drop_nulls(shown.FAULT).group_by(shown.FAULT, maintain_order=True):
        line = columns.line_of(bad)
        if not len(kept):
            reason = f"none of its lists can be used, the first because: {why} (line {line})"
            raise UserError(reason, where=table.raw)
        report.skip(str(why), len(bad), where=table.raw, line=line)
    if "id" in about:
        kept = table.unique(kept, "impression_id", report)
    order = ["impression_id", "user_id", "timestamp", "item_ids", "clicked"]
    return kept.select(order).sort("timestamp", "impression_id")


def _of_shown(document: Document, reason: str, key: str) -> str:
    return _told(document, reason, "impressions", key)


def _of_known(lists: pl.DataFrame, document: Document, items: pl.DataFrame) -> pl.DataFrame:
    """Mark lists that show an unknown item."""
    name = document.value["impressions"]["shown"]
    fault = f"column {name!r} names no item of {document.value['files']['items']['path']}"
    fault = _of_shown(document, fault, "shown")
    known = items["item_id"].implode()
    good = pl.col("item_ids").list.eval(pl.element().is_in(known)).list.all()
    marked = pl.when(~good).then(pl.lit(fault))
    return lists.with_columns(pl.coalesce(shown.FAULT, marked).alias(shown.FAULT))


def _list_key() -> pl.Expr:
    return pl.format("{}-{}", "user_id", pl.col("timestamp").dt.epoch("ms"))


def _with_clicks(interactions: pl.DataFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Add the clicks of shown lists that the log does not hold."""
    clicks = (
        impressions.select("user_id", pl.col("item_ids").alias("item_id"), "timestamp", "clicked")
        .explode("item_id", "clicked")
        .filter("clicked")
        .drop("clicked")
        .unique(maintain_order=True)
    )
    keys = ["user_id", "item_id", "timestamp"]
    new = clicks.join(interactions, on=keys, how="anti", maintain_order="left")
    return _no_null_texts(pl.concat([interactions, new], how="diagonal"))


def _shown_first(items: pl.DataFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Move `available_from` to when an item was first shown, where its date is later."""
    shown = impressions.select("timestamp", pl.col("item_ids").alias("item_id")).explode("item_id")
    return as_of.not_after_first(items, shown)

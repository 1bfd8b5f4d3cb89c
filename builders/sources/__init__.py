"""One file a domain: raw files as their publisher distributes them -> canonical tables.

A domain module defines `SOURCES`, a tuple of `Source`; its templates lie in
`templates/<domain>/{profile,history,exposure}.jinja`. Modules are found by looking into this
folder, so that a new domain is one new file plus its templates and touches nothing else.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.errors import UserError


@dataclass
class Report:
    """Counts bad rows by reason, so that none is dropped in silence.

    With `strict`, the first bad row is an error instead. `skipped` counts rows by `file: reason`,
    `first_line` holds the line of the first of them where it is known.
    """

    strict: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str, rows: int = 1, *, where: object = "", line: int = 0) -> None:
        """Count `rows` skipped rows of the file `where`, the first of them on `line` (0: unknown).

        Raises:
            UserError: with `strict`, if there is any such row.
        """
        if rows <= 0:
            return
        if self.strict:
            raise UserError(
                f"{rows} bad row(s): {reason}",
                where=f"{where}:{line}" if line else where,
                fix="Mend the file, or run without --strict to leave such rows out.",
            )
        key = f"{Path(str(where)).name}: {reason}" if where else reason
        self.skipped[key] += rows
        if line:
            self.first_line.setdefault(key, line)

    def lines(self) -> list[str]:
        """Return one readable line per reason, the most frequent first."""
        first = self.first_line
        return [
            f"{key}: {rows:,} row(s) left out"
            + (f", first on line {first[key]:,}" if key in first else "")
            for key, rows in self.skipped.most_common()
        ]


@dataclass(frozen=True)
class Tables:
    """Canonical tables of one source, as polars frames that satisfy `schema.py`.

    `users` and `items` may carry further columns for the templates, `interactions` further columns
    that describe the behavior (rating, review, ...). `impressions` is None without logged lists.
    `extras` holds further tables by name that only the `as_of` functions of the source read, such
    as friendships; all their columns are of types that Parquet can store.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    impressions: pl.DataFrame | None = None
    extras: Mapping[str, pl.DataFrame] = field(default_factory=dict)


#: Arrow type and meaning of a column.
Column = tuple[pa.DataType, str]
#: (tables, rows) -> further template columns for these rows; see `Source`.
AsOf = Callable[[Tables, pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Source:
    """One source of feedback: what it is, whose it is, and how to read it.

    Args:
        name: Source name, e.g. `amazon_beauty`.
        domain: Domain name, e.g. `amazon`; also the template folder.
        title: Name in prose.
        homepage: Official page from which a person downloads it.
        licence: Licence or terms, in words.
        redistributable: Whether derived texts may go to a public repository.
        citation: BibTeX.
        files: Expected file name -> what it holds; alternatives have `|` between them.
        read: Reads a folder (or file) of raw data.
        downloads: File name -> official address, where automatic download is allowed.
        sizes: File name -> rough size as its publisher states it, e.g. `6 MB`.
        hashes: File name -> `md5:<hex>` or `sha256:<hex>`, where the publisher states one or
            several independent projects record the same of the same address. Of the other files
            the first download is trusted and its hash recorded.
        limits: What its raw files state as of their making alone, so that a scene shows it as it
            was later. Everything else is as of the scene's time.
        columns: Table name -> columns beyond those of `schema.TABLES` (of `extras`: all), each with
            its type and meaning. What is stored has exactly these.

    What changes with time is computed for the scene's own time:

        user_as_of: Called with rows of `user_id` and `timestamp` (the scene's), returns columns for
            `profile.jinja`. Reads the user's own earlier interactions from `tables`.
        item_as_of: Called with rows of `user_id`, `item_id` and `timestamp` (the scene's), returns
            columns for `exposure.jinja` and `history.jinja`. Reads the interactions of everyone in
            `tables.interactions`: pass only those of users whom the scenes may see (train users).
        known_from: Behavior column -> interactions column with the time from which it is known (a
            rating given long after the book was shelved). In the history of an earlier scene the
            column must be passed as null.

    Both functions return one row for each given row, in the same order, without the given columns;
    they read nothing at or after a row's timestamp, and they work on a whole column at once: call
    them once for many rows. A column is null where nothing was known yet.
    """

    name: str
    domain: str
    title: str
    homepage: str
    licence: str
    redistributable: bool
    citation: str
    files: Mapping[str, str]
    read: Callable[[Path, Report], Tables]
    downloads: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    limits: str = ""
    columns: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)
    user_as_of: AsOf | None = None
    item_as_of: AsOf | None = None
    known_from: Mapping[str, str] = field(default_factory=dict)


@functools.cache
def all_sources() -> dict[str, Source]:
    """Return every source by name, in alphabetical order of domain, then source."""
    found: dict[str, Source] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for source in getattr(importlib.import_module(f"{__name__}.{module}"), "SOURCES", ()):
            found[source.name] = source
    return found


def get_source(name: str) -> Source:
    """Return a source by name.

    Raises:
        UserError: if there is none, listing those there are.
    """
    sources = all_sources()
    if name not in sources:
        raise UserError(f"no source is called {name!r}", fix=f"Choose from {', '.join(sources)}.")
    return sources[name]


def domains() -> dict[str, tuple[str, ...]]:
    """Return domain -> names of its sources."""
    grouped: dict[str, tuple[str, ...]] = {}
    for source in all_sources().values():
        grouped[source.domain] = (*grouped.get(source.domain, ()), source.name)
    return grouped

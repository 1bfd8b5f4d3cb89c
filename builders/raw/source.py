"""What a source of feedback is: its tables, its terms, and how its raw files are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.raw.report import Report


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
        alternatives: Downloads that stand for others: fetched where they are named alone.
        sizes: File name -> rough size as its publisher states it, e.g. `6 MB`.
        hashes: File name -> `md5:<hex>` or `sha256:<hex>`, where the publisher states one or
            several independent projects record the same of the same address. Of the other files
            the first download is trusted and its hash recorded.
        limits: What a user of the scenes has to know: which values its raw files state only as of
            their making, so that a scene shows them as they were later (everything else is as of
            the scene's time), and by which rule an interaction counts as chosen, if not all do.
        logged: Whether its publisher logged what was on the screen (`Tables.impressions`).
        columns: Table name -> columns beyond those of `schema.TABLES` (of `extras`: all), each with
            its type and meaning. What is stored has exactly these.
        templates: `profile`, `history` and `exposure` -> Jinja text of the user's own, rendered in
            the sandbox of `own/templates.py`; None: those of the domain's folder.
        definition: Text of the YAML file that defines the source (see `own/`), stored with its
            tables; empty for sources written in Python.
        features: Name -> columns that the templates show as one feature of an item, for ablations
            (`scenes/variants.py`); every other value that they read is a feature of its own.
        located: Called with the folder of the raw files, returns the path of each by its name;
            None: files are looked for by the names of `files`.

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
    alternatives: tuple[str, ...] = ()
    sizes: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    limits: str = ""
    columns: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)
    user_as_of: AsOf | None = None
    item_as_of: AsOf | None = None
    known_from: Mapping[str, str] = field(default_factory=dict)
    logged: bool = False
    templates: Mapping[str, str] | None = None
    definition: str = ""
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    located: Callable[[Path], Mapping[str, Path]] | None = None

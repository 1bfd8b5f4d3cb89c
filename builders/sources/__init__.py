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
from usermirrorer.builders.errors import UserError


@dataclass
class Report:
    """Counts bad rows by reason, so that none is dropped in silence.

    With `strict`, the first bad row is an error instead.
    """

    strict: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, rows: int = 1, *, where: object = "") -> None:
        """Count `rows` skipped rows; `where` is the file, or `file:line` where known."""
        if rows <= 0:
            return
        if self.strict:
            raise UserError(
                f"{rows} bad row(s): {reason}", where=where, fix="Run without --strict."
            )
        self.skipped[f"{Path(str(where)).name}: {reason}" if where else reason] += rows


@dataclass(frozen=True)
class Tables:
    """Canonical tables of one source, as polars frames that satisfy `schema.py`.

    `users` and `items` may carry further columns for the templates, `interactions` further columns
    that describe the behavior (rating, review, ...). `impressions` is None without logged lists.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    impressions: pl.DataFrame | None = None


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


def find_file(folder: Path, *names: str) -> Path:
    """Return the first of `names` that lies in `folder` or below it.

    Raises:
        UserError: if the folder or all of the names are missing.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError("does not exist", where=folder, fix="Give the folder of the raw files.")
    for name in names:
        if (folder / name).is_file():
            return folder / name
        if below := sorted(folder.rglob(name)):
            return below[0]
    raise UserError(f"none of {', '.join(names)} is there", where=folder)

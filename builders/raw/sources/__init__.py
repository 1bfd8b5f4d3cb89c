"""One file per domain: raw files as their publisher distributes them -> canonical tables.

A domain module defines `SOURCES`, a tuple of `Source`; its templates lie in
`templates/<domain>/{profile,history,exposure}.jinja`. Modules are found by looking into this
folder, so that a new domain is one new file plus its templates and touches nothing else.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.source import Source


@functools.cache
def all_sources() -> dict[str, Source]:
    """Return every source by name, in alphabetical order of domain, then source."""
    by_name: dict[str, Source] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for source in getattr(importlib.import_module(f"{__name__}.{module}"), "SOURCES", ()):
            by_name[source.name] = source
    return by_name


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

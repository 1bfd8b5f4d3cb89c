"""One file per domain: raw files as their publisher distributes them -> canonical tables.

A domain module defines `SOURCES`, a tuple of `Source`; its templates lie in
`templates/<domain>/{profile,history,exposure}.jinja`. Modules are found by looking into this
folder, so that a new domain is one new file plus its templates and touches nothing else.

Other distributions add sources by entry points of the group `usermirrorer.sources`, each a `Source`
or several (with `Source.templates`). A source may also be a YAML file: see `raw/own/`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.own import definition
from usermirrorer.builders.raw.source import Source

GROUP = "usermirrorer.sources"


@functools.cache
def all_sources() -> dict[str, Source]:
    """Return every source by name, in alphabetical order of domain, then source."""
    by_name: dict[str, Source] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for source in getattr(importlib.import_module(f"{__name__}.{module}"), "SOURCES", ()):
            by_name[source.name] = source
    for plugin in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        _add_plugin(plugin, by_name)
    return by_name


def _add_plugin(plugin: EntryPoint, by_name: dict[str, Source]) -> None:
    """Add the sources of an entry point; one that is broken is told and breaks nothing else."""
    try:
        loaded = plugin.load()
        several = (loaded,) if isinstance(loaded, Source) else tuple(loaded)
        for source in several:
            if not isinstance(source, Source):
                raise TypeError(f"{type(source).__name__} is no Source")
            if source.name in by_name:
                raise ValueError(f"a source is called {source.name!r} already")
    except Exception as error:  # whatever a plugin does wrong is its own
        whose = plugin.dist.name if plugin.dist else "a distribution"
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: plugin {plugin.name} of {whose} is left out: {why}", file=sys.stderr)
        return
    by_name.update({source.name: source for source in several})


def get_source(name: str) -> Source:
    """Return a source by name, or the one that a YAML file defines.

    Raises:
        UserError: if there is none, listing those there are, or the YAML file is wrong.
    """
    if definition.is_definition(name):
        return _own(Path(name))
    sources = all_sources()
    if name not in sources:
        raise UserError(f"no source is called {name!r}", fix=f"Choose from {', '.join(sources)}.")
    return sources[name]


def _own(file: Path) -> Source:
    source = definition.from_file(file)
    if source.name in all_sources():
        raise UserError(
            f"{source.name!r} is the name of a source already", where=file, fix="Change `name`."
        )
    return source


def raw_of(source: Source, raw: Path | None) -> Path:
    """Return where the raw files lie: as given, or beside the YAML file of one's own logs.

    Raises:
        UserError: if a source of a publisher comes without.
    """
    if raw is not None:
        return raw
    if not source.definition:
        raise UserError("the raw files are not named", fix=f"Give the folder of {source.name}.")
    return definition.folder_of(source)


def domains() -> dict[str, tuple[str, ...]]:
    """Return domain -> names of its sources."""
    grouped: dict[str, tuple[str, ...]] = {}
    for source in all_sources().values():
        grouped[source.domain] = (*grouped.get(source.domain, ()), source.name)
    return grouped

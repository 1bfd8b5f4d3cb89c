"""Modules under the names that they had before each stage became a package (version 0.1).

`import usermirrorer.builders.dataset` still works and warns; the names go with the next major
version.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOT = "usermirrorer.builders"
#: Old module -> the modules that hold what it held.
MODULES: dict[str, tuple[str, ...]] = {
    "errors": ("common.errors",),
    "schema": ("common.schema",),
    "shards": ("common.storage",),
    "text": ("common.text",),
    "progress": ("common.progress",),
    "fetch": ("common.assets",),
    "as_of": ("raw.as_of",),
    "tables": ("raw.tables",),
    "download": ("raw.download",),
    "source_commands": ("raw.commands",),
    "sources": ("raw.sources", "raw.source", "raw.report"),
    "exposure": ("scenes.exposure",),
    "gfcf": ("scenes.gfcf",),
    "embed": ("scenes.embed",),
    "render": ("scenes.render",),
    "presets": ("scenes.presets",),
    "draws": ("scenes.random_numbers",),
    "spread": ("scenes.workers",),
    "flow": ("scenes.pipeline",),
    "dataset": ("scenes.dataset",),
    "prompts": ("decisions.prompts",),
    "throughput": ("decisions.cost",),
    "uncertainty": ("decisions.uncertainty",),
    "engines": ("decisions.engines.base",),
    "distill": ("distil.candidates", "distil.strategies", "distil.pairs"),
    "ifd": ("distil.ifd",),
}
#: Old module -> old function -> what it is called now.
FUNCTIONS = {
    "distill": {"distill": "make_pairs"},
    "flow": {"build": "raw_to_scenes"},
}


class _Renamed(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the modules of the table above, once Python found no file of that name."""
        root, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if root == _ROOT and name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill an old module with the public names of the new ones."""
        name = module.__name__.rpartition(".")[2]
        now = [importlib.import_module(f"{_ROOT}.{new}") for new in MODULES[name]]
        warnings.warn(
            f"{module.__name__} is now {', '.join(m.__name__ for m in now)}",
            DeprecationWarning,
            stacklevel=2,
        )
        held: dict[str, Any] = {}
        for new in now:
            held |= {key: value for key, value in vars(new).items() if not key.startswith("_")}
        renamed = {old: held[new] for old, new in FUNCTIONS.get(name, {}).items()}
        vars(module).update(held | renamed)


def install() -> None:
    """Make the old names importable."""
    if not any(isinstance(finder, _Renamed) for finder in sys.meta_path):
        sys.meta_path.append(_Renamed())

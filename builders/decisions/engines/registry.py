"""Engines by name, found by looking into this folder; `base.py` tells how to add one."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions import engines
from usermirrorer.builders.decisions.engines.base import Engine, EngineKind, EngineSettings

if TYPE_CHECKING:
    from usermirrorer.builders.common.storage import Spread

DEFAULT = "transformers"
_NO_ENGINES = {"attention", "base", "label_logits", "ray", "registry"}  # the other modules here

_FOR_ALL = {"kind", "model", "dtype", "name", "chat_template_kwargs"}


def kinds() -> list[str]:
    """Return the names of all engines, the default first; imports none of them."""
    names = {module.name for module in pkgutil.iter_modules(engines.__path__)} - _NO_ENGINES
    return [DEFAULT, *sorted(names - {DEFAULT})]


@functools.cache
def get_kind(name: str) -> EngineKind:
    """Return an engine by its name.

    Raises:
        UserError: if there is none, or a library that its file begins with is not installed.
    """
    if name not in kinds():
        raise UserError(f"no engine is called {name!r}", fix=f"Choose from {', '.join(kinds())}.")
    try:
        return importlib.import_module(f"{engines.__name__}.{name}").ENGINE
    except ImportError as error:
        raise UserError(
            f"cannot be imported ({error})",
            where=f"--engine {name}",
            fix="Install what it needs: see README, Engines.",
        ) from error


class EngineSpec(EngineSettings):
    """Which engine runs which model, and what can be done with it."""

    @property
    def engine(self) -> EngineKind:
        """What the registry knows of this kind."""
        return get_kind(self.kind)

    def load(self) -> Engine:
        """Return the engine.

        Raises:
            UserError: if the model cannot be loaded, or the engine's library is not installed.
        """
        return self.engine.load(self)

    @property
    def part_scenes(self) -> int:
        """Scenes worth working on together, and the most that a kill can cost."""
        return self.engine.part_scenes

    def spread(self, workers: int) -> Spread | None:
        """Return how parts are spread over `workers` Ray actors; None for this process.

        Raises:
            UserError: if Ray is not installed, or would only multiply requests to one server.
        """
        if not workers:
            return None
        if self.engine.remote:
            raise UserError(
                "is for engines that compute", where="--workers", fix="Raise --concurrency."
            )
        from usermirrorer.builders.decisions.engines.ray import spread_over

        return spread_over(workers, self.tensor_parallel)

    def identity(self) -> dict[str, Any]:
        """Return what rows depend on: engine, model, revision, dtype, what its chat template is
        given; not where or how fast.
        """
        from usermirrorer.builders.common import assets
        from usermirrorer.builders.decisions import chat

        settings = chat.read_settings(self.chat_template_kwargs)
        given = {"chat": chat.template_settings(settings)} if settings else {}
        if self.engine.remote:
            return {"engine": self.kind, "model": self.model, **given}
        revision = assets.model_revision(self.model)
        dtype = self.engine.dtype() if self.dtype == "auto" else self.dtype
        here = {"engine": self.kind, "model": self.model, "revision": revision, "dtype": dtype}
        return here | given


def check_options(specs: list[EngineSpec]) -> None:
    """Refuse settings that none of the engines reads, rather than ignore them.

    Raises:
        UserError: naming the first and the engines that do read it.
    """
    read = {name for spec in specs for name in spec.engine.options}
    defaults = {field.name: field.default for field in dataclasses.fields(EngineSettings)}
    for name in sorted(defaults.keys() - read - _FOR_ALL):
        if all(getattr(spec, name) == defaults[name] for spec in specs):
            continue
        others = [kind for kind in kinds() if _reads(kind, name)]
        raise UserError(
            f"is of --engine {', '.join(others)}",
            where=f"--{name.replace('_', '-')}",
            fix="Leave it out.",
        )


def _reads(kind: str, name: str) -> bool:
    try:
        return name in get_kind(kind).options
    except UserError:
        return False


def load_engine(model: str, dtype: str, name: str, *, chat_template_kwargs: str = "") -> Engine:
    """Load a model (local folder or Hub id) into the embedded engine, called `name` in rows.

    `chat_template_kwargs` is as in `EngineSettings`.

    Raises:
        UserError: see `load_causal_lm` and `TransformersEngine`.
    """
    spec = EngineSpec(DEFAULT, model, dtype, name=name, chat_template_kwargs=chat_template_kwargs)
    return spec.load()

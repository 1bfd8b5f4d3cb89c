"""Plans: YAML of steps over commands that exist, read for one scale into a graph of steps.

    plans/shared.yaml          `commands` by name, and the `steps` that several items use
    plans/scales/<scale>.yaml  `values` of a scale (sizes, models, flags), its `models` and `data`
    plans/items/<item>.yaml    `needs` (steps whose results the page shows), own `steps`, `page`

A step has `run`, a command line or the name of one in `commands`, in Jinja with the scale's values;
`inputs`, name -> reference, and `each`, variable -> values, for which it is repeated under the
name `step-value-value`. A reference is `model:ROLE`, `data:SOURCE`, or a step and a path in its
folder, `scenes-movielens-paper/test.parquet`; with a `*` it is all steps that match. In the command
an input is `{{ its name }}` and the step's own folder `{{ out }}`; `{{ named.its_name }}` writes
each match of a `*` as `MATCH=PLACE`.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import yaml

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import fingerprint

PLANS = Path(__file__).parent / "plans"
SCALES = ("tiny", "small", "paper")
Row = Mapping[str, Any]
#: Most bytes of one file of a plan, and most steps of a plan.
_LARGEST, _MOST_STEPS = 200_000, 20_000
_ENVIRONMENT = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False
)
_KEYS = {
    "shared": {"commands", "steps"},
    "scale": {"about", "never_run", "values", "models", "data", "jobs"},
    "item": {"title", "section", "about", "needs", "steps", "page"},
    "step": {"run", "inputs", "each", "values", "gpus", "tokens", "about", "python"},
}


@dataclass(frozen=True)
class Reference:
    """What a step needs: a part from outside (`model:ROLE`, `data:SOURCE`) or a step's file.

    `label` is what a `*` stood for.
    """

    target: str
    path: str = ""
    label: str = ""

    @property
    def outside(self) -> bool:
        """Whether it comes from outside the plan."""
        return ":" in self.target


@dataclass(frozen=True)
class Step:
    """One command of the graph.

    `words` are its command line, in which `@name@` stands for the input of that name and `@out@`
    for its folder. `gpus` is what it takes of a cluster, `tokens` how many tokens of which role,
    for estimates, and `python` another Python than this one, where vLLM has an environment of its
    own.
    """

    name: str
    words: tuple[str, ...]
    inputs: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)
    gpus: int = 0
    tokens: Mapping[str, float] = field(default_factory=dict)
    python: str = ""

    @property
    def references(self) -> list[Reference]:
        """All of its inputs."""
        return [reference for given in self.inputs.values() for reference in given]

    @property
    def needs(self) -> list[str]:
        """The steps that come before it."""
        return sorted({r.target for r in self.references if not r.outside})

    def made_from(self, keys: Mapping[str, str], code: str) -> str:
        """Return its key: 16 hex digits of its command, its inputs' keys and the code's version.

        Args:
            keys: Key of every reference's target.
            code: Version of the code.
        """
        inputs = {
            name: [[keys[r.target], r.path, r.label][: 2 + bool(r.label)] for r in given]
            for name, given in self.inputs.items()
        }
        return fingerprint({"run": self.words, "inputs": inputs, "code": code})


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper: which steps its page shows, and how."""

    name: str
    title: str
    section: str
    about: str
    needs: tuple[str, ...]
    page: Row


@dataclass(frozen=True)
class Plan:
    """All steps of the plans at one scale, in an order in which they can be run."""

    scale: str
    settings: Row
    steps: Mapping[str, Step]
    items: Mapping[str, Item]

    @cached_property
    def values(self) -> Row:
        """The scale's values."""
        return self.settings.get("values", {})

    def closure(self, names: Iterable[str]) -> dict[str, Step]:
        """Return the steps of these names and all before them, in the plan's order."""
        wanted, waiting = set[str](), list(names)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += self.steps[name].needs
        return {name: step for name, step in self.steps.items() if name in wanted}


def read(
    scale: str, folder: Path = PLANS, changed: Row | None = None, models: Row | None = None
) -> Plan:
    """Read the plans for one scale.

    Args:
        scale: One of `SCALES`, or another file in `scales/`.
        folder: Of the plans.
        changed: Values to take instead of the scale's.
        models: Role -> model to take instead of the scale's.

    Raises:
        UserError: naming the file and the step, if a plan cannot be read, names something that does
            not exist, or goes in a circle.
    """
    shared = _load(folder / "shared.yaml", "shared")
    settings = _settings(scale, folder, changed or {}, models or {})
    files = sorted((folder / "items").glob("*.yaml"))
    raw_items = {path.stem: _load(path, "item") for path in files}
    described = {name: (folder / "shared.yaml", row) for name, row in _steps(shared)}
    for path in files:
        for name, row in _steps(raw_items[path.stem]):
            if name in described:
                raise UserError(f"step {name!r} is described twice", where=path)
            described[name] = (path, row)
    repeated = {n: _repeat(n, row, settings, p) for n, (p, row) in described.items()}
    steps = _made(described, repeated, shared.get("commands", {}))
    items = {
        name: _item(name, row, settings, list(steps), list(described), folder)
        for name, row in _by_number(raw_items)
    }
    return Plan(scale, settings, _ordered(steps, folder), items)


def _settings(scale: str, folder: Path, changed: Row, models: Row) -> dict[str, Any]:
    """Return a scale's settings with what is changed of them, checked before anything is run."""
    path = folder / "scales" / f"{scale}.yaml"
    if (folder / "shared.yaml").exists() and not path.exists():
        scales = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise UserError(f"no scale is called {scale!r}", fix=f"Choose from {scales}.")
    settings = dict(_load(path, "scale"))
    values, roles = settings.get("values", {}), settings.get("models", {})
    for name, value in changed.items():
        if name not in values:
            raise UserError(f"scale {scale} has no value {name!r}", where="--set")
        was = type(values[name])
        if not isinstance(value, (int, float) if was is float else was):
            raise UserError(
                f"{name} is {_KINDS_OF_VALUE.get(was, was.__name__)}, not {value!r}", where="--set"
            )
    if unknown := sorted(set(models) - set(roles) - set(changed.get("endpoints", ()))):
        raise UserError(
            f"scale {scale} has no model in the role {unknown[0]!r}",
            where="--model",
            fix=f"Roles are {', '.join(roles)}.",
        )
    settings["values"], settings["models"] = {**values, **changed}, {**roles, **models}
    return settings


_KINDS_OF_VALUE = {int: "a whole number", float: "a number", list: "a list", str: "a text"}


class _AbsentError(UserError):
    """A step that the plan describes, but not for the values that this scale lists."""


def _made(
    described: Mapping[str, tuple[Path, Row]],
    repeated: Mapping[str, Mapping[str, Row]],
    commands: Row,
) -> dict[str, Step]:
    """Return the steps, without those whose inputs the scale's lists leave out.

    With fewer sources there is no ablation of those that are left out, and nothing that needs it.
    """
    names = [one for several in repeated.values() for one in several]
    while True:
        steps, absent = dict[str, Step](), set[str]()
        for name, (path, row) in described.items():
            for one, values in repeated[name].items():
                if one in names:
                    try:
                        steps[one] = _step(one, row, values, commands, (names, described), path)
                    except _AbsentError:
                        absent.add(one)
        if not absent:
            return steps
        names = [name for name in names if name not in absent]


def _load(path: Path, kind: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"is larger than {_LARGEST:,} bytes", where=path)
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UserError("does not exist", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"is not YAML: {error}", where=path) from error
    return _checked(loaded, kind, path)


def _checked(row: Any, kind: str, where: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"a {kind} is not a mapping of names to values", where=where)
    if unknown := sorted(map(str, set(row) - _KEYS[kind])):
        raise UserError(
            f"a {kind} has no {unknown[0]!r}",
            where=where,
            fix=f"It has {', '.join(sorted(_KEYS[kind]))}.",
        )
    return row


def _steps(row: Row) -> list[tuple[str, Row]]:
    return list((row.get("steps") or {}).items())


def _repeat(name: str, row: Row, settings: Row, path: Path) -> dict[str, dict[str, Any]]:
    """Return instance -> values, for every combination of `each`."""
    where = f"{path}, step {name}"
    _checked(row, "step", where)
    scale = {**settings["values"], "models": settings["models"]}
    axes = {}
    for variable, given in (row.get("each") or {}).items():
        listed = scale.get(given) if isinstance(given, str) else given
        if not isinstance(listed, list):
            raise UserError(f"the scale lists no {given!r} to repeat it for", where=where)
        axes[variable] = listed
    repeated = {}
    for chosen in itertools.islice(itertools.product(*axes.values()), _MOST_STEPS):
        values = {**scale, **dict(zip(axes, chosen, strict=True))}
        values |= {k: _rendered(v, values, where) for k, v in (row.get("values") or {}).items()}
        repeated["-".join([name, *map(str, chosen)])] = values
    return repeated


def _rendered(text: Any, values: Row, where: object) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return _ENVIRONMENT.from_string(text).render(values)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"cannot be filled in: {error}", where=where) from error


def _step(
    name: str,
    row: Row,
    values: Row,
    commands: Row,
    known: tuple[Sequence[str], Iterable[str]],
    path: Path,
) -> Step:
    where = f"{path}, step {name}"
    inputs = {}
    for key, given in (row.get("inputs") or {}).items():
        text = _rendered(given, values, where)
        inputs[key] = _references(text, *known, where)
    places: dict[str, Any] = {key: f"@{key}@" for key in [*inputs, "out"]}
    places["named"] = {key: f"@{key}=@" for key in inputs}
    command = commands.get(row["run"], row["run"]) if "run" in row else ""
    try:
        words = tuple(shlex.split(_rendered(command, {**values, **places}, where)))
    except ValueError as error:
        raise UserError(f"has a command that cannot be split: {error}", where=where) from error
    if not words:
        raise UserError("runs nothing", where=where)
    tokens = {
        _rendered(k, values, where): _number(v, values, where)
        for k, v in (row.get("tokens") or {}).items()
    }
    gpus = int(_number(row.get("gpus", 0), values, where))
    python = _rendered(str(row.get("python", "")), values, where)
    return Step(name, words, inputs, gpus, tokens, python)


def _number(given: Any, values: Row, where: object) -> float:
    text = _rendered(str(given), values, where)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text[:40]!r} is not a number", where=where) from None


def _references(
    text: str, names: Sequence[str], described: Iterable[str], where: object
) -> tuple[Reference, ...]:
    if text.startswith(("model:", "data:")):
        return (Reference(text),)
    target, _, path = text.partition("/")
    matching = [name for name in names if fnmatchcase(name, target)]
    if not matching:
        kind = _AbsentError if _is_described(target, described) else UserError
        raise kind(f"no step is called {target!r}", where=where)
    if "*" not in target:
        return (Reference(target, path),)
    before, _, after = target.partition("*")
    return tuple(
        Reference(name, path, name.removeprefix(before).removesuffix(after)) for name in matching
    )


def _is_described(target: str, described: Iterable[str]) -> bool:
    return any(target == name or target.startswith(f"{name}-") for name in described)


def _by_number(items: Row) -> list[tuple[str, Row]]:
    """Return items in the order of their numbers: table2 before table10."""
    order = sorted(items, key=lambda name: (name.rstrip("0123456789"), len(name), name))
    return [(name, items[name]) for name in order]


def _item(
    name: str,
    row: Row,
    settings: Row,
    names: Sequence[str],
    described: Iterable[str],
    folder: Path,
) -> Item:
    where = folder / "items" / f"{name}.yaml"
    needs: list[str] = []
    for pattern in row.get("needs") or []:
        matching = [one for one in names if fnmatchcase(one, pattern)]
        if not matching and not _is_described(pattern, described):
            raise UserError(f"no step is called {pattern!r}", where=where)
        needs += matching
    about = _rendered(row.get("about", ""), settings["values"], where)
    page = row.get("page") or {}
    title, section = str(row.get("title", name)), str(row.get("section", ""))
    return Item(name, title, section, about, tuple(dict.fromkeys(needs)), page)


def _ordered(steps: Mapping[str, Step], folder: Path) -> dict[str, Step]:
    try:
        order = TopologicalSorter({n: s.needs for n, s in steps.items()}).static_order()
        return {name: steps[name] for name in order}
    except CycleError as error:
        raise UserError(
            f"steps need each other: {' -> '.join(error.args[1])}", where=folder
        ) from error

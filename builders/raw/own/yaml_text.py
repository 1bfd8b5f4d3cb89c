"""Bounded YAML to plain values that know their lines; scalars stay as they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from usermirrorer.builders.common.errors import UserError

LARGEST = 256 << 10
DEEPEST = 12
MOST = 20_000  # events
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML file: `value` of dicts, lists and text, and the line of each value by its keys."""

    file: Path
    text: str
    value: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def at(self, *keys: str | int) -> str:
        """Return `file:line` of a value, or of the nearest one around it that is there."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.file}:{self.lines.get(keys, 1)}"


def load(file: Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: if it is missing, too large or deep, no YAML, or names a key twice.
    """
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file) from error
    if len(content) > LARGEST:
        raise UserError(f"is larger than {LARGEST >> 10} KB", where=file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=file, fix="Save it as UTF-8.") from error
    return parse(text, Path(file))


def parse(text: str, file: Path) -> Document:
    """Parse the text of a YAML file; see `load`."""
    try:
        _bounded(text, file)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        what = getattr(error, "problem", None) or str(error)
        raise UserError(f"is not YAML: {what}", where=where) from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError("holds no keys", where=file, fix="`usermirrorer new` writes an example.")
    lines: dict[Path_, int] = {}
    return Document(file, text, _plain(node, (), file, lines), lines)


def _bounded(text: str, file: Path) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        where = f"{file}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UserError("anchors and aliases are not read", where=where, fix="Write it out.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or number > MOST:
            raise UserError("is nested too deep or has too many values", where=where)


def _plain(node: yaml.Node, keys: Path_, file: Path, lines: dict[Path_, int]) -> Any:
    lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(part, (*keys, i), file, lines) for i, part in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key, part in node.value:
        where = f"{file}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError("a key must be text", where=where)
        if key.value in values:
            raise UserError(f"{key.value!r} is there twice", where=where, fix="Keep one.")
        lines[(*keys, key.value)] = key.start_mark.line + 1
        values[key.value] = _plain(part, (*keys, key.value), file, lines)
    return values

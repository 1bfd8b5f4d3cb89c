"""YAML of strangers, as what JSON can hold: bounded before anything is built, and never run.

Values are built here from libyaml's stream of events, whose parser has no recursion. The loaders
of PyYAML recurse per level (in C, where that ends the process), take seconds for numbers of base
60, and construct types by tags in ways that fail with almost any exception.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

#: Levels of nesting, events (a scalar is one), and letters of a scalar that can be a number or
#: a date: whatever is longer is a text.
DEPTH, EVENTS, TYPED = 64, 250_000, 100

_TAG = "tag:yaml.org,2002:"
_TEXTS = {"!", f"{_TAG}str", f"{_TAG}binary", f"{_TAG}value"}
_TYPES = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "timestamp")}
#: Checking one against all others takes libyaml quadratic time, and cards need none.
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_MERGE = object()


def plain_yaml(text: str | bytes) -> Any:
    """Read YAML as what JSON can hold; dates, NaN and the like become texts.

    Args:
        text: One document, whose length the caller has bounded.

    Raises:
        ValueError: if it is not YAML, is nested too deeply or too large, or has what can grow
            without bound or be no JSON: aliases, directives, keys that are collections, tags
            other than YAML's own scalar types.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        text.encode()  # lone surrogates cannot be sent on
    except UnicodeError:
        raise ValueError("not plain YAML: not UTF-8") from None
    if _DIRECTIVE.search(text):
        raise ValueError("not plain YAML: directives are not accepted")
    try:
        return _build(_bounded(text))
    except yaml.YAMLError as error:
        raise ValueError(f"not plain YAML: {str(error)[:300]}") from None


def _bounded(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a document, as long as they are within the limits."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.CSafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise ValueError(f"not plain YAML: more than {DEPTH} levels")
        if count > EVENTS:
            raise ValueError(f"not plain YAML: more than {EVENTS} values")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("not plain YAML: aliases are not accepted")
        yield event


class _Open:
    """A list or mapping whose end has not come; in a mapping, also the key that waits."""

    def __init__(self, value: list[Any] | dict[str, Any]) -> None:
        self.value = value
        self.key: Any = None
        self.merged: dict[str, Any] = {}

    def put(self, value: Any) -> None:
        """Add a value, or the key of the next one."""
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is None:
            self.key = value if value is _MERGE else _key(value)
        elif self.key is _MERGE:
            for mapping in value if isinstance(value, list) else [value]:
                if not isinstance(mapping, dict):
                    raise ValueError("not plain YAML: only mappings can be merged")
                self.merged = {**mapping, **self.merged}
            self.key = None
        else:
            self.value[self.key], self.key = value, None

    def done(self) -> list[Any] | dict[str, Any]:
        """Return the whole, in which own keys come before merged ones."""
        return {**self.merged, **self.value} if isinstance(self.value, dict) else self.value


def _build(events: Iterator[yaml.Event]) -> Any:
    documents: list[Any] = []
    top = _Open(documents)
    levels = [top]
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent) and documents:
            raise ValueError("not plain YAML: more than one document")
        if isinstance(event, yaml.CollectionStartEvent):
            mapping = isinstance(event, yaml.MappingStartEvent)
            if event.tag not in (None, "!", f"{_TAG}{'map' if mapping else 'seq'}"):
                raise ValueError(f"not plain YAML: a collection has the tag {event.tag[:80]!r}")
            if isinstance(levels[-1].value, dict) and levels[-1].key is None:
                raise ValueError("not plain YAML: a key is a collection")
            levels.append(_Open({} if mapping else []))
        elif isinstance(event, yaml.CollectionEndEvent):
            whole = levels.pop().done()
            levels[-1].put(whole)
        elif isinstance(event, yaml.ScalarEvent):
            level = levels[-1]
            is_key = isinstance(level.value, dict) and level.key is None
            level.put(_scalar(event, is_key))
    return documents[0] if documents else None


_RESOLVER, _CONSTRUCTOR = yaml.resolver.Resolver(), yaml.constructor.SafeConstructor()


def _scalar(event: yaml.ScalarEvent, is_key: bool) -> Any:
    """Return a scalar as JSON's value, a text where JSON has none."""
    tag, text = event.tag, str(event.value)
    if tag is None:
        if len(text) > TYPED or not event.implicit[0]:
            return text
        tag = _RESOLVER.resolve(yaml.ScalarNode, text, event.implicit)
        if tag == f"{_TAG}merge":
            return _MERGE if is_key else text
        try:
            return _typed(tag, text)
        except ValueError:  # nobody said that 2026-99-99 is a date
            return text
    return _typed(tag, text)


def _typed(tag: str, text: str) -> Any:
    """Return a scalar of a type of YAML's own.

    Raises:
        ValueError: if it is none, or of another type.
    """
    if tag in _TEXTS:
        return text
    if tag not in _TYPES or len(text) > TYPED:
        raise ValueError(f"not plain YAML: a value has the tag {tag[:80]!r}")
    try:
        node = yaml.ScalarNode(tag, text)
        value = yaml.constructor.SafeConstructor.yaml_constructors[tag](_CONSTRUCTOR, node)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise ValueError(f"not plain YAML: {text!r} is no {tag.removeprefix(_TAG)}") from None
    if isinstance(value, datetime.date):  # and `datetime`, which is one
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _key(value: Any) -> str:
    """Return a key as JSON writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)

"""Values of a YAML file against `domain.schema.json`: one schema for this check and for editors."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.own.yaml_text import Document, Path_

SCHEMA_FILE = Path(__file__).with_name("domain.schema.json")


@functools.cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of a domain."""
    return json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def checked(document: Document) -> dict[str, Any]:
    """Return the values of a document, typed as the schema says.

    Raises:
        UserError: naming the line, for an unknown key the nearest known one.
    """
    return _value(document.value, schema(), (), document)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which of the known names was probably meant, or which there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known[:40])}."


def _value(value: Any, rule: dict[str, Any], keys: Path_, document: Document) -> Any:
    rule = _resolved(rule, value)
    name = str(keys[-1]) if keys else "the file"
    kind = rule["type"]
    if kind == "object":
        return _mapping(value, rule, keys, document, name)
    if kind == "array":
        if not isinstance(value, list):
            raise UserError(f"{name!r} must be a list", where=document.at(*keys))
        each = rule["items"]
        return [_value(part, each, (*keys, i), document) for i, part in enumerate(value)]
    if not isinstance(value, str):
        raise UserError(f"{name!r} must be one value", where=document.at(*keys))
    return _scalar(value, rule, keys, document, name)


def _resolved(rule: dict[str, Any], value: Any) -> dict[str, Any]:
    """Follow a reference, and choose the alternative of the value's kind."""
    if "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].rpartition("/")[2]]
    if "anyOf" in rule:
        kinds: dict[Any, str] = {dict: "object", list: "array"}
        wanted = kinds.get(type(value), "")
        parts = [_resolved(part, value) for part in rule["anyOf"]]
        fitting = [p for p in parts if p["type"] == wanted]
        plain = [p for p in parts if p["type"] not in kinds.values()]
        return (fitting or plain or parts)[0]
    return rule


def _mapping(
    value: Any, rule: dict[str, Any], keys: Path_, document: Document, name: str
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name!r} must hold keys", where=document.at(*keys))
    known, others = rule.get("properties", {}), rule.get("additionalProperties", False)
    typed = {}
    for key, part in value.items():
        own = known.get(key, others)
        if own is False:
            raise UserError(
                f"{key!r} is no key of {name}",
                where=document.at(*keys, key),
                fix=nearest(key, known),
            )
        typed[key] = _value(part, own, (*keys, key), document)
    for key in rule.get("required", ()):
        if key not in value:
            raise UserError(f"{key!r} is missing in {name}", where=document.at(*keys))
    return typed


def _scalar(
    value: str, rule: dict[str, Any], keys: Path_, document: Document, name: str
) -> str | bool | int:
    where = document.at(*keys)
    if rule["type"] == "boolean":
        if value.lower() not in ("true", "false"):
            raise UserError(f"{name!r} must be true or false, not {value!r}", where=where)
        return value.lower() == "true"
    if rule["type"] == "integer":
        if not re.fullmatch(r"\d{1,6}", value):
            raise UserError(f"{name!r} must be a whole number, not {value!r}", where=where)
        return int(value)
    if (choices := rule.get("enum")) and value not in choices:
        raise UserError(f"{name!r} cannot be {value!r}", where=where, fix=nearest(value, choices))
    if (pattern := rule.get("pattern")) and not re.search(pattern, value):
        raise UserError(
            f"{name!r} cannot be {value!r}", where=where, fix=rule.get("description", "")
        )
    return value

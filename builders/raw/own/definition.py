"""A YAML file to the `Source` that every stage takes."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.own import check, expressions, reader, running, templates, values
from usermirrorer.builders.raw.own.yaml_text import Document, load, parse
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Column, Source, Tables

ENDINGS = (".yaml", ".yml")
_TAKEN = ("user_id", "item_id", "timestamp", "title", "text", "available_from", "ago", "loop")
_WORDS = ("new_release", "line", "true", "false", "none", "True", "False", "None")


def is_definition(name: str) -> bool:
    """Say whether the name of a source is a YAML file."""
    return name.lower().endswith(ENDINGS)


def from_file(file: Path) -> Source:
    """Return the source that a YAML file defines.

    Raises:
        UserError: if it is wrong anywhere: file and line are named.
    """
    return _source(load(Path(file)))


def from_text(text: str, name: str) -> Source:
    """Return the source of a definition that was stored with its tables."""
    return _source(parse(text, Path(name)))


def folder_of(source: Source) -> Path:
    """Return where the relative paths of a definition start."""
    function: Any = source.read
    return function.args[0].file.parent


def _source(document: Document) -> Source:
    document = replace(document, value=check.checked(document))
    _check_zones(document)
    _check_sections(document)
    columns = _columns(document)
    _check_conditions(document)
    _check_running(document)
    own = _templates(document, columns)
    told, as_of = document.value, document.value.get("as_of", {})
    logged = "impressions" in told
    return Source(
        name=told["name"],
        domain=told["name"],
        title=told.get("title") or told["name"],
        homepage=told.get("homepage", ""),
        licence=told.get("licence") or "not stated",
        redistributable=told.get("public", False),
        citation=told.get("citation", ""),
        files={about["path"]: kind for kind, about in told["files"].items()},
        read=functools.partial(_read, document),
        columns=columns,
        user_as_of=_as_of(as_of.get("users"), "user_id"),
        item_as_of=_as_of(as_of.get("items"), "item_id"),
        logged=logged,
        templates=own,
        definition=document.text,
        located=functools.partial(reader.located, document),
    )


def _read(document: Document, folder: Path, report: Report) -> Tables:
    return reader.read(document, folder, report)


def _as_of(rules: Mapping[str, Any] | None, by: str) -> Any:
    return functools.partial(running.values, rules, by) if rules else None


def _check_zones(document: Document) -> None:
    zones: list[tuple[tuple[str, ...], Any]] = [(("timezone",), document.value.get("timezone"))]
    for kind in ("interactions", "impressions"):
        rule = document.value.get(kind, {}).get("time", {})
        zones.append(((kind, "time", "timezone"), rule.get("timezone")))
    for keys, zone in zones:
        try:
            if zone is not None:
                ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UserError(
                f"{zone!r} is no time zone", where=document.at(*keys), fix="E.g. Europe/Vienna."
            ) from error


def _check_sections(document: Document) -> None:
    for kind in ("users", "impressions"):
        if (kind in document.value) != (kind in document.value["files"]):
            raise UserError(
                f"{kind!r} must be under files and have its own section, or neither",
                where=document.at(kind) if kind in document.value else document.at("files", kind),
            )


def _columns(document: Document) -> dict[str, dict[str, Column]]:
    """Return the columns beyond the canonical ones, checked for names that templates can read."""
    by_table: dict[str, dict[str, Column]] = {}
    for kind in ("users", "items", "interactions"):
        by_table[kind] = {}
        for name, rule in document.value.get(kind, {}).get("columns", {}).items():
            about = {} if isinstance(rule, str) else rule
            _check_name(name, document.at(kind, "columns", name))
            meaning = about.get("meaning", "")
            by_table[kind][name] = (values.TYPES[about.get("type", "text")][1], meaning)
    as_of = document.value.get("as_of", {})
    beside = {
        "items": [by_table["items"], by_table["interactions"], as_of.get("items", {})],
        "users": [by_table["users"], as_of.get("users", {})],
    }
    for kind, groups in beside.items():
        names = [name for group in groups for name in group]
        for name in as_of.get(kind, {}):
            _check_name(name, document.at("as_of", kind, name))
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"the name {twice[0]!r} is used twice beside {kind}",
                where=document.at("interactions", "columns", twice[0]),
                fix="Give one of them another name, and `column:` for that of the file.",
            )
    return by_table


def _check_name(name: str, where: str) -> None:
    wrong = name in (*_TAKEN, *_WORDS) or name.startswith("_") or keyword.iskeyword(name)
    if wrong or not name.isidentifier():
        raise UserError(
            f"{name!r} cannot be the name of a column here",
            where=where,
            fix="Write another name, and `column:` for that of the file.",
        )


def _types(document: Document, kind: str) -> dict[str, Any]:
    rules = document.value.get(kind, {}).get("columns", {})
    kinds = {n: "text" if isinstance(r, str) else r.get("type", "text") for n, r in rules.items()}
    return {name: values.TYPES[kind][0] for name, kind in kinds.items()}


def _check_conditions(document: Document) -> None:
    for kind in ("users", "items", "interactions"):
        for key in ("filter", "behavior"):
            if text := document.value.get(kind, {}).get(key):
                expressions.condition(text, _types(document, kind), document.at(kind, key))
    known = {"title", *_types(document, "items")}
    for number, name in enumerate(document.value["items"].get("text", ())):
        if name not in known:
            raise UserError(
                f"{name!r} is no column of the items",
                where=document.at("items", "text", number),
                fix=check.nearest(name, known),
            )


def _check_running(document: Document) -> None:
    types = _types(document, "interactions")
    numbers = [name for name, kind in types.items() if kind in (pl.Float64, pl.Int64)]
    for kind, rules in document.value.get("as_of", {}).items():
        for name, rule in rules.items():
            where = document.at("as_of", kind, name)
            if ("count" in rule) == ("mean" in rule):
                raise UserError(f"{name!r} needs either count: rows or mean: COLUMN", where=where)
            if "mean" in rule and rule["mean"] not in numbers:
                raise UserError(
                    f"{rule['mean']!r} is no number column of the interactions",
                    where=where,
                    fix=check.nearest(rule["mean"], numbers),
                )


def _templates(
    document: Document, columns: Mapping[str, Mapping[str, tuple[pa.DataType, str]]]
) -> dict[str, str]:
    as_of = document.value.get("as_of", {})
    item = {"title", "text", *columns["items"], *as_of.get("items", {})}
    known = {
        "profile": {*columns["users"], *as_of.get("users", {})},
        "history": {*item, *columns["interactions"], "ago"},
        "exposure": {*item, "new_release"},
    }
    own = {}
    for kind, names in known.items():
        text = document.value["templates"].get(kind, "")
        where = document.at("templates", kind)
        for name in sorted(templates.check(text, where) - names):
            raise UserError(
                f"the {kind} template reads {name!r}, which is no column",
                where=where,
                fix=check.nearest(name, sorted(names)),
            )
        own[kind] = text
    return own

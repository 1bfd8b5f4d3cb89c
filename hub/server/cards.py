"""The YAML header of cards, and other YAML that users commit, read without trusting it."""

from __future__ import annotations

import json
from typing import Any

import pygit2
import yaml

from usermirrorer.hub.server import history

#: Front matter longer than this is not parsed: YAML aliases must not blow up the server.
CARD_LIMIT = 1 << 20
_PREFIXED_TAGS = ("language", "license", "size_categories", "task_categories", "task_ids")


def front_matter(text: str) -> dict[str, Any]:
    """Return the YAML header of a card, {} if there is none.

    Raises:
        ValueError: if it is not a YAML mapping, or uses aliases.
    """
    head, mark, rest = text.lstrip("\ufeff").replace("\r\n", "\n").partition("---\n")
    block, end, _ = rest.partition("\n---")
    if head or not mark or not end:
        return {}
    value = plain_yaml(block)
    if not isinstance(value, dict):
        raise ValueError("the card's header is not a YAML mapping")
    return value


def plain_yaml(text: str | bytes) -> Any:
    """Read YAML as what JSON can hold; dates, NaN and the like become texts.

    Raises:
        ValueError: if it is not YAML, or has aliases, which can grow without bound.
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.CSafeLoader)):
            raise ValueError("YAML aliases are not accepted")
        value = yaml.load(text, yaml.CSafeLoader)
        return json.loads(json.dumps(value, default=str), parse_constant=str)
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise ValueError(f"not plain YAML: {error}") from error


def card_data(repo: pygit2.Repository, commit: pygit2.Commit) -> dict[str, Any]:
    """Return the header of README.md, {} if it is missing or broken."""
    readme = history.entry(repo, commit, "README.md")
    if readme is None or readme.is_folder or readme.lfs or readme.size > CARD_LIMIT:
        return {}
    try:
        return front_matter(history.content(repo, readme).decode("utf-8", "replace"))
    except ValueError:
        return {}


def tags_of(card: dict[str, Any]) -> list[str]:
    """Return the tags by which the Hub lists a repository with this card."""
    tags = [str(tag) for tag in _listed(card.get("tags"))]
    for key in _PREFIXED_TAGS:
        tags += [f"{key}:{value}" for value in _listed(card.get(key))]
    tags += [f"dataset:{value}" for value in _listed(card.get("datasets"))]
    tags += [str(card[key]) for key in ("library_name", "pipeline_tag") if card.get(key)]
    return list(dict.fromkeys(tags))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]

"""The YAML header of cards: read once, bounded, and kept for listings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pygit2

from usermirrorer.hub.server import derived, history
from usermirrorer.hub.server.foreign_yaml import plain_yaml

#: A longer README has no header.
CARD_LIMIT = 1 << 20
#: What a listing shows of one card: bytes in all and per field; tags and letters of one.
LISTED, _FIELD, _TAGS, _TAG = 8 << 10, 1 << 10, 200, 100
#: What stands before the colon of a tag.
_PREFIXED_TAGS = ("language", "license", "size_categories", "task_categories", "task_ids")
PREFIXES = (*_PREFIXED_TAGS, "dataset")


def front_matter(text: str) -> dict[str, Any]:
    """Return the YAML header of a card, {} if there is none.

    Raises:
        ValueError: if it is not a YAML mapping, or not plain (see `plain_yaml`).
    """
    head, mark, rest = text.lstrip("\ufeff").replace("\r\n", "\n").partition("---\n")
    block, end, _ = rest.partition("\n---")
    if head or not mark or not end:
        return {}
    if len(block) > CARD_LIMIT:
        raise ValueError(f"the card's header is longer than {CARD_LIMIT} letters of YAML")
    value = plain_yaml(block)
    if not isinstance(value, dict):
        raise ValueError("the card's header is not a YAML mapping")
    return value


def card_data(repo: pygit2.Repository, commit: pygit2.Commit) -> dict[str, Any]:
    """Return the header of README.md, {} if it is missing or broken."""
    readme = _readme(repo, commit)
    if readme is None:
        return {}
    folder = Path(repo.path).parent
    card: dict[str, Any] = derived.record(folder, "card", readme.oid, lambda: _read(repo, readme))
    return card


def listed_card(repo: pygit2.Repository, commit: pygit2.Commit) -> dict[str, Any]:
    """Return what a listing shows of README.md: `card`, without its long fields, and `tags`."""
    readme = _readme(repo, commit)
    if readme is None:
        return {"card": {}, "tags": []}
    listed: dict[str, Any] = derived.record(
        Path(repo.path).parent, "listed", readme.oid, lambda: _listed_form(card_data(repo, commit))
    )
    return listed


def _readme(repo: pygit2.Repository, commit: pygit2.Commit) -> history.Entry | None:
    """Return README.md, if it can have a header."""
    readme = history.entry(repo, commit, "README.md")
    if readme is None or readme.is_folder or readme.lfs or readme.size > CARD_LIMIT:
        return None
    return readme


def _read(repo: pygit2.Repository, readme: history.Entry) -> dict[str, Any]:
    try:
        return front_matter(history.content(repo, readme).decode("utf-8", "replace"))
    except ValueError:
        return {}


def _listed_form(card: dict[str, Any]) -> dict[str, Any]:
    left, fields = LISTED, {}
    for key, value in card.items():
        size = len(key) + len(json.dumps(value))
        if size <= min(_FIELD, left):
            fields[key] = value
            left -= size
    tags = [tag for tag in tags_of(card) if len(tag) <= _TAG]
    return {"card": fields, "tags": tags[:_TAGS]}


def tags_of(card: dict[str, Any]) -> list[str]:
    """Return the tags by which the Hub lists a repository with this card."""
    tags = [str(tag) for tag in _values(card.get("tags"))]
    for key in _PREFIXED_TAGS:
        tags += [f"{key}:{value}" for value in _values(card.get(key))]
    tags += [f"dataset:{value}" for value in _values(card.get("datasets"))]
    tags += [str(card[key]) for key in ("library_name", "pipeline_tag") if card.get(key)]
    return list(dict.fromkeys(tags))


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]

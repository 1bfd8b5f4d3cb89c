"""What clients ask for and this Hub does not have: told in words, not by a bare 404 or 405."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request

from usermirrorer.hub.server import access
from usermirrorer.hub.server.access import HubError
from usermirrorer.hub.server.addresses import KINDS_WORDS, REPO
from usermirrorer.hub.server.routing import ALL_METHODS, kind_of, routes

router = APIRouter()
#: What would be taken for a repository: stands before all other routes.
first = APIRouter()
#: Words of addresses that do not say what they are about.
_NAMES = {
    "daily-papers": "papers",
    "dev-mode": "running Spaces",
    "hardware": "running Spaces",
    "like": "likes",
    "logs": "running Spaces",
    "organizations": "organisations: a user of whom several people have a token each is one",
    "pause": "running Spaces",
    "resource-group": "resource groups",
    "restart": "running Spaces",
    "runtime": "running Spaces",
    "secrets": "running Spaces",
    "semantic-search": "search by meaning",
    "settings": "settings of this kind",
    "sleeptime": "running Spaces",
    "templates": "templates of Spaces",
    "uploads": "attachments",
    "users": "such page of users",
    "variables": "running Spaces",
    "volumes": "running Spaces",
    "xet-read-token": "downloads by Xet: they are plain HTTP",
    "zero-gpu": "running Spaces",
}


@routes(router, ALL_METHODS, REPO + "/{rest:below}")
def of_a_repository(request: Request, kinds: str, namespace: str, name: str, rest: str) -> None:
    """Refuse what is not there of a repository; one that the visitor may not see is not found."""
    access.readable(request, kind_of(kinds), namespace, name)
    raise _refusal(rest)


@routes(router, ALL_METHODS, "/api/{rest:below}")
def of_the_hub(rest: str) -> None:
    """Refuse the rest."""
    first_word, _, others = rest.partition("/")
    if first_word == "collections":
        others = rest.rpartition("/")[2]
    told = first_word in ("collections", "settings", *KINDS_WORDS)
    raise _refusal(others if told and others else rest)


@router.post("/uploads")
def attachments() -> None:
    """Refuse what a discussion would show."""
    raise _refusal("uploads")


@first.get("/api/spaces/zero-gpu/quota")
def quota() -> None:
    """Refuse to tell how much of other people's hardware is left."""
    raise _refusal("zero-gpu")


@routes(router, ALL_METHODS, "/{word:elsewhere}/{rest:below}")
def beside_the_api(word: str) -> None:
    """Refuse what clients ask for beside the API."""
    raise _refusal(word)


def _refusal(rest: str) -> HubError:
    word = re.sub(r"[^a-z0-9]+", "-", rest.partition("/")[0].lower()).strip("-")[:40]
    name = _NAMES.get(word, word.replace("-", " ") or "such address")
    return HubError(501, f"This Hub has no {name}")

"""What clients ask for and this Hub does not have: told in words, not by a bare 404 or 405."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request

from usermirrorer.hub.server import access
from usermirrorer.hub.server.access import HubError
from usermirrorer.hub.server.routing import kind_of

router = APIRouter()
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
#: Words of addresses that do not say what they are about.
_NAMES = {
    "like": "likes",
    "likers": "likes",
    "organizations": "organisations: a user of whom several people have a token each is one",
    "runtime": "running Spaces",
    "settings": "settings of this kind",
    "users": "pages of users",
    "xet-read-token": "downloads by Xet: they are plain HTTP",
}


@router.api_route(
    "/api/{kinds:kinds}/{namespace}/{name}/{rest:below}",
    methods=_METHODS,
    include_in_schema=False,
)
def of_a_repository(request: Request, kinds: str, namespace: str, name: str, rest: str) -> None:
    """Refuse what is not there of a repository; one that the visitor may not see is not found."""
    access.readable(request, kind_of(kinds), namespace, name)
    raise _refusal(rest)


@router.api_route("/api/{rest:below}", methods=_METHODS, include_in_schema=False)
def of_the_hub(rest: str) -> None:
    """Refuse the rest."""
    raise _refusal(rest.removeprefix("settings/"))


@router.api_route("/{word:elsewhere}/{rest:below}", methods=_METHODS, include_in_schema=False)
def beside_the_api(word: str) -> None:
    """Refuse what clients ask for beside the API."""
    raise _refusal(word)


def _refusal(rest: str) -> HubError:
    word = re.sub(r"[^a-z0-9]+", "-", rest.partition("/")[0].lower()).strip("-")[:40]
    name = _NAMES.get(word, word.replace("-", " ") or "such address")
    return HubError(501, f"This Hub has no {name}")

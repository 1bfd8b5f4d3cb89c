"""Decode addresses segment by segment, so that `refs%2Fpr%2F1` is one revision.

Servers hand over a decoded path, in which an encoded slash cannot be told from a real one. Here it
stays a control character until the route is found; the convertors `ref` (one segment) and `below`
(the rest of the path) then turn it into a slash. What leads a client on (`asked_path`) is made of
the address as it was sent: a decoded one names something else.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from fastapi.responses import JSONResponse
from starlette.convertors import Convertor, register_url_convertor

#: Where the API of a repository begins; routes use the convertors `ref` and `below` behind it.
REPO = "/api/{kinds:kinds}/{namespace}/{name}"
#: The first segment of a repository's addresses; models go without it on the web.
KINDS_WORDS = ("models", "datasets", "spaces")
#: In an address these stay as they are sent; not `;`, `,`, `<`, `>`, which end it in a header.
_KEPT = "/%:@!$&'()*+=~"
_NO_CODE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SLASH = "\x1f"
_Call = Callable[..., Awaitable[Any]]


class _Ref(Convertor[str]):
    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return value.replace(_SLASH, "/")

    def to_string(self, value: str) -> str:
        return value.replace("/", _SLASH)


class _Below(_Ref):
    regex = ".*"


class _Kinds(Convertor[str]):
    """What comes first in an address decides what the rest means: no name can be taken for it."""

    regex = "|".join(KINDS_WORDS)

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Owner(_Kinds):
    """A user's name where no kind comes first; what can be read as an address with one is that."""

    regex = f"(?!(?:{_Kinds.regex})/[^/]+/[^/]+/(?:resolve|raw|blob|tree|commit)/)"
    regex += f"(?!api/(?:{_Kinds.regex})/)[^/]+"


class _Elsewhere(_Kinds):
    """What clients ask for beside the API and is not there; no user can be called so."""

    regex = "buckets|kernels|papers"


class _Group(_Kinds):
    """What a reference can be."""

    regex = "branch|tag"


class _Number(Convertor[int]):
    """A number that SQLite can hold; starlette's own takes thousands of digits."""

    regex = "[0-9]{1,15}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("ref", _Ref())
register_url_convertor("number", _Number())
register_url_convertor("below", _Below())
register_url_convertor("kinds", _Kinds())
register_url_convertor("owner", _Owner())
register_url_convertor("group", _Group())
register_url_convertor("elsewhere", _Elsewhere())


def asked_path(scope: Mapping[str, Any]) -> str:
    """Return the path of a request as it was sent, fit to stand in a header or a link."""
    return quote(_NO_CODE.sub(b"%25", _raw(scope)), safe=_KEPT)


def _raw(scope: Mapping[str, Any]) -> bytes:
    raw: bytes = scope.get("raw_path") or str(scope["path"]).encode()
    return raw.partition(b"?")[0]


class Segments:
    """ASGI middleware that marks encoded slashes and refuses addresses with control characters."""

    def __init__(self, app: _Call) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: _Call, send: _Call) -> None:
        """Pass the request on with its path decoded."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        raw = _raw(scope).decode("latin-1")
        if any(ord(c) < 32 or c in "\x7f\ufffd" for c in unquote(raw)):
            refused = JSONResponse({"error": "Not an address of this server"}, 400)
            await refused(scope, receive, send)
            return
        raw = "/" + raw.lstrip("/")  # clients that join addresses with one slash too many
        path = unquote(raw.replace("%2F", "%1F").replace("%2f", "%1f"))
        await self.app({**scope, "path": path}, receive, send)

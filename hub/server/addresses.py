"""Decode addresses segment by segment, so that `refs%2Fpr%2F1` is one revision.

Servers hand over a decoded path, in which an encoded slash cannot be told from a real one. Here it
stays a control character until the route is found; the convertors `ref` (one segment) and `below`
(the rest of the path) then turn it into a slash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from fastapi.responses import JSONResponse
from starlette.convertors import Convertor, register_url_convertor

#: Where the API of a repository begins; routes use the convertors `ref` and `below` behind it.
REPO = "/api/{kinds}/{namespace}/{name}"
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


class Segments:
    """ASGI middleware that marks encoded slashes and refuses addresses with control characters."""

    def __init__(self, app: _Call) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: _Call, send: _Call) -> None:
        """Pass the request on with its path decoded."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        if any(ord(c) < 32 or c in "\x7f\ufffd" for c in unquote(raw)):
            refused = JSONResponse({"error": "Not an address of this server"}, 400)
            await refused(scope, receive, send)
            return
        path = unquote(raw.replace("%2F", "%1F").replace("%2f", "%1f"))
        await self.app({**scope, "path": path}, receive, send)

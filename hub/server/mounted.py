"""Below which path of a proxy this Hub is shown, so that the addresses in its answers lead there.

A proxy at `https://lab.example/hub/` takes `/hub` away before it passes a request on. Where it says
so (`X-Forwarded-Prefix`), or the server was told the whole address, the path is put back: what
clients are given to send files to, pages and redirections all begin with it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from usermirrorer.builders.common.errors import UserError

_Call = Callable[..., Awaitable[Any]]
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+){1,16}")
_LONGEST = 256


class Mounted:
    """ASGI middleware that puts a request's path behind the proxy's.

    Args:
        app: What comes next.
        address: The whole address, where the server was told it.
    """

    def __init__(self, app: _Call, address: str = "") -> None:
        self.app, self.address = app, urlsplit(address)

    async def __call__(self, scope: dict[str, Any], receive: _Call, send: _Call) -> None:
        """Pass the request on as it came to the proxy."""
        if scope["type"] == "http":
            scope = _named(scope, self.address)
            if prefix := _told(scope) or self.address.path.rstrip("/"):
                # What routes are found by; `addresses.asked_path` stays the path of this server.
                scope = {**scope, "path": prefix + scope["path"], "root_path": prefix}
        await self.app(scope, receive, send)


def _named(scope: dict[str, Any], address: SplitResult) -> dict[str, Any]:
    """Return a request that names the host which the server was told, if it was."""
    if not address.netloc:
        return scope
    others = [pair for pair in scope["headers"] if pair[0] != b"host"]
    named = (b"host", address.netloc.encode())
    return {**scope, "scheme": address.scheme, "headers": [named, *others]}


def _told(scope: dict[str, Any]) -> str:
    """Return the path that the proxy says it took away, "" if it says none or no path."""
    given = [value for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
    path = given[0].decode("latin-1").rstrip("/") if len(given) == 1 else ""
    return path if len(path) <= _LONGEST and _PREFIX.fullmatch(path) else ""


def split_names(names: Iterable[str]) -> tuple[list[str], str]:
    """Return the hosts of names and addresses, and the address if there is one.

    Raises:
        UserError: if an address is none, or there are two.
    """
    hosts, addresses = [], []
    for name in names:
        parts = urlsplit(name if "://" in name else f"//{name}")
        path, whole = parts.path.rstrip("/"), parts.scheme in ("http", "https")
        good = bool(parts.hostname) and not (parts.query or parts.fragment)
        if not good or not (whole or not (parts.scheme or path)):
            raise UserError("is no name", where=f"--name {name}", fix="Give https://HOST/PATH.")
        if path and not _PREFIX.fullmatch(path):
            raise UserError("is no path", where=f"--name {name}", fix="Give https://HOST/PATH.")
        hosts.append(str(parts.hostname))
        addresses += [name.rstrip("/")] if whole else []
    if len(addresses) > 1:
        raise UserError("one address is possible", where=f"--name {addresses[1]}")
    return hosts, "".join(addresses)

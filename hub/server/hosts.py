"""Which names this server answers to.

A page of anybody can let a browser ask `http://its-own.name:7861/`, with that name resolved to this
machine: the browser then takes the answers for that page's own. Such requests name their host.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi.responses import JSONResponse

from usermirrorer.builders.common.network import is_loopback

_Call = Callable[..., Awaitable[Any]]


class Hosts:
    """ASGI middleware that answers 421 to requests meant for somebody else.

    Args:
        app: What comes next.
        listens: The address on which the server listens. If others than this machine reach it,
            it answers to every numeric address and to the machine's own name as well.
        names: More names, e.g. that of a proxy before it.
    """

    def __init__(self, app: _Call, listens: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self.app, self.local = app, is_loopback(listens)
        own = {"localhost", listens.lower(), *(name.lower() for name in names)}
        if not self.local:
            own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.names = own

    async def __call__(self, scope: dict[str, Any], receive: _Call, send: _Call) -> None:
        """Pass a request on if it is meant for this server."""
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"host"]
            if len(given) > 1 or (not given and scope["http_version"] != "1.0"):
                await _refuse(400, "A request names one host", scope, receive, send)
                return
            if given and not self.knows(given[0].decode("latin-1")):
                message = "This Hub does not answer to this name (see `hub serve --name`)"
                await _refuse(421, message, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def knows(self, header: str) -> bool:
        """Say whether a `Host` header means this server; the port may be a tunnel's."""
        name, colon, port = header.rpartition(":")
        if not colon or header.endswith("]"):
            name, port = header, ""
        if port and not (port.isascii() and port.isdecimal()):
            return False
        name = name.lower().removesuffix(".")
        if name in self.names or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return address.is_loopback or not self.local


async def _refuse(
    status: int, message: str, scope: dict[str, Any], receive: _Call, send: _Call
) -> None:
    await JSONResponse({"error": message}, status)(scope, receive, send)

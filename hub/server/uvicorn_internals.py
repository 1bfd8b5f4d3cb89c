"""All that the local Hub knows of uvicorn's inside: its protocol class and how it reads bodies.

uvicorn lets a protocol class be chosen (`Config(http=...)`), but has no public way to take a
connection over, nor to set how much of a body it buffers. `tests/test_private_names.py` says which
name is gone when an upgrade of uvicorn changes this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Where a request's cycle, and in it the connection, is found in its scope.
_EXTENSION = "usermirrorer.cycle"


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which shows the application the connection of an upload (a PUT)."""

    def on_headers_complete(self) -> None:
        """Put the connection into the request's scope."""
        super().on_headers_complete()
        if self.scope["method"] == "PUT":
            extensions: dict[str, Any] = {_EXTENSION: self.cycle}
            self.scope["extensions"] = extensions  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class Connection:
    """The connection of a request whose body uvicorn has not read to the end."""

    cycle: RequestResponseCycle

    @property
    def is_encrypted(self) -> bool:
        """Whether its bytes come through TLS, so that the socket's own are of no use."""
        return self.cycle.transport.get_extra_info("sslcontext") is not None

    @property
    def is_closing(self) -> bool:
        """Whether the client, or the server, has ended it."""
        return self.cycle.transport.is_closing()

    def take_over(self) -> tuple[int, bytes]:
        """Keep uvicorn from reading the rest of the body; it closes the connection afterwards.

        Returns:
            A descriptor of the socket, which the caller closes, and the bytes read so far.
        """
        self.cycle.flow.pause_reading()
        # The parser will never see the end of this body: no further request on this connection.
        self.cycle.keep_alive = False
        first, self.cycle.body = bytes(self.cycle.body), bytearray()
        # A descriptor of its own: the loop may close the socket, and its number be given out again.
        return os.dup(self.cycle.transport.get_extra_info("socket").fileno()), first


def connection_of(scope: Mapping[str, Any]) -> Connection | None:
    """Return the connection of a request, None if another protocol class serves it."""
    cycle = scope.get("extensions", {}).get(_EXTENSION)
    return None if cycle is None else Connection(cycle)


def buffer_bodies(limit: int) -> None:
    """Let this process buffer about `limit` bytes of each body before it pauses the client.

    With uvicorn's 64 KiB every read is followed by a pause, and by memory given back and taken
    anew: half the speed.
    """
    httptools_impl.HIGH_WATER_LIMIT = limit

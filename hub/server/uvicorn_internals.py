"""All that the local Hub knows of uvicorn's inside: its protocol class and how it reads bodies.

uvicorn lets a protocol class be chosen (`Config(http=...)`), but has no public way to take a
connection over, to set how much of a body it buffers, or to limit how long a client takes for the
head of a request, how long that head is, and how many connections stand about.
`tests/test_private_names.py` says which name is gone when an upgrade of uvicorn changes this.
"""

from __future__ import annotations

import asyncio
import http
import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Where a request's cycle, and in it the connection, is found in its scope.
_EXTENSION = "usermirrorer.cycle"


#: Seconds for the head of a request, and bytes of it (llhttp has no limit); seconds in which
#: something of a body must come, or of an answer be taken.
HEAD_SECONDS, HEAD_BYTES, STILL_SECONDS = 20, 64 << 10, 90
#: Bytes of a body after which its client counts as one that moves.
STEP = 64 << 10
#: Connections at the same time; files and SQLite need descriptors as well.
CONNECTIONS = 2000
_DESCRIPTORS_LEFT = 512


def connection_limit() -> int:
    """Raise the limit of open files as far as it goes; return how many may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + _DESCRIPTORS_LEFT  # an upload takes two
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    spare = soft if soft != resource.RLIM_INFINITY else wanted
    return max(16, min(CONNECTIONS, (spare - _DESCRIPTORS_LEFT) // 2))


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits, which shows the application the connection of an upload.

    When there are too many, a connection on which no request is going on gives way to a new one,
    else the one that has waited longest for its client: for more of a body, or to take the answer.
    """

    most = CONNECTIONS
    #: All connections on which no request is going on, the oldest first.
    idle: ClassVar[dict[Protocol, None]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request; make room if there are too many."""
        super().connection_made(transport)
        self.watch: asyncio.TimerHandle | None = None
        self.body_bytes, self.still = 0, (0, 0)
        self.moved, self.moved_bytes = self.loop.time(), 0
        self._wait_for_head()
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        given_up = next(iter(self.idle))
        if given_up is self:
            others = (one for one in self.connections if isinstance(one, Protocol))
            waiting = (one for one in others if one.waits_for_client)
            given_up = min(waiting, key=lambda one: one.moved, default=self)
        given_up.transport.abort()
        self.connections.discard(given_up)
        self.idle.pop(given_up, None)

    @property
    def waits_for_client(self) -> bool:
        """Whether a request is going on that the client holds up."""
        if self in self.idle or self.cycle is None:
            return False
        return self._reads() or self.flow.write_paused

    def _reads(self) -> bool:
        cycle = self.cycle
        return cycle.more_body and not self.flow.read_paused and not cycle.response_started

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_watch()
        self.idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head, which may have no end."""
        if self.in_head:
            self.head_bytes += len(data)
        super().data_received(data)
        if self.in_head and self.head_bytes > HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Begin to wait for the head of the next request on this connection."""
        super().on_message_begin()
        self.in_head, self.head_bytes = True, 0
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Put the connection into the request's scope."""
        self.in_head = False
        self.idle.pop(self, None)
        super().on_headers_complete()
        self._watch(STILL_SECONDS / 3, self._look)
        self.moved, self.moved_bytes = self.loop.time(), self.body_bytes
        if self.scope["method"] == "PUT":
            extensions: dict[str, Any] = {_EXTENSION: self.cycle}
            self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def on_body(self, body: bytes) -> None:
        """Note that something came."""
        self.body_bytes += len(body)
        if self.body_bytes - self.moved_bytes >= STEP:
            self.moved, self.moved_bytes = self.loop.time(), self.body_bytes
        super().on_body(body)

    def pause_writing(self) -> None:
        """Note since when the client does not take the answer."""
        self.moved = self.loop.time()
        super().pause_writing()

    def on_response_complete(self) -> None:
        """Count the connection as idle until the next request."""
        super().on_response_complete()
        self._stop_watch()
        if self.transport.is_closing():
            return
        self.idle[self] = None

    def _wait_for_head(self) -> None:
        self.in_head, self.head_bytes = True, 0
        self.idle[self] = None
        self._watch(HEAD_SECONDS, lambda: self._refuse(408))

    def _watch(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_watch()
        self.watch = self.loop.call_later(seconds, then)

    def _stop_watch(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    def _look(self, times: int = 0) -> None:
        """Let a client go that sends nothing of its body, or takes nothing of the answer."""
        unsent = self.transport.get_write_buffer_size()
        still = (self._reads() or unsent > 0) and self.still == (self.body_bytes, unsent)
        self.still = (self.body_bytes, unsent)
        if still and times >= 2:
            self.transport.abort()
            return
        self._watch(STILL_SECONDS / 3, lambda: self._look(times + 1 if still else 0))

    def _refuse(self, status: int) -> None:
        phrase = http.HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode())
            self.transport.close()


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

"""Receive a large body straight from its socket, past the web server.

uvicorn hands a body over in pieces that were copied four times under the interpreter's lock: of
gigabytes that costs more than to hash and to store them. Here a thread reads from the connection
into one buffer, hashes and writes; the event loop leaves the connection alone meanwhile, and
closes it after the answer.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from usermirrorer.hub.server import objects
from usermirrorer.hub.server.uvicorn_internals import connection_of

#: Uploads at the same time that get a thread; others go the ordinary way, so that many slow clients
#: cannot take all threads. And seconds without a byte after which a client counts as gone.
_THREADS, _PATIENCE = 8, 60


async def receive(request: Request, incoming: objects.Incoming) -> bool:
    """Receive the whole body of a request into `incoming`, if that is possible this way.

    Returns:
        False if it is not, and nothing was read: it has no known length, waits for a go-ahead,
        comes encrypted, or too many come at once.

    Raises:
        ClientDisconnect: if the client is gone before the end.
        WrongContent: see `objects.Incoming`.
    """
    connection = connection_of(request.scope)
    running: set[threading.Event] = request.app.state.uploads
    if (
        connection is None
        or not request.headers.get("content-length", "").isdecimal()
        or "expect" in request.headers
        or connection.is_encrypted
        or len(running) >= _THREADS
    ):
        return False
    if connection.is_closing:
        raise ClientDisconnect
    handle, first = connection.take_over()
    length, stop = int(request.headers["content-length"]), threading.Event()
    running.add(stop)  # nothing was awaited since they were counted: there are never more
    try:
        alone = CapacityLimiter(1)  # one of its own, as none of these waits for another
        await to_thread.run_sync(
            _receive_rest, handle, first, length, incoming, stop, limiter=alone
        )
    finally:
        running.discard(stop)
        stop.set()  # the server ends, and does not wait for a client that stands still
    return True


def _receive_rest(
    handle: int, first: bytes, length: int, incoming: objects.Incoming, stop: threading.Event
) -> None:
    try:
        incoming.write(first)
        left, buffer = length - len(first), memoryview(bytearray(objects.BLOCK))
        while left:
            _wait(handle, stop)
            with contextlib.suppress(BlockingIOError):
                count = os.readv(handle, [buffer[: min(left, len(buffer))]])
                if not count:
                    raise ClientDisconnect
                incoming.write(buffer[:count])
                left -= count
    except ConnectionError:
        raise ClientDisconnect from None
    finally:
        os.close(handle)


def _wait(handle: int, stop: threading.Event) -> None:
    """Wait until there is something to read, or the end.

    Raises:
        ClientDisconnect: if nothing came for too long, or the server ends.
    """
    readable = select.poll()
    readable.register(handle, select.POLLIN)
    for _ in range(_PATIENCE):
        if readable.poll(1000):
            return
        if stop.is_set():
            break
    raise ClientDisconnect

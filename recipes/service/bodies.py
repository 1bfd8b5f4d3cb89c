"""Limits of what is read of a request, before any of it is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from usermirrorer.recipes.service.errors import failure

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Bytes of a body, seconds in which it comes.
LARGEST, SECONDS = 1 << 20, 30


class Bounded:
    """Reads a body whole before the application sees it: not too much, not too slowly.

    Args:
        app: The application.
        largest: Bytes.
        seconds: In which all of it must come.
    """

    def __init__(self, app: App, largest: int = LARGEST, seconds: float = SECONDS) -> None:
        self.app, self.largest, self.seconds = app, largest, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            await failure(408, "the request came too slowly")(scope, receive, send)
            return
        if body is None:
            text = f"the request has more than {self.largest:,} bytes"
            await failure(413, text, close=True)(scope, receive, send)
            return
        given = False

        async def again() -> Event:
            nonlocal given
            if given:
                return await receive()  # that the client has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if it is too large."""
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.largest:
            return None
        body, more = bytearray(), True
        while more:
            event = await receive()
            if event["type"] != "http.request":
                return b""  # the client has gone
            body += event.get("body", b"")
            more = event.get("more_body", False)
            if len(body) > self.largest:
                return None
        return bytes(body)

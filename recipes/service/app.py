"""Put the service together."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.service import chat, choosing, pages
from usermirrorer.recipes.service.batches import Batches, Busy, Closed
from usermirrorer.recipes.service.bodies import LARGEST, App, Bounded, Receive, Scope, Send
from usermirrorer.recipes.service.errors import failure, public, told
from usermirrorer.recipes.simulator import Simulator

_log = logging.getLogger("usermirrorer.service")
#: Names by which a service that listens on this machine alone may be called: a page elsewhere
#: whose name was made to point here is none of them.
_HERE = ["localhost", "127.0.0.1", "[::1]"]


def create_app(
    simulator: Simulator,
    *,
    name: str = "",
    token: str = "",
    origins: Sequence[str] = (),
    most_waiting: int = 256,
    guided: bool = False,
    largest: int = LARGEST,
    loopback: bool = True,
) -> FastAPI:
    """Return the application that serves a simulator.

    Args:
        simulator: What answers.
        name: What the model is called.
        token: What requests under `/v1` must carry; "" for none.
        origins: Pages elsewhere that may ask, such as `https://me-simulator.static.hf.space`.
        most_waiting: Questions that may wait; more are refused with 429.
        guided: Force the headings where a request does not say.
        largest: Bytes of a request.
        loopback: It listens on this machine alone: other names than its own are refused.
    """
    batches = Batches(simulator, most_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batches.close()

    app = FastAPI(
        title="UserMirrorer simulator",
        summary="What would this person choose?",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.batches, app.state.name = batches, name or simulator.name
    app.state.token, app.state.guided, app.state.started = token, guided, int(time.time())
    for routes in (choosing.routes, chat.routes, pages.routes):
        app.include_router(routes)
    app.add_api_route("/health", _health, summary="Whether it answers")
    _add_errors(app)
    _add_guards(app, token, origins, largest, loopback)
    return app


async def _health(request: Request) -> Response:
    """Say whether questions are answered, and how many wait."""
    batches: Batches = request.app.state.batches
    body = {"status": "ok", "waiting": batches.waiting, "working": batches.working}
    return JSONResponse(body if batches.alive else {**body, "status": "stopping"},
                        200 if batches.alive else 503)  # fmt: skip


class _SignedIn:
    """Lets requests under `/v1` pass that carry the token.

    Not a function for `app.middleware`: behind one, nothing sees that a client has gone.
    """

    def __init__(self, app: App, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and self.token and scope["path"].startswith("/v1/"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            kind, _, secret = given.partition(b" ")
            right = hmac.compare_digest(secret.strip(), self.token.encode())
            if kind.lower() != b"bearer" or not right:
                text = "a token is needed: Authorization: Bearer ..."
                await failure(401, text, code="invalid_api_key")(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _add_guards(
    app: FastAPI, token: str, origins: Sequence[str], largest: int, loopback: bool
) -> None:
    """Add what a request meets before anything reads it; the last one added is the first."""
    app.add_middleware(Bounded, largest=largest)  # type: ignore[arg-type]
    app.add_middleware(_SignedIn, token=token)  # type: ignore[arg-type]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["retry-after"],
        )
    if loopback:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HERE, www_redirect=False)


def _add_errors(app: FastAPI) -> None:
    def of_user(_: Request, error: Any) -> Response:
        return failure(400, public(error))

    def malformed(_: Request, error: Any) -> Response:
        message, param = told(list(error.errors()))
        return failure(400, message, param=param)

    def busy(_: Request, error: Any) -> Response:
        return failure(429, str(error), code="queue_full", retry_after=error.seconds)

    def closed(_: Request, error: Any) -> Response:
        return failure(503, "the service is stopping", retry_after=5)

    def other(_: Request, error: Any) -> Response:
        return failure(error.status_code, str(error.detail))

    def broken(_: Request, error: Any) -> Response:
        _log.error("a request failed: %s", type(error).__name__)  # its text may hold the request's
        return failure(500, "the engine failed")

    for kind, answer in (
        (UserError, of_user),
        (RequestValidationError, malformed),
        (Busy, busy),
        (Closed, closed),
        (HTTPException, other),
        (Exception, broken),
    ):
        app.add_exception_handler(kind, answer)

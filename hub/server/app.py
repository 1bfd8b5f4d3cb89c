"""Put the HTTP surface together and serve it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from usermirrorer.hub.server import (
    addresses,
    api_content,
    api_repos,
    collections,
    history,
    objects,
    pages,
    results,
    xet,
)
from usermirrorer.hub.server.access import HubError
from usermirrorer.hub.server.store import Store
from usermirrorer.hub.server.uvicorn_internals import Protocol, buffer_bodies


def create_app(root: Path) -> FastAPI:
    """Return the application that serves the folder `root`.

    Raises:
        UserError: if another process serves it.
    """
    store = Store(root)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(title="UserMirrorer local Hub", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.store = store
    app.state.uploads = set()
    app.add_exception_handler(HubError, error_response)  # type: ignore[arg-type]
    for error, status, code in (
        (history.Conflict, 412, ""),
        (history.Missing, 404, "EntryNotFound"),
        (history.BadName, 400, ""),
        (objects.WrongContent, 422, ""),
    ):
        app.add_exception_handler(error, _handler(status, code))

    app.add_exception_handler(objects.OutsideRange, _outside)

    @app.get("/healthz", include_in_schema=False)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    app.include_router(collections.router)  # before the routes that take any second segment
    app.include_router(api_repos.router)
    app.include_router(api_content.router)
    app.include_router(xet.router)
    app.include_router(results.router)
    app.include_router(pages.router)
    app.add_middleware(addresses.Segments)
    return app


def error_response(request: Request, error: HubError) -> Response:
    """Turn a HubError into a page for browsers, into JSON and the X-Error headers for clients."""
    if "text/html" in request.headers.get("accept", ""):
        return pages.error_page(request, error)
    message = "".join(c if " " <= c <= "~" else "?" for c in error.message)[:300].strip()
    headers = {"X-Error-Message": message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return JSONResponse({"error": error.message}, error.status, headers)


def _handler(status: int, code: str) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        taken = status == 412 and "/commit/" not in request.url.path
        return error_response(request, HubError(409 if taken else status, str(error), code))

    return handle


def _outside(request: Request, error: Exception) -> Response:
    refused = HubError(416, "The range lies outside", **{"Content-Range": f"bytes */{error}"})
    return error_response(request, refused)


def configuration(root: Path, host: str = "127.0.0.1", port: int = 7861) -> uvicorn.Config:
    """Return the uvicorn configuration that serves the folder `root`.

    Raises:
        UserError: if another process serves it.
    """
    buffer_bodies(2 * objects.BLOCK)  # where `uploads.py` does not apply
    return uvicorn.Config(
        create_app(root),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        http=Protocol,
    )

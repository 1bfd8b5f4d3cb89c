"""Put the HTTP surface together and serve it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from usermirrorer.hub.server import access, addresses, history, objects
from usermirrorer.hub.server.access import HubError
from usermirrorer.hub.server.store import Store


def create_app(root: Path) -> FastAPI:
    """Return the application that serves the folder `root`.

    Raises:
        UserError: if another process serves it.
    """
    from usermirrorer.hub.server import api_content, api_repos, collections, pages, results, xet

    store = Store(root)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(title="UserMirrorer local Hub", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.store = store
    app.state.uploads = set()
    app.add_exception_handler(HubError, access.error_response)  # type: ignore[arg-type]
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


def _handler(status: int, code: str) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        taken = status == 412 and "/commit/" not in request.url.path
        return access.error_response(request, HubError(409 if taken else status, str(error), code))

    return handle


def _outside(request: Request, error: Exception) -> Response:
    refused = HubError(416, "The range lies outside", **{"Content-Range": f"bytes */{error}"})
    return access.error_response(request, refused)


def configuration(root: Path, host: str = "127.0.0.1", port: int = 7861) -> Any:
    """Return the uvicorn configuration that serves the folder `root`.

    Raises:
        UserError: if another process serves it.
    """
    import uvicorn
    from uvicorn.protocols.http import httptools_impl

    from usermirrorer.hub.server import uploads

    # Bytes of a body that wait for us, where `uploads.py` does not apply. With 64 KiB every
    # read is followed by a pause and by memory given back and taken anew: half the speed.
    httptools_impl.HIGH_WATER_LIMIT = 2 * objects.BLOCK
    return uvicorn.Config(
        create_app(root),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        http=uploads.Protocol,
    )

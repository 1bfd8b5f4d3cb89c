"""Put the HTTP surface together and serve it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pygit2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.server import (
    access,
    addresses,
    api_content,
    api_repos,
    clones,
    collections,
    copies,
    disk,
    grants,
    history,
    hosts,
    mounted,
    not_here,
    objects,
    pages,
    people,
    results,
    rewriting,
    turns,
    weights,
    xet,
)
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.store import Store
from usermirrorer.hub.server.uvicorn_internals import Protocol, buffer_bodies, connection_limit

_log = logging.getLogger("usermirrorer.hub")


def create_app(root: Path, host: str = "127.0.0.1", names: Iterable[str] = ()) -> FastAPI:
    """Return the application that serves the folder `root`.

    Args:
        root: The folder.
        host: The address on which it will listen.
        names: More names by which it may be called; one may be the whole address of a proxy.

    Raises:
        UserError: if another process serves it, or a name is none.
    """
    called, address = mounted.split_names(names)
    store = Store(root)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(0.001)  # the loop waits so long for each thread that computes
        reading = asyncio.create_task(_read_old(store))
        yield
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        store.close()

    app = FastAPI(title="UserMirrorer local Hub", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.store = store
    app.state.uploads = set()
    app.state.repositories = turns.Repositories()
    app.state.clones = asyncio.Semaphore(clones.CLONES)
    _answer_errors(app)

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    _route(app)
    app.add_middleware(mounted.Mounted, address=address)
    app.add_middleware(turns.Turns, refuse=error_response)
    app.add_middleware(addresses.Segments)
    app.add_middleware(hosts.Hosts, listens=host, names=called)
    return app


def _route(app: FastAPI) -> None:
    """Add the routes; of those that fit an address the first answers."""
    for router in (
        not_here.first,
        collections.router,  # before the routes that take any second segment
        api_repos.router,
        api_content.router,
        xet.router,
        results.router,
        grants.router,
        copies.router,
        rewriting.router,
        people.router,
        weights.router,
        clones.router,
        not_here.router,  # behind all of the API, before pages of any two names
        pages.router,
    ):
        app.include_router(router)


def _answer_errors(app: FastAPI) -> None:
    """Give each exception of the modules below its status."""
    app.add_exception_handler(HubError, error_response)  # type: ignore[arg-type]
    for error, status, code in (
        (history.Conflict, 412, ""),
        (history.NameTaken, 409, ""),
        (history.Missing, 404, "EntryNotFound"),
        (history.BadName, 400, ""),
        (objects.WrongContent, 422, ""),
        (ClientDisconnect, 400, ""),  # nobody hears it: no failure of the server
    ):
        app.add_exception_handler(error, _handler(status, code))
    app.add_exception_handler(objects.OutsideRange, _outside)
    for failure in (OSError, sqlite3.Error, pygit2.GitError, KeyError, UserError):
        app.add_exception_handler(failure, _not_stored)
    for no_value in (OverflowError, UnicodeError):  # numbers and texts that cannot be stored
        app.add_exception_handler(no_value, _no_value)


async def _read_old(store: Store) -> None:
    """Read what listings need of repositories that an older version has written."""
    with contextlib.suppress(Exception):  # who asks for them is told
        for record in await asyncio.to_thread(store.repos):
            git = store.folder(record) / "git"
            await asyncio.to_thread(_remember, git, record.full_name)


def _remember(git: Path, name: str) -> None:
    try:
        results.remember(history.open_(git))
    except Exception:  # whatever lies in a repository, the server goes on
        _log.exception("repository %s cannot be read", name)


def error_response(request: Request, error: HubError) -> Response:
    """Turn a HubError into a page for browsers, into JSON and the X-Error headers for clients."""
    error.message = _for_others(request, error.message)
    if error.status >= 400 and "text/html" in request.headers.get("accept", ""):
        return pages.error_page(request, error)
    message = "".join(c if " " <= c <= "~" else "?" for c in error.message)[:300].strip()
    headers = {"X-Error-Message": message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return JSONResponse({"error": error.message}, error.status, headers)


def _for_others(request: Request, message: str) -> str:
    """Return a message without what cannot be sent, or is nobody's business: where things lie."""
    state = getattr(request.scope.get("app"), "state", None)
    root = str(state.store.root) if state is not None else ""
    message = message.encode(errors="replace").decode()
    return message.replace(root, "...") if root else message


def _no_value(request: Request, _: Exception) -> Response:
    return error_response(request, HubError(400, "A number or text that cannot be stored"))


def _handler(status: int, code: str) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        return error_response(request, HubError(status, str(error), code))

    return handle


def _outside(request: Request, error: Exception) -> Response:
    refused = HubError(416, "The range lies outside", **{"Content-Range": f"bytes */{error}"})
    return error_response(request, refused)


def _not_stored(request: Request, error: Exception) -> Response:
    """Say which of what is nobody's fault it was: all else is a failure of the server.

    The disk is full or cannot be written, a repository was deleted meanwhile, others were writing
    the accounts all the time.
    """
    if isinstance(error, UserError):  # accounts that are missing or broken by now
        return error_response(request, HubError(503, error.what))
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return error_response(request, turns.busy("Somebody else's write takes long"))
    if not isinstance(error, sqlite3.Error) and _is_gone(request):
        return error_response(request, HubError(404, "Repository not found", "RepoNotFound"))
    if not (why := disk.refusal(error)):
        raise error
    return error_response(request, HubError(507, why))


def _is_gone(request: Request) -> bool:
    """Say whether a repository is there no more; its name may be another's by now.

    One that is being deleted loses its folder first, then its record.
    """
    store = store_of(request)
    ids = {*access.seen(request), request.path_params.get("repo_id", 0)} - {0}
    records = [store.repos("id = ?", (one,)) for one in ids]
    return not all(one and store.folder(one[0]).exists() for one in records)


def configuration(
    root: Path, host: str = "127.0.0.1", port: int = 7861, names: Iterable[str] = ()
) -> uvicorn.Config:
    """Return the uvicorn configuration that serves the folder `root`.

    Args:
        root: The folder.
        host: Address to listen on.
        port: Port to listen on.
        names: More names by which clients may call it, e.g. of a proxy before it.

    Raises:
        UserError: if another process serves it.
    """
    buffer_bodies(2 * objects.BLOCK)  # where `uploads.py` does not apply
    Protocol.most = connection_limit()
    return uvicorn.Config(
        create_app(root, host, names),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        http=Protocol,
    )

"""What the routes share: from an address to a repository and its commit; times, pages of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import pygit2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from usermirrorer.hub.server import history
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.addresses import asked_path
from usermirrorer.hub.server.store import KINDS, Repo

_Function = TypeVar("_Function", bound=Callable[..., Any])
#: Of what is read, and of what is refused however it is asked for.
READING = ("GET", "HEAD")
ALL_METHODS = (*READING, "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def routes(
    router: APIRouter, methods: Iterable[str], *paths: str
) -> Callable[[_Function], _Function]:
    """Add a function at addresses; each method is a route of its own, as the OpenAPI names them."""

    def add(function: _Function) -> _Function:
        for path in paths:
            for method in methods:
                router.add_api_route(path, function, methods=[method])
        return function

    return add


def kind_of(kinds: str) -> str:
    """Return `dataset` for `datasets`, and so on.

    Raises:
        HubError: 404 for anything else.
    """
    if kinds.removesuffix("s") not in KINDS or not kinds.endswith("s"):
        raise HubError(404, "Not found")
    return kinds.removesuffix("s")


def open_repo(request: Request, repo: Repo) -> pygit2.Repository:
    """Open a repository's history.

    Raises:
        HubError: RepoNotFound if it was deleted meanwhile, or is damaged.
    """
    try:
        return history.open_(store_of(request).folder(repo) / "git")
    except pygit2.GitError:
        raise HubError(404, "Repository not found, or damaged", "RepoNotFound") from None


def commit_of(repo: pygit2.Repository, revision: str) -> pygit2.Commit:
    """Return the commit that `revision` names.

    Raises:
        HubError: RevisionNotFound.
    """
    commit = history.resolve(repo, revision)
    if commit is None:
        raise HubError(404, f"Invalid rev id: {revision[:100]}", "RevisionNotFound")
    return commit


def iso(seconds: float) -> str:
    """Return a time as the Hub writes it, e.g. `2026-01-31T12:00:00.000Z`."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def link_to_next(request: Request, **changed: str) -> str:
    """Return the Link header that leads from a page of rows to the next.

    Args:
        request: What asked for this page.
        changed: Parameters of its query that are others for the next.
    """
    kept = [item for item in request.query_params.multi_items() if item[0] not in changed]
    query = urlencode([*kept, *changed.items()])
    base = str(request.base_url).rstrip("/")
    return f'<{base}{asked_path(request.scope)}?{query}>; rel="next"'


def root_of(request: Request) -> str:
    """Return the path of a proxy below which this server is shown, "" without one."""
    return str(request.scope.get("root_path", ""))


def web_url(request: Request, kind: str, full_name: str) -> str:
    """Return the address of a repository's web page."""
    prefix = "" if kind == "model" else f"{kind}s/"
    return f"{str(request.base_url).rstrip('/')}/{prefix}{full_name}"


def page(
    request: Request,
    rows: list[Any],
    size: int = 1000,
    complete: Callable[[list[Any]], None] | None = None,
) -> JSONResponse:
    """Return one page of `rows`, with the Link header that leads to the next.

    Args:
        request: What asked for it.
        rows: All rows.
        size: Most rows of a page.
        complete: Adds to the rows of the page what would cost too much to work out for all.
    """
    query = request.query_params
    number = int(query["p"][:12]) if query.get("p", "").isdecimal() else 0
    if query.get("limit", "").isdecimal():
        size = max(1, min(size, int(query["limit"][:6])))
    headers = {"X-Total-Count": str(len(rows))}
    if (number + 1) * size < len(rows):
        headers["Link"] = link_to_next(request, p=str(number + 1))
    shown = rows[number * size : (number + 1) * size]
    if complete is not None:
        complete(shown)
    return JSONResponse(shown, headers=headers)

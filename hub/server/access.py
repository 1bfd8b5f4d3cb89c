"""Who may read and write, and the errors in the form that the clients understand."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server.addresses import asked_path
from usermirrorer.hub.server.foreign_json import plain_json
from usermirrorer.hub.server.store import KINDS, Repo, Store, User, valid_name

#: Where a browser keeps its session, see `pages.py`.
COOKIE = "usermirrorer_session"
#: JSON from this length on is not read between other requests.
_LONG = 64 << 10


class HubError(Exception):
    """An answer other than success; `code` is the X-Error-Code that clients map to exceptions."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


def store_of(request: Request) -> Store:
    """Return the opened folder of this server."""
    return request.app.state.store


def visitor(request: Request) -> User | None:
    """Return who asks, None without a token.

    A signed-in browser may read, nothing else; so may whoever says a token as git does, as the
    password of a name: browsers do that too, and for pages that other sites make them ask for.

    Raises:
        HubError: 401 if there is a token that is not (or no longer) valid.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not scheme:
        kept = request.cookies.get(COOKIE) if request.method in ("GET", "HEAD") else None
        return store_of(request).session(kept) if kept else None
    basic = scheme.lower() == "basic"
    if basic:
        token = _password(token)
    user = store_of(request).user(token.strip()) if basic or scheme.lower() == "bearer" else None
    if user is not None and basic:
        user = replace(user, role="read")
    if user is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return user


def _password(credentials: str) -> str:
    """Return the password of `name:password` in base64, "" if it is not that."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def signed_in(request: Request, *, write: bool = False) -> User:
    """Return who asks.

    Raises:
        HubError: 401 without a token, 403 if writing with a read token.
    """
    user = visitor(request)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    if write and user.role != "write":
        raise HubError(403, "This token can only read. Use one with the role 'write'.")
    return user


def owned_namespace(request: Request, namespace: str) -> User:
    """Return who asks if they may write to `namespace`.

    Raises:
        HubError: 401 or 403 if not.
    """
    user = signed_in(request, write=True)
    if user.name.lower() != namespace.lower():
        raise HubError(403, f"{user.name} has no rights to write to the namespace {namespace}")
    return user


def readable(
    request: Request, kind: str, namespace: str, name: str, *, files: bool = False
) -> Repo:
    """Return a repository that the visitor may see; `files`: whose files they may read.

    A private repository of somebody else looks as if it did not exist.

    Raises:
        HubError: RepoNotFound or GatedRepo.
    """
    user, store = visitor(request), store_of(request)
    repo = None
    if kind in KINDS and valid_name(namespace) and valid_name(name):
        repo = store.find(kind, namespace, name)
        if repo is None and (moved := store.moved(kind, namespace, name)):
            check(store, moved, user)
            _lead_on(request, namespace, name, moved)
    repo = check(store, repo, user, files=files)
    request.state.seen = [*seen(request), repo.id]
    return repo


def seen(request: Request) -> list[int]:
    """Return the ids of the repositories that were there when this request asked for them."""
    return list(getattr(request.state, "seen", ()))


def check(store: Store, repo: Repo | None, user: User | None, *, files: bool = False) -> Repo:
    """Return the repository if this user may see it, and with `files` read its files.

    Raises:
        HubError: RepoNotFound or GatedRepo.
    """
    owner = repo is not None and user is not None and user.name.lower() == repo.namespace.lower()
    if repo is None or (repo.private and not owner):
        raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
    if files and repo.gated and not owner and not _let_in(store, repo, user):
        raise HubError(
            403 if user else 401, f"Access to {repo.full_name} is restricted", "GatedRepo"
        )
    return repo


def _let_in(store: Store, repo: Repo, user: User | None) -> bool:
    """Say whether a user may read a gated repository: who was let in, with `auto` whoever asks."""
    if user is None:
        return False
    status = store.grant(repo, user.name)
    return status == "accepted" or (status is None and repo.gated == "auto")


def _lead_on(request: Request, namespace: str, name: str, repo: Repo) -> None:
    """Send the request to the repository's present name, if its address has the one of before.

    Raises:
        HubError: 307, with the new address.
    """
    params = request.path_params
    in_address = str(params.get("name")).removesuffix(".git")  # git says it with its ending
    if (params.get("namespace"), in_address) != (namespace, name):
        return  # the name came in a body
    segments = asked_path(request.scope).split("/")
    at = 1 if "kinds" not in params else 3 if segments[1] == "api" else 2
    ending = ".git" if segments[at + 1].endswith(".git") else ""
    segments[at : at + 2] = [repo.namespace, repo.name + ending]
    query = request.scope.get("query_string", b"").decode("latin-1")
    target = "/".join(segments) + (f"?{query}" if query else "")
    raise HubError(307, f"{namespace}/{name} is {repo.full_name} now", Location=target)


def writable(request: Request, kind: str, namespace: str, name: str) -> tuple[Repo, User]:
    """Return a repository that the visitor may change, and who they are.

    Raises:
        HubError: 401, 403 or 404.
    """
    signed_in(request)
    repo = readable(request, kind, namespace, name)
    return repo, owned_namespace(request, repo.namespace)


def bearer(request: Request) -> str:
    """Return what a signed address says of who was given it: the key of a token, or nothing."""
    user = visitor(request)
    return user.key if user else ""


def still_allowed(store: Store, key: str, repo_id: int, *, write: bool = False) -> Repo:
    """Return the repository of a signed address, if who was given it has the right to this day.

    Args:
        store: The opened folder.
        key: What `bearer` said when the address was made.
        repo_id: The repository's number.
        write: Whether the address is for sending files, or for reading them.

    Raises:
        HubError: 403 if the token was revoked or may not write, RepoNotFound, GatedRepo.
    """
    user = store.holder(key) if key else None
    if key and user is None:
        raise HubError(403, "The address is not valid any more: its token was revoked")
    repos = store.repos("id = ?", (repo_id,))
    repo = check(store, repos[0] if repos else None, user, files=not write)
    owner = user is not None and user.name.lower() == repo.namespace.lower()
    if write and (user is None or user.role != "write" or not owner):
        raise HubError(403, "The address is not valid any more")
    return repo


async def json_body(request: Request, limit: int = 1 << 20) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes.

    Raises:
        HubError: 413 if it is longer, 400 if it is not a JSON object.
    """
    text = await body(request, limit) or b"{}"
    try:
        value = plain_json(text) if len(text) < _LONG else await run_in_threadpool(plain_json, text)
    except ValueError:
        raise HubError(400, "The body is not JSON, or not such that it can be stored") from None
    if not isinstance(value, dict):
        raise HubError(400, "The body is not a JSON object")
    return value


async def body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        HubError: 413 if it is longer.
    """
    data = bytearray()
    async for block in request.stream():
        data += block
        if len(data) > limit:
            raise HubError(413, f"The body is longer than {limit} bytes")
    return bytes(data)


async def _payload(request: Request) -> dict[str, Any]:
    return await json_body(request)


#: The JSON object that a request carries, for routes that then work in a thread: asking the
#: accounts may mean to wait for somebody's write, and nobody waits on the event loop.
Payload = Annotated[dict[str, Any], Depends(_payload)]

"""Files: listing, upload (preupload, large files, commit) and download."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pygit2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import (
    access,
    drafts,
    history,
    objects,
    results,
    trees,
    turns,
    uploads,
)
from usermirrorer.hub.server.access import HubError, Payload, store_of
from usermirrorer.hub.server.addresses import REPO, asked_path
from usermirrorer.hub.server.foreign_json import plain_json
from usermirrorer.hub.server.routing import (
    READING,
    commit_of,
    iso,
    kind_of,
    link_to_next,
    open_repo,
    root_of,
    routes,
    web_url,
)
from usermirrorer.hub.server.store import Repo, Store, User

router = APIRouter()

#: Longest commit body, longest line of it (one regular file in base64), and most operations.
COMMIT_LIMIT, LINE_LIMIT, OPERATIONS_LIMIT = 256 << 20, 16 << 20, 50_000
#: Paths or objects that one request may ask about, and paths with the last commit of each.
PATHS_LIMIT, EXPANDED_LIMIT = 10_000, 1000
_BATCH = 256
#: Entries of one page of a listing.
_PAGE = 1000
#: Largest large file, and how long an address is good for at most.
FILE_LIMIT, ADDRESS_SECONDS = 1 << 40, 6 * 3600


@router.get(REPO + "/tree/{revision:ref}")
@router.get(REPO + "/tree/{revision:ref}/{path:below}")
def tree(
    request: Request, *, kinds: str, namespace: str, name: str, revision: str, path: str = ""
) -> JSONResponse:
    """List the files and folders below a path."""
    record = access.readable(request, kind_of(kinds), namespace, name)
    repo = open_repo(request, record)
    commit = commit_of(repo, revision)
    folder = history.entry(repo, commit, path.strip("/"))
    if folder is None or not folder.is_folder:
        raise not_found(commit, path)
    after = _after(request.query_params.get("cursor", ""))
    recursive = _true(request, "recursive")
    try:
        walk = trees.walk(repo, commit, folder.path, recursive=recursive, after=after)
        entries = list(islice(walk, _PAGE + 1))
    except ValueError:
        raise HubError(400, "The cursor is none of this listing") from None
    return _page(request, repo, commit, entries, expand=_true(request, "expand"))


def _after(cursor: str) -> str:
    """Return the path behind which a page begins."""
    try:
        return base64.urlsafe_b64decode(cursor.encode()).decode()
    except ValueError:
        raise HubError(400, "The cursor is none of this listing") from None


def _true(request: Request, key: str) -> bool:
    return request.query_params.get(key, "").lower() in ("1", "true")


def not_found(commit: pygit2.Commit, path: str) -> HubError:
    """Return the error for a path that a commit does not have."""
    message = f"{path[:200]!r} does not exist on this revision"
    return HubError(404, message, "EntryNotFound", **{"X-Repo-Commit": str(commit.id)})


def _page(
    request: Request,
    repo: pygit2.Repository,
    commit: pygit2.Commit,
    entries: list[history.Entry],
    *,
    expand: bool,
    size: int = _PAGE,
) -> JSONResponse:
    part = entries[:size]
    headers = {"X-Repo-Commit": str(commit.id)}
    if size < len(entries):
        cursor = base64.urlsafe_b64encode(part[-1].path.encode()).decode()
        headers["Link"] = link_to_next(request, cursor=cursor)
    return JSONResponse(_rows(repo, commit, part, expand), headers=headers)


def _rows(
    repo: pygit2.Repository,
    commit: pygit2.Commit,
    entries: list[history.Entry],
    expand: bool,
    *,
    for_copies: bool = False,
) -> list[dict[str, Any]]:
    """Describe entries. `for_copies`: with a name of large files where clients want a Xet hash.

    Clients copy between repositories what has one, and hand it back. Listings do not have it: there
    it would make them download by Xet.
    """
    changed = history.last_changes(repo, commit, [e.path for e in entries]) if expand else {}
    rows = []
    for entry in entries:
        row: dict[str, Any] = {
            "type": "directory" if entry.is_folder else "file",
            "oid": entry.oid,
            "size": entry.size,
            "path": entry.path,
        }
        if entry.lfs:
            row["lfs"] = {"oid": entry.lfs[0], "size": entry.lfs[1], "pointerSize": 134}
            if for_copies:
                row["xetHash"] = entry.lfs[0]
        if last := changed.get(entry.path):
            title = last.message.partition("\n")[0]
            row["lastCommit"] = {"id": str(last.id), "title": title, "date": iso(last.commit_time)}
        rows.append(row)
    return rows


@router.post(REPO + "/paths-info/{revision:ref}")
async def paths_info(
    request: Request, kinds: str, namespace: str, name: str, revision: str
) -> JSONResponse:
    """Describe the given paths; those that do not exist are left out."""
    from urllib.parse import parse_qs

    data = await access.body(request, 4 << 20)
    try:
        if "json" in request.headers.get("content-type", ""):
            payload = await run_in_threadpool(plain_json, data)
            paths, expand = [str(p) for p in payload["paths"]], bool(payload.get("expand"))
        else:
            form = parse_qs(data.decode(), max_num_fields=20_000)
            paths = form.get("paths", []) + form.get("paths[]", [])
            expand = form.get("expand", [""])[0].lower() in ("1", "true")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HubError(400, "The body does not name paths") from None
    if len(paths) > (EXPANDED_LIMIT if expand else PATHS_LIMIT):
        raise HubError(413, f"Ask for at most {PATHS_LIMIT} paths, {EXPANDED_LIMIT} with `expand`")

    def described() -> JSONResponse:
        record = access.readable(request, kind_of(kinds), namespace, name)
        repo = open_repo(request, record)
        commit = commit_of(repo, revision)
        entries = [history.entry(repo, commit, path.strip("/")) for path in paths]
        rows = _rows(repo, commit, [e for e in entries if e], expand, for_copies=not expand)
        return JSONResponse(rows, headers={"X-Repo-Commit": str(commit.id)})

    return await run_in_threadpool(described)


@router.post(REPO + "/preupload/{revision:ref}")
async def preupload(
    request: Request, kinds: str, namespace: str, name: str, revision: str
) -> dict[str, Any]:
    """Say how each file is to be sent and what is there already."""
    payload = await access.json_body(request, 4 << 20)
    record, _ = await run_in_threadpool(access.writable, request, kind_of(kinds), namespace, name)
    files = payload.get("files")
    if not isinstance(files, list):
        raise HubError(400, "The body does not list files")
    if len(files) > PATHS_LIMIT:
        raise HubError(413, f"Announce at most {PATHS_LIMIT} files at a time")
    return await run_in_threadpool(_preupload, request, record, revision, files)


def _preupload(request: Request, record: Repo, revision: str, files: list[Any]) -> dict[str, Any]:
    repo = open_repo(request, record)
    commit = commit_of(repo, revision)
    rows = []
    try:
        for file in files:
            path, size = str(file["path"]), int(file["size"])
            sample = base64.b64decode(file.get("sample") or "")
            present = history.entry(repo, commit, path.strip("/"))
            rows.append(
                {
                    "path": path,
                    "uploadMode": history.upload_mode(path, size, sample),
                    "shouldIgnore": False,
                    "oid": present.etag if present and not present.is_folder else None,
                }
            )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        raise HubError(400, "The body does not list files") from None
    return {"files": rows, "commitOid": str(commit.id)}


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch")
@router.post("/{kinds:kinds}/{namespace}/{name}.git/info/lfs/objects/batch")
async def batch(request: Request, namespace: str, name: str, kinds: str = "models") -> JSONResponse:
    """Tell where to send or fetch large files (the git-lfs batch protocol, basic transfer)."""
    payload = await access.json_body(request, 4 << 20)
    rows = await run_in_threadpool(_batch, request, payload, kind_of(kinds), namespace, name)
    return JSONResponse(
        {"transfer": "basic", "objects": rows}, media_type="application/vnd.git-lfs+json"
    )


def _batch(
    request: Request, payload: dict[str, Any], kind: str, namespace: str, name: str
) -> list[dict[str, Any]]:
    upload = payload.get("operation") == "upload"
    if upload:
        record, _ = access.writable(request, kind, namespace, name)
    else:
        record = access.readable(request, kind, namespace, name, files=True)
    wanted = payload.get("objects")
    if not isinstance(wanted, list):
        raise HubError(400, "The body does not list objects")
    if len(wanted) > PATHS_LIMIT:
        raise HubError(413, f"Ask for at most {PATHS_LIMIT} objects at a time")
    key = access.bearer(request)
    return [_batch_row(request, record, item, upload, key) for item in wanted]


def _batch_row(request: Request, record: Repo, item: Any, upload: bool, key: str) -> dict[str, Any]:
    oid = item.get("oid") if isinstance(item, dict) else None
    size = item.get("size") if isinstance(item, dict) else None
    if not isinstance(oid, str) or not isinstance(size, int) or not objects.OID.fullmatch(oid):
        raise HubError(422, "An object is named by its SHA-256 and size")
    row: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    if not 0 <= size <= FILE_LIMIT:
        return {**row, "error": {"code": 422, "message": f"size is not in 0..{FILE_LIMIT}"}}
    store = store_of(request)
    there = objects.size_of(store.folder(record), oid)
    if upload and there != size:
        row["actions"] = {
            "upload": {"href": _signed_address(request, "put", record, oid, key, size)},
            "verify": {"href": f"{_asked_url(request).removesuffix('/batch')}/verify"},
        }
    elif not upload and there is None:
        row["error"] = {"code": 404, "message": "object does not exist"}
    elif not upload:
        row["actions"] = {"download": {"href": _signed_address(request, "get", record, oid, key)}}
    return row


def _asked_url(request: Request) -> str:
    return str(request.base_url).rstrip("/") + asked_path(request.scope)


def _signed_address(
    request: Request, verb: str, record: Repo, oid: str, key: str, size: int = 0
) -> str:
    """Clients send large files without their token: the address itself says who was given it."""
    expires = int(time.time()) + ADDRESS_SECONDS
    signature = store_of(request).sign(verb, record.id, oid, size, key, expires)
    base = str(request.base_url).rstrip("/")
    return f"{base}/lfs/{record.id}/{oid}?size={size}&k={key}&e={expires}&s={signature}"


def _signed_record(request: Request, verb: str, repo_id: int, oid: str) -> Repo:
    """Return the repository of a signed address; the rights are those of now, not of then."""
    store, query = store_of(request), request.query_params
    key, expires, size = (query.get(name, "") for name in ("k", "e", "size"))
    fresh = expires.isdecimal() and len(expires) < 20 and int(expires) > time.time()
    signed = store.signed(query.get("s", ""), verb, repo_id, oid, size, key, expires)
    if not signed or not fresh:
        raise HubError(403, "The address is not valid, or no longer")
    return access.still_allowed(store, key, repo_id, write=verb == "put")


@router.put("/lfs/{repo_id:number}/{oid}")
async def receive(request: Request, repo_id: int, oid: str) -> Response:
    """Receive a large file, proving its size and SHA-256 while it comes."""
    announced = request.query_params.get("size", "")
    record = await run_in_threadpool(_signed_record, request, "put", repo_id, oid)
    length = request.headers.get("content-length")
    if length is not None and length != announced:
        raise HubError(400, f"{length[:20]} bytes come, {announced} were announced")
    folder = store_of(request).folder(record)
    incoming = await run_in_threadpool(objects.Incoming, folder, oid, int(announced))
    try:
        if not await uploads.receive(request, incoming):
            async for part in request.stream():
                await run_in_threadpool(incoming.write, part)
        await run_in_threadpool(incoming.finish)
    finally:
        incoming.close()
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


@router.post("/{namespace}/{name}.git/info/lfs/objects/verify")
@router.post("/{kinds:kinds}/{namespace}/{name}.git/info/lfs/objects/verify")
def verify(
    request: Request, payload: Payload, namespace: str, name: str, kinds: str = "models"
) -> dict[str, str]:
    """Confirm that a large file arrived whole."""
    record, _ = access.writable(request, kind_of(kinds), namespace, name)
    there = objects.size_of(store_of(request).folder(record), str(payload.get("oid")))
    if there is None:
        raise HubError(404, "object does not exist")
    if there != payload.get("size"):
        raise HubError(422, "object has another size")
    return {"status": "ok"}


@router.post(REPO + "/commit/{revision:ref}")
async def commit(
    request: Request, kinds: str, namespace: str, name: str, revision: str
) -> dict[str, Any]:
    """Make a commit out of NDJSON lines: a header, then one operation a line."""
    record, user = await run_in_threadpool(
        access.writable, request, kind_of(kinds), namespace, name
    )
    if _true(request, "create_pr"):
        raise HubError(501, "This Hub has no pull requests; commit to a branch instead")
    store = store_of(request)
    header: dict[str, Any] = {}
    changes: list[history.Change] = []
    with contextlib.ExitStack() as held:
        begun = drafts.begin(store.folder(record) / "git")
        draft = await run_in_threadpool(held.enter_context, begun)
        async for lines in _batches(_lines(request)):
            header = await run_in_threadpool(_take, draft, lines, header, changes)
        if not header:
            raise HubError(400, "The first line of a commit is its header")
        oid = await _make_commit(request, record, user, revision, header, changes, draft)
    url = web_url(request, record.kind, _before_commit(record.full_name))
    return {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}


def _before_commit(full_name: str) -> str:
    """Return a name as it can stand before `/commit/`.

    Clients cut the address of a commit at its first `/commit/`. Names are the same in capitals, so
    one that is this word gets one.
    """
    return re.sub(r"(?<![^/])commit(?![^/])", "Commit", full_name)


async def _make_commit(
    request: Request,
    record: Repo,
    user: User,
    revision: str,
    header: dict[str, Any],
    changes: list[history.Change],
    draft: drafts.Draft,
) -> str:
    message = f"{header.get('summary') or 'commit'}\n\n{header.get('description') or ''}".strip()
    parent = header.get("parentCommit")
    parent = None if parent is None else str(parent)
    put = partial(_commit_locked, author=user.name, message=message, parent=parent, draft=draft)
    return await turns.alone(request, record.id, put, store_of(request), record, revision, changes)


async def _batches(lines: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Gather small lines: to hand each over by itself would cost more than to store it."""
    batch: list[bytes] = []
    size = 0
    async for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) >= _BATCH or size >= objects.BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _take(
    draft: drafts.Draft,
    lines: list[bytes],
    header: dict[str, Any],
    changes: list[history.Change],
) -> dict[str, Any]:
    """Store what some lines of a commit carry, add its steps, and return its header."""
    for line in lines:
        key, value = _operation(line)
        if key == "header":
            header = value
        elif not header:
            raise HubError(400, "The first line of a commit is its header")
        elif len(changes) >= OPERATIONS_LIMIT:
            raise HubError(413, f"A commit has at most {OPERATIONS_LIMIT} operations")
        else:
            changes.append(_change(draft, key, value))
    return header


def _commit_locked(
    store: Store,
    record: Repo,
    branch: str,
    changes: list[history.Change],
    **details: Any,
) -> str:
    with store.locks[record.id]:
        if not store.repos("id = ?", (record.id,)):
            raise HubError(404, "Repository not found", "RepoNotFound")
        git = store.folder(record) / "git"
        repo = history.open_(git)
        if not history.has_reference(repo, f"refs/heads/{branch}"):
            raise HubError(404, f"Invalid rev id: {branch[:100]}", "RevisionNotFound")
        oid = history.commit(git, branch, changes, **details)
        results.remember(repo, branch)
        return oid


async def _lines(request: Request) -> AsyncIterator[bytes]:
    """Split a body into lines without ever holding more than one.

    Raises:
        HubError: 413 if a line or the whole is too long.
    """
    rest, total = bytearray(), 0
    async for block in request.stream():
        total += len(block)
        if total > COMMIT_LIMIT:
            raise HubError(413, f"A commit is at most {COMMIT_LIMIT} bytes; use large files")
        first, *more = block.split(b"\n")
        rest += first
        for part in more:
            if rest.strip():
                yield bytes(rest)
            rest = bytearray(part)
        if len(rest) > LINE_LIMIT:
            raise HubError(413, f"A line is at most {LINE_LIMIT} bytes; use large files")
    if rest.strip():
        yield bytes(rest)


def _operation(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        parsed = plain_json(line)
        key, value = parsed["key"], parsed["value"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HubError(400, "A line of the commit is not {key, value} in JSON") from None
    if not isinstance(key, str) or not isinstance(value, dict):
        raise HubError(400, "A line of the commit is not {key, value} in JSON")
    return key, value


def _change(draft: drafts.Draft, key: str, value: dict[str, Any]) -> history.Change:
    """Store what an operation carries and return the step of the commit."""
    path = str(value.get("path", "")).rstrip("/")
    if key == "deletedFile":
        return history.Change("delete", path)
    if key == "deletedFolder":
        return history.Change("delete_folder", path)
    history.check_path(path)
    if key == "file":
        try:
            content = str(value.get("content", ""))
            plain = value.get("encoding") in ("utf-8", None)
            data = content.encode() if plain else base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise HubError(400, f"{path} is not in base64") from None
        if (pointer := objects.parse_pointer(data)) and _stored(draft, pointer[0]) != pointer[1]:
            raise HubError(
                400,
                f"{path} is a pointer to a large file ({pointer[0]}) that was not uploaded",
            )
        return history.Change("put", path, draft.write(data))
    if key == "lfsFile":
        oid = str(value.get("oid", ""))
        size = _stored(draft, oid)
        if size is None:
            raise HubError(422, f"The content of {path} ({oid[:64]}) has not been uploaded")
        if value.get("size", size) != size:
            raise HubError(422, f"{path} has {size} bytes, not {value['size']}")
        return history.Change("put", path, draft.write(objects.pointer(oid, size)))
    raise HubError(400, f"Unknown operation {key[:40]!r}")


def _stored(draft: drafts.Draft, oid: str) -> int | None:
    """Return the size of a large file of the repository, None if it is not there."""
    return objects.size_of(draft.git.parent, oid)


@routes(
    router,
    READING,
    *(
        f"{name}/{word}/{{revision:ref}}/{{path:below}}"
        for name in ("/{namespace:owner}/{name}", "/{kinds:kinds}/{namespace}/{name}")
        for word in ("resolve", "raw")
    ),
)
def resolve(
    request: Request, *, namespace: str, name: str, revision: str, path: str, kinds: str = "models"
) -> Response:
    """Send a file of a revision, or a range of it."""
    record = access.readable(request, kind_of(kinds), namespace, name, files=True)
    if record.name != name or record.namespace != namespace:
        prefix = root_of(request) + ("" if kinds == "models" else f"/{kinds}")
        target = f"{prefix}/{record.full_name}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return RedirectResponse(target, 307)
    repo = open_repo(request, record)
    commit = commit_of(repo, revision)
    entry = history.entry(repo, commit, path)
    if entry is None or entry.is_folder:
        raise not_found(commit, path)
    headers = {"X-Repo-Commit": str(commit.id), **_content_headers(path)}
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.lfs[0]}"', "X-Linked-Size": str(entry.size)}
        folder = store_of(request).folder(record)
        if objects.size_of(folder, entry.lfs[0]) is None:
            raise HubError(404, f"The content of {path[:200]!r} was deleted", "EntryNotFound")
        where = objects.path_of(folder, entry.lfs[0])
        return send(request, partial(objects.read_blocks, where), entry.size, entry.etag, headers)
    return send(request, history.content(repo, entry), entry.size, entry.etag, headers)


def _content_headers(path: str) -> dict[str, str]:
    """Files of users are never a page of this server: no script in them may run."""
    kind = "text/plain; charset=utf-8"
    images = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif"}
    ending = path.rpartition(".")[2].lower()
    if ending in history.LARGE or b"\0" in path.encode():
        kind = images.get(ending, "application/octet-stream")
    return {
        "Content-Type": kind,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(Path(path).name, safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }


@router.get("/lfs/{repo_id:number}/{oid}")
def download(request: Request, repo_id: int, oid: str) -> Response:
    """Send a large file to whoever was given its address."""
    record = _signed_record(request, "get", repo_id, oid)
    folder = store_of(request).folder(record)
    size = objects.size_of(folder, oid)
    if size is None:
        raise HubError(404, "object does not exist")
    headers = {"Content-Type": "application/octet-stream"}
    path = objects.path_of(folder, oid)
    return send(request, partial(objects.read_blocks, path), size, oid, headers)


def send(
    request: Request,
    content: bytes | Callable[[int, int], Iterator[bytes | memoryview]],
    size: int,
    etag: str,
    headers: dict[str, str],
) -> Response:
    """Send `content` (bytes, or what reads from a start so many), whole or in the range asked for.

    Raises:
        OutsideRange: if the range lies outside.
    """
    headers = {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
    if request.headers.get("if-none-match", "").strip('W/"') == etag:
        return Response(status_code=304, headers=headers)
    unchanged = request.headers.get("if-range", etag).strip('W/"') == etag
    asked = request.headers.get("range", "") if unchanged else ""
    start, end, partly = objects.asked_range(asked, size)
    status = 206 if partly else 200
    if partly:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if isinstance(content, bytes):
        return Response(content[start:end], status, headers)
    return StreamingResponse(content(start, end - start), status, headers)

"""Copy between repositories: a whole one under a new name, or the large files of some paths.

Large files are linked, not copied, where the disk can do it: their content never changes.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pygit2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import access, drafts, history, objects, turns
from usermirrorer.hub.server.access import HubError, Payload, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.routing import kind_of, web_url
from usermirrorer.hub.server.store import Repo, Store, valid_name

router = APIRouter()
#: Large files that one request may copy.
_FILES = 1000


@router.post(REPO + "/duplicate")
async def duplicate(
    request: Request, payload: Payload, kinds: str, namespace: str, name: str
) -> JSONResponse:
    """Copy a repository with its branches, tags and their history (`repository`: the new name).

    Of a private or gated one the copy is private, unless `visibility` says otherwise.
    """
    planned = await run_in_threadpool(_plan, request, payload, kind_of(kinds), namespace, name)
    source, owner, target, private = planned
    copy = partial(_duplicate, store_of(request), source, owner, target, private)
    made = await turns.alone(request, source.id, copy)
    url = web_url(request, source.kind, f"{owner}/{target}")
    if made is None:
        message = "You already created this repo"
        return JSONResponse({"error": message, "url": url}, 409, {"X-Error-Message": message})
    return JSONResponse({"url": url, "filesCopyPending": False})


def _plan(
    request: Request, payload: dict[str, Any], kind: str, namespace: str, name: str
) -> tuple[Repo, str, str, bool]:
    """Return what is to be copied, the owner and the name of the copy, and whether it is private.

    Raises:
        HubError: if it may not be.
    """
    access.signed_in(request, write=True)
    source = access.readable(request, kind, namespace, name, files=True)
    owner, _, target = str(payload.get("repository") or "").partition("/")
    if not valid_name(owner) or not valid_name(target):
        raise HubError(400, "Not a repository name")
    user = access.owned_namespace(request, owner)
    closed = source.private or bool(source.gated)
    private = payload.get("visibility", "private" if closed else "public") != "public"
    if source.gated and not private and user.name.lower() != source.namespace.lower():
        raise HubError(403, "A copy of somebody's gated repository is private")
    return source, user.name, target, private


def _duplicate(store: Store, source: Repo, owner: str, name: str, private: bool) -> Repo | None:
    with store.locks[source.id]:
        folder = store.folder(source)
        if not store.repos("id = ?", (source.id,)):
            raise HubError(404, "Repository not found", "RepoNotFound")
        if store.find(source.kind, owner, name) is not None:
            return None  # before anything is packed
        with tempfile.TemporaryDirectory(dir=folder / "incoming") as stage:
            repo = history.open_(folder / "git")
            references = {
                name: repo.references[name].target for name in history.reference_names(repo)
            }
            oids, large = _reachable(repo, list(references.values()))
            drafts.write_pack(repo, oids, Path(stage))
            fill = partial(_fill, folder, Path(stage), references, large)
            return store.create(source.kind, owner, name, private, fill)


def _reachable(repo: pygit2.Repository, tips: list[Any]) -> tuple[list[pygit2.Oid], dict[str, int]]:
    """Return the objects to which references lead, and the large files that these name."""
    waiting, seen, large = list(tips), set(), {}
    while waiting:
        oid = waiting.pop()
        if oid in seen:
            continue
        seen.add(oid)
        item = repo[oid]
        if isinstance(item, pygit2.Commit):
            waiting += [item.tree_id, *item.parent_ids]
        elif isinstance(item, pygit2.Tag):
            waiting.append(item.target)
        elif isinstance(item, pygit2.Tree):
            waiting += [one.id for one in item]
        elif isinstance(item, pygit2.Blob) and (pointer := objects.parse_pointer(item.data)):
            large[pointer[0]] = pointer[1]
    return list(seen), large


def _fill(
    source: Path, stage: Path, references: dict[str, Any], large: dict[str, int], folder: Path
) -> None:
    """Fill the folder of a new repository from what was staged."""
    repo = pygit2.init_repository(folder / "git", bare=True, initial_head="main")
    drafts.take_pack(stage, folder / "git")
    for oid in large:
        if objects.size_of(source, oid) is not None:
            objects.link(source, folder, oid)
    repo = history.open_(folder / "git")
    for name, target in references.items():
        repo.references.create(name, target)


@router.post(REPO + "/lfs-files/duplicate")
async def duplicate_files(
    request: Request, payload: Payload, kinds: str, namespace: str, name: str
) -> dict[str, list[dict[str, str]]]:
    """Give large files of this repository to another (`target`), for a commit to name them."""
    target, files = payload.get("target"), payload.get("files")
    if not isinstance(target, dict) or not isinstance(files, list) or len(files) > _FILES:
        raise HubError(400, f"The body does not name a target and at most {_FILES} files")
    if not all(isinstance(file, dict) for file in files):
        raise HubError(400, "A file is named by its SHA-256")
    source = await run_in_threadpool(
        access.readable, request, kind_of(kinds), namespace, name, files=True
    )
    owner, _, other = str(target.get("name")).partition("/")
    into, _ = await run_in_threadpool(
        access.writable, request, str(target.get("type")), owner, other
    )
    oids = [str(file.get("sha256")) for file in files]
    failed = await turns.alone(request, into.id, _link, store_of(request), source, into, oids)
    return {"failed": [{"sha256": oid, "error": "is not there"} for oid in failed]}


def _link(store: Store, source: Repo, into: Repo, oids: list[str]) -> list[str]:
    """Link large files into another repository and return those that are not there."""
    with store.locks[into.id]:
        if not store.repos("id = ?", (into.id,)):
            raise HubError(404, "Repository not found", "RepoNotFound")
        folder, failed = store.folder(source), []
        for oid in oids:
            if objects.size_of(folder, oid) is None:
                failed.append(oid)
                continue
            try:
                objects.link(folder, store.folder(into), oid)
            except FileNotFoundError:  # somebody deletes it at this moment
                failed.append(oid)
        return failed

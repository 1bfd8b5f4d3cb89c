"""Accounts, repositories, their settings, references and history."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial
from itertools import islice
from typing import Any

import pygit2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import access, history, results, trees, turns
from usermirrorer.hub.server.access import HubError, Payload, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.cards import (
    CARD_LIMIT,
    PREFIXES,
    card_data,
    front_matter,
    listed_card,
    tags_of,
)
from usermirrorer.hub.server.routing import commit_of, iso, kind_of, open_repo, page, web_url
from usermirrorer.hub.server.store import KINDS, Repo, Store, valid_name

router = APIRouter()
#: Where git keeps what an address calls a branch or a tag.
_GROUPS = {"branch": "heads", "tag": "tags"}


@router.get("/api/whoami-v2")
def whoami(request: Request) -> dict[str, Any]:
    """Say whose token this is."""
    user = access.signed_in(request)
    token = {"displayName": user.label, "role": user.role}
    return {
        "type": "user",
        "id": user.name,
        "name": user.name,
        "fullname": user.name,
        "email": None,
        "isPro": False,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": token},
    }


@router.post("/api/validate-yaml")
async def validate_yaml(request: Request) -> JSONResponse:
    """Check the header of a card before it is committed."""
    payload = await access.json_body(request, CARD_LIMIT)
    try:
        await run_in_threadpool(front_matter, str(payload.get("content", "")))
    except ValueError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


@router.post("/api/repos/create")
def create(request: Request, payload: Payload) -> JSONResponse:
    """Make a repository with a first commit."""
    kind, name = str(payload.get("type") or "model"), payload.get("name")
    user = access.signed_in(request, write=True)
    namespace = payload.get("organization") or user.name
    if kind not in KINDS or not valid_name(name) or not valid_name(namespace):
        raise HubError(400, "Not a repository type or name")
    access.owned_namespace(request, namespace)
    private = payload.get("visibility") == "private" or payload.get("private") is True
    made = store_of(request).create(kind, user.name, str(name), private)
    url = web_url(request, kind, f"{user.name}/{name}")
    if made is None:
        message = "You already created this repo"
        return JSONResponse({"error": message, "url": url}, 409, {"X-Error-Message": message})
    return JSONResponse({"url": url, "name": made.full_name, "id": str(made.id)})


@router.delete("/api/repos/delete")
async def delete(request: Request, payload: Payload) -> dict[str, str]:
    """Delete a repository with everything in it."""
    user = await run_in_threadpool(access.signed_in, request, write=True)
    namespace = str(payload.get("organization") or user.name)
    kind, name = str(payload.get("type") or "model"), str(payload.get("name"))
    repo, _ = await run_in_threadpool(access.writable, request, kind, namespace, name)
    await turns.alone(request, repo.id, _delete_locked, store_of(request), repo)
    return {"status": "ok"}


def _delete_locked(store: Store, repo: Repo) -> None:
    with store.locks[repo.id]:
        store.delete(repo)


@router.post("/api/repos/move")
def move(request: Request, payload: Payload) -> dict[str, str]:
    """Rename a repository within the user's namespace."""
    kind = str(payload.get("type") or "model")
    if kind not in KINDS:
        raise HubError(501, f"This Hub has no {kind[:40]}s")
    source, target = (str(payload.get(key, "")).partition("/") for key in ("fromRepo", "toRepo"))
    repo, _ = access.writable(request, kind, source[0], source[2])
    access.owned_namespace(request, target[0])
    if not valid_name(target[2]):
        raise HubError(400, "Not a repository name")
    try:
        store_of(request).update(repo, name=target[2])
    except sqlite3.IntegrityError:
        raise HubError(409, "The new name is taken") from None
    return {"status": "ok"}


@router.put(REPO + "/settings")
def settings(
    request: Request, payload: Payload, kinds: str, namespace: str, name: str
) -> dict[str, Any]:
    """Change visibility or gating."""
    repo, _ = access.writable(request, kind_of(kinds), namespace, name)
    changes: dict[str, Any] = {}
    if payload.get("visibility") in ("public", "private"):
        changes["private"] = payload["visibility"] == "private"
    if isinstance(payload.get("private"), bool):
        changes["private"] = payload["private"]
    if payload.get("gated") in (False, "auto", "manual"):
        changes["gated"] = payload["gated"] or ""
    if changes:
        store_of(request).update(repo, **changes)
    return {"private": repo.private, "gated": repo.gated or False, **changes}


#: Files that a repository's information names; in a listing those of one repository, and of all.
_FILES, _LISTED_FILES, _LISTED_IN_ALL = 250_000, 1000, 50_000


def describe(
    record: Repo, repo: pygit2.Repository, commit: pygit2.Commit, *, brief: bool = False
) -> dict[str, Any]:
    """Return what `dataset_info` and `model_info` say about a repository, but for its files."""
    if brief:  # of many: without the long fields of each card
        listed = listed_card(repo, commit)
        card, tags = listed["card"], listed["tags"]
    else:
        card = card_data(repo, commit)
        tags = tags_of(card)
    info: dict[str, Any] = {
        "_id": f"{record.id:024x}",
        "id": record.full_name,
        "author": record.namespace,
        "sha": str(commit.id),
        "createdAt": iso(record.created),
        "lastModified": iso(commit.commit_time),
        "private": record.private,
        "gated": record.gated or False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "cardData": card,
    }
    if record.kind == "model":
        info |= {
            "modelId": record.full_name,
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
        }
    if record.kind == "space":
        info["sdk"] = card.get("sdk")
    return info


def _siblings(
    repo: pygit2.Repository, commit: pygit2.Commit, most: int, *, blobs: bool = False
) -> list[dict[str, Any]]:
    """Return the first files of a commit as clients read them."""
    files = (entry for entry in trees.walk(repo, commit, sizes=blobs) if not entry.is_folder)
    return [_sibling(entry, blobs) for entry in islice(files, most)]


def _sibling(entry: history.Entry, blobs: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        described |= {"size": entry.size, "blobId": entry.oid}
        if entry.lfs:
            described["lfs"] = {"sha256": entry.lfs[0], "size": entry.lfs[1], "pointerSize": 134}
    return described


@router.get(REPO)
@router.get(REPO + "/revision/{revision:ref}")
def info(
    request: Request, kinds: str, namespace: str, name: str, revision: str = "main"
) -> dict[str, Any]:
    """Describe a repository at a revision."""
    record = access.readable(request, kind_of(kinds), namespace, name)
    repo = open_repo(request, record)
    commit = commit_of(repo, revision)
    described = describe(record, repo, commit)
    blobs = "blobs" in request.query_params
    described["siblings"] = _siblings(repo, commit, _FILES, blobs=blobs)
    if "evalResults" in request.query_params.getlist("expand"):
        described["evalResults"] = results.read(repo, commit)
    return described


@router.get("/api/{kinds:kinds}")
def listing(request: Request, kinds: str) -> JSONResponse:
    """List and search the repositories that the visitor may see, a page at a time."""
    query = request.query_params
    words = [word.lower() for word in query.getlist("search")]
    wanted = {tag for text in query.getlist("filter") for tag in text.split(",")}
    rows = []
    shown: dict[str, Repo] = {}
    for record in visible(request, kind_of(kinds)):
        if query.get("author", record.namespace).lower() != record.namespace.lower():
            continue
        if not all(word in record.full_name.lower() for word in words):
            continue
        try:
            repo = open_repo(request, record)
            commit = commit_of(repo, "main")
            described = describe(record, repo, commit, brief=True)
        except (HubError, KeyError, pygit2.GitError):  # damaged: `hub check` names it
            continue
        if wanted <= set(described["tags"]):
            rows.append(described)
            shown[record.full_name] = record
    if (key := query.get("sort")) in ("lastModified", "createdAt"):
        rows.sort(key=lambda item: item[key], reverse=True)
    add_files = partial(_add_files, request, shown) if "full" in query else None
    return page(request, rows, complete=add_files)


def _add_files(request: Request, shown: dict[str, Repo], rows: list[dict[str, Any]]) -> None:
    """Add the first files of each to a page of repositories."""
    left = _LISTED_IN_ALL
    for row in rows:
        row["siblings"] = []
        with contextlib.suppress(HubError, KeyError, pygit2.GitError):  # deleted meanwhile
            repo = open_repo(request, shown[row["id"]])
            row["siblings"] = _siblings(repo, commit_of(repo, "main"), min(left, _LISTED_FILES))
        left -= len(row["siblings"])


@router.get("/api/models-tags-by-type")
def model_tags(request: Request) -> dict[str, list[dict[str, str]]]:
    """Return the tags of the models that the visitor may see, by type."""
    return _tags_by_type(request, "model")


@router.get("/api/datasets-tags-by-type")
def dataset_tags(request: Request) -> dict[str, list[dict[str, str]]]:
    """Return the tags of the datasets that the visitor may see, by type."""
    return _tags_by_type(request, "dataset")


def _tags_by_type(request: Request, kind: str) -> dict[str, list[dict[str, str]]]:
    tags: set[str] = set()
    for record in visible(request, kind):
        with contextlib.suppress(HubError, KeyError, pygit2.GitError):  # damaged
            repo = open_repo(request, record)
            tags |= set(listed_card(repo, commit_of(repo, "main"))["tags"])
    rows: dict[str, list[dict[str, str]]] = {}
    for tag in sorted(tags):
        prefix, colon, rest = tag.partition(":")
        group, label = (prefix, rest) if colon and prefix in PREFIXES else ("other", tag)
        rows.setdefault(group, []).append({"id": tag, "label": label, "type": group})
    return rows


def visible(request: Request, kind: str) -> list[Repo]:
    """Return the repositories of a kind that the visitor may see, newest first."""
    user = access.visitor(request)
    mine = user.name.lower() if user else ""
    records = store_of(request).repos("kind = ?", (kind,))
    return [one for one in records if not one.private or one.namespace.lower() == mine]


@router.get("/api/settings/repositories")
def my_repositories(request: Request) -> JSONResponse:
    """List the user's own repositories of every kind."""
    user = access.signed_in(request)
    rows = [
        {
            "id": str(record.id),
            "name": record.full_name,
            "type": record.kind,
            "visibility": "private" if record.private else "public",
            "createdAt": iso(record.created),
            "updatedAt": iso(record.created),
            "storage": 0,
            "storagePercent": 0.0,
        }
        for record in store_of(request).repos("namespace = ?", (user.name,))
    ]
    return page(request, rows)


@router.get(REPO + "/auth-check")
@router.get(REPO + "/auth-check/{right}")
def auth_check(
    request: Request, kinds: str, namespace: str, name: str, right: str = "read"
) -> dict[str, str]:
    """Say whether the visitor may read (or write) the repository."""
    if right == "write":
        access.writable(request, kind_of(kinds), namespace, name)
    else:
        access.readable(request, kind_of(kinds), namespace, name, files=True)
    return {"status": "ok"}


@router.get(REPO + "/refs")
def refs(request: Request, kinds: str, namespace: str, name: str) -> dict[str, Any]:
    """List branches and tags."""
    record = access.readable(request, kind_of(kinds), namespace, name)
    references = history.references(open_repo(request, record))

    def rows(group: str) -> list[dict[str, str]]:
        return [
            {"name": ref, "ref": f"refs/{group}/{ref}", "targetCommit": oid}
            for ref, oid in references[group].items()
        ]

    return {"branches": rows("heads"), "tags": rows("tags"), "converts": [], "pullRequests": []}


@router.get(REPO + "/commits/{revision:ref}")
def commits(request: Request, kinds: str, namespace: str, name: str, revision: str) -> JSONResponse:
    """List the commits of a revision, newest first."""
    record = access.readable(request, kind_of(kinds), namespace, name)
    repo = open_repo(request, record)
    rows = [
        {
            "id": str(commit.id),
            "title": commit.message.partition("\n")[0],
            "message": commit.message.partition("\n")[2].strip(),
            "authors": [{"user": commit.author.name}],
            "date": iso(commit.commit_time),
        }
        for commit in history.log(repo, commit_of(repo, revision))
    ]
    return page(request, rows)


def _add(request: Request, record: Repo, group: str, name: str, start: str, **tag: str) -> None:
    store = store_of(request)
    with store.locks[record.id]:
        target = commit_of(open_repo(request, record), start)
        history.add_reference(store.folder(record) / "git", group, name, target, **tag)


@router.post(REPO + "/branch/{branch:ref}")
async def add_branch(
    request: Request, payload: Payload, *, kinds: str, namespace: str, name: str, branch: str
) -> dict[str, str]:
    """Make a branch at a revision (`startingPoint`, else main)."""
    record, _ = await run_in_threadpool(access.writable, request, kind_of(kinds), namespace, name)
    start = str(payload.get("startingPoint") or "main")
    await turns.alone(request, record.id, _add, request, record, "heads", branch, start)
    return {"status": "ok"}


@router.post(REPO + "/tag/{revision:ref}")
async def add_tag(
    request: Request, payload: Payload, *, kinds: str, namespace: str, name: str, revision: str
) -> dict[str, str]:
    """Make a tag (`tag`, with an optional `message`) at a revision."""
    record, user = await run_in_threadpool(
        access.writable, request, kind_of(kinds), namespace, name
    )
    tag, message = (str(payload.get(key) or "") for key in ("tag", "message"))
    add = partial(_add, message=message, author=user.name)
    await turns.alone(request, record.id, add, request, record, "tags", tag, revision)
    return {"status": "ok"}


@router.delete(REPO + "/{group:group}/{reference:ref}")
async def remove_reference(
    request: Request, kinds: str, namespace: str, name: str, group: str, reference: str
) -> dict[str, str]:
    """Remove a branch or a tag."""
    record, _ = await run_in_threadpool(access.writable, request, kind_of(kinds), namespace, name)
    if (group, reference) == ("branch", "main"):
        raise HubError(403, "The branch main cannot be removed")
    git, where = store_of(request).folder(record) / "git", _GROUPS[group]
    await turns.alone(request, record.id, history.remove_reference, git, where, reference)
    return {"status": "ok"}

"""Rewrite a repository's history: all of a branch in one commit, or without some large files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pygit2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pygit2.enums import FileMode, ObjectType, SortMode
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import access, history, objects, turns
from usermirrorer.hub.server.access import HubError, Payload, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.routing import iso, kind_of, page
from usermirrorer.hub.server.store import Repo, Store

router = APIRouter()
#: Large files that one request may delete.
_DELETIONS = 1000


@router.post(REPO + "/super-squash/{branch:ref}")
async def squash(
    request: Request, payload: Payload, *, kinds: str, namespace: str, name: str, branch: str
) -> dict[str, str]:
    """Put what a branch holds in one commit without a past; the files stay as they are."""
    record, user = await run_in_threadpool(
        access.writable, request, kind_of(kinds), namespace, name
    )
    message = str(payload.get("message") or f"Super-squash branch '{branch}'")
    store = store_of(request)
    await turns.alone(request, record.id, _squash, store, record, branch, user.name, message)
    return {"status": "ok"}


def _squash(store: Store, record: Repo, branch: str, author: str, message: str) -> None:
    with store.locks[record.id]:
        git = store.folder(record) / "git"
        if branch not in history.references(history.open_(git))["heads"]:
            raise HubError(404, f"Invalid rev id: {branch[:100]}", "RevisionNotFound")
        history.squash(git, branch, author=author, message=message)


@router.get(REPO + "/lfs-files")
def listing(request: Request, kinds: str, namespace: str, name: str) -> JSONResponse:
    """List the large files that a repository keeps, also those that only its past names."""
    record, _ = access.writable(request, kind_of(kinds), namespace, name)
    folder = store_of(request).folder(record)
    named = pointers(history.open_(folder / "git"))
    rows = []
    for path in sorted((folder / "lfs").glob("*/*/*")):
        try:
            stat = path.stat()
        except FileNotFoundError:  # somebody deletes it at this moment
            continue
        file, reference = named.get(path.name, ("", None))
        rows.append(
            {
                "fileOid": path.name,
                "oid": path.name,
                "filename": file,
                "ref": reference,
                "size": stat.st_size,
                "pushedAt": iso(stat.st_mtime),
            }
        )
    return page(request, rows)


@router.post(REPO + "/lfs-files/batch")
async def delete(
    request: Request, payload: Payload, kinds: str, namespace: str, name: str
) -> dict[str, int]:
    """Delete large files for good (`deletions`: `sha`, `rewriteHistory`).

    With `rewriteHistory` all commits that name them are made anew without them. Without, only those
    are deleted that no commit names: a commit never names what is not there.
    """
    record, _ = await run_in_threadpool(access.writable, request, kind_of(kinds), namespace, name)
    wanted = payload.get("deletions")
    oids = wanted.get("sha") if isinstance(wanted, dict) else None
    if not isinstance(wanted, dict) or not isinstance(oids, list) or len(oids) > _DELETIONS:
        raise HubError(400, f"The body does not name the files to delete, at most {_DELETIONS}")
    if not all(isinstance(oid, str) and objects.OID.fullmatch(oid) for oid in oids):
        raise HubError(400, "A large file is named by its SHA-256")
    rewrite = wanted.get("rewriteHistory") is not False
    store = store_of(request)
    count = await turns.alone(request, record.id, _delete, store, record, set(oids), rewrite)
    return {"deleted": count}


def _delete(store: Store, record: Repo, oids: set[str], rewrite: bool) -> int:
    with store.locks[record.id]:
        folder = store.folder(record)
        repo = history.open_(folder / "git")
        if not rewrite and (named := oids & pointers(repo).keys()):
            raise HubError(409, f"Commits name {len(named)} of these files: rewrite the history")
        if rewrite:
            forget(repo, oids)
        there = [oid for oid in oids if objects.size_of(folder, oid) is not None]
        for oid in there:
            objects.path_of(folder, oid).unlink(missing_ok=True)
        return len(there)


def pointers(repo: pygit2.Repository) -> dict[str, tuple[str, str]]:
    """Return each large file that any branch or tag names: a path of it, and the reference."""
    named: dict[str, tuple[str, str]] = {}
    seen: set[pygit2.Oid] = set()
    for reference, commit in _tips(repo):
        for one in history.log(repo, commit):
            if one.id in seen:
                continue
            seen.add(one.id)
            for path, oid in _tree_pointers(repo, one.tree, seen):
                named.setdefault(oid, (path, reference))
    return named


def _tips(repo: pygit2.Repository) -> Iterator[tuple[str, pygit2.Commit]]:
    for reference in history.reference_names(repo):
        yield reference, repo.references[reference].peel(pygit2.Commit)


def _tree_pointers(
    repo: pygit2.Repository, tree: pygit2.Tree, seen: set[pygit2.Oid]
) -> Iterator[tuple[str, str]]:
    """Yield (path, SHA-256) of the pointers in a tree, without the trees that were `seen`."""
    stack = [("", tree)]
    while stack:
        prefix, here = stack.pop()
        if here.id in seen:
            continue
        seen.add(here.id)
        for item in here:
            if isinstance(item, pygit2.Tree):
                stack.append((f"{prefix}{item.name}/", item))
            elif pointer := _pointer(repo, item):
                yield f"{prefix}{item.name}", pointer


def _pointer(repo: pygit2.Repository, item: pygit2.Object) -> str | None:
    """Return the SHA-256 of the large file that an item of a tree stands for."""
    if not isinstance(item, pygit2.Blob):
        return None
    if repo.odb.read_header(item.id)[1] >= objects.POINTER_LIMIT:
        return None
    parsed = objects.parse_pointer(item.data)
    return parsed[0] if parsed else None


def forget(repo: pygit2.Repository, oids: set[str]) -> None:
    """Make the commits of all branches and tags anew, as if these large files had never been."""
    trees: dict[pygit2.Oid, pygit2.Oid | None] = {}
    commits: dict[pygit2.Oid, pygit2.Oid] = {}
    for reference, tip in list(_tips(repo)):
        for old in repo.walk(tip.id, SortMode.TOPOLOGICAL | SortMode.REVERSE):
            if old.id not in commits:
                commits[old.id] = _commit_without(repo, old, oids, trees, commits)
        if commits[tip.id] != tip.id:
            target = _retagged(repo, repo.references[reference].target, tip.id, commits[tip.id])
            repo.references.create(reference, target, force=True)


def _commit_without(
    repo: pygit2.Repository,
    old: pygit2.Commit,
    oids: set[str],
    trees: dict[pygit2.Oid, pygit2.Oid | None],
    commits: dict[pygit2.Oid, pygit2.Oid],
) -> pygit2.Oid:
    tree = _tree_without(repo, old.tree, oids, trees) or repo.TreeBuilder().write()
    parents = [commits[parent] for parent in old.parent_ids]
    if tree == old.tree_id and parents == old.parent_ids:
        return old.id
    return repo.create_commit(None, old.author, old.committer, old.message, tree, parents)


def _tree_without(
    repo: pygit2.Repository,
    tree: pygit2.Tree,
    oids: set[str],
    done: dict[pygit2.Oid, pygit2.Oid | None],
) -> pygit2.Oid | None:
    """Return the tree without these large files, None if nothing is left in it."""
    if tree.id not in done:
        builder = repo.TreeBuilder(tree)
        for item in tree:
            if isinstance(item, pygit2.Tree):
                below = _tree_without(repo, item, oids, done)
                if below is None:
                    builder.remove(str(item.name))
                elif below != item.id:
                    builder.insert(str(item.name), below, FileMode.TREE)
            elif _pointer(repo, item) in oids:
                builder.remove(str(item.name))
        done[tree.id] = builder.write() if len(builder) else None
    return done[tree.id]


def _retagged(repo: pygit2.Repository, target: Any, old: pygit2.Oid, new: pygit2.Oid) -> pygit2.Oid:
    """Return what a reference is to hold: the new commit, or its annotated tag made anew."""
    holds = repo[target]
    if not isinstance(holds, pygit2.Tag):
        return new
    raw = holds.read_raw().replace(f"object {old}".encode(), f"object {new}".encode(), 1)
    return repo.write(ObjectType.TAG, raw)

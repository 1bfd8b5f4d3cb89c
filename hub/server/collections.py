"""Collections: the dataset, the models and the leaderboard of one release, listed together."""

from __future__ import annotations

import re
import sqlite3
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from usermirrorer.hub.server import access
from usermirrorer.hub.server.access import HubError, Payload, store_of
from usermirrorer.hub.server.routing import iso, page
from usermirrorer.hub.server.store import KINDS, Repo, connect

router = APIRouter()
#: Longest title, description and note that are kept: the Hub's own limits.
_TITLE, _DESCRIPTION, _NOTE = 60, 150, 500
_THEMES = ("orange", "blue", "green", "purple", "pink", "indigo")
#: What of a collection can be changed, as it is at first.
_NEW = {"title": "", "description": "", "private": False, "theme": "blue", "position": 0}
_CHANGED = tuple(_NEW)
_NUMBER = re.compile("0{9}[0-9a-f]{15}")
_SLUG = "/api/collections/{namespace}/{slug}"


def readable(request: Request, namespace: str, slug: str) -> dict[str, Any]:
    """Return a collection that the visitor may see, with the repositories that they may see.

    Raises:
        HubError: 404.
    """
    number = slug.rpartition("-")[2]
    if _NUMBER.fullmatch(number):
        for collection in visible(request, "id = ?", (int(number, 16),)):
            if collection["namespace"].lower() == namespace.lower():
                return collection
    raise HubError(404, "Collection not found")


def visible(
    request: Request, where: str = "1", values: tuple[Any, ...] = ()
) -> list[dict[str, Any]]:
    """Return the collections that the visitor may see and that fulfil an SQL condition."""
    user = access.visitor(request)
    mine = user.name.lower() if user else ""
    store = store_of(request)
    with connect(store.root) as db:
        rows = db.execute(f"select * from collections where {where} order by changed desc", values)
        collections = [dict(row) for row in rows]
        items = [dict(row) for row in db.execute("select * from items order by position, id")]
    repos = {
        repo.id: repo
        for repo in store.repos()
        if not repo.private or repo.namespace.lower() == mine
    }
    return [
        {
            **row,
            "slug": _slug(row),
            "items": [
                {**item, "record": repos[item["repo"]]}
                for item in items
                if item["collection"] == row["id"] and item["repo"] in repos
            ],
        }
        for row in collections
        if not row["private"] or row["namespace"].lower() == mine
    ]


def _slug(row: dict[str, Any]) -> str:
    title = re.sub(r"[^a-z0-9]+", "-", row["title"].lower()).strip("-") or "collection"
    return f"{row['namespace']}/{title}-{row['id']:024x}"


def _describe(collection: dict[str, Any]) -> dict[str, Any]:
    """Return a collection as the clients read it."""
    return {
        "slug": collection["slug"],
        "title": collection["title"],
        "description": collection["description"],
        "owner": {"name": collection["namespace"], "type": "user"},
        "lastUpdated": iso(collection["changed"]),
        "private": bool(collection["private"]),
        "position": collection["position"],
        "theme": collection["theme"],
        "upvotes": 0,
        "items": [
            {
                "_id": f"{item['id']:024x}",
                "id": item["record"].full_name,
                "type": item["record"].kind,
                "position": position,
                **({"note": {"text": item["note"]}} if item["note"] else {}),
            }
            for position, item in enumerate(collection["items"])
        ],
    }


@router.get("/api/collections")
def listing(request: Request) -> JSONResponse:
    """List collections, newest first; `owner` and `item` (`datasets/namespace/name`) narrow it."""
    query = request.query_params
    owners = {owner.lower() for owner in query.getlist("owner")}
    wanted = {item.lower() for item in query.getlist("item")}
    rows = []
    for row in visible(request):
        records = [item["record"] for item in row["items"]]
        inside = {f"{record.kind}s/{record.full_name}".lower() for record in records}
        if (not owners or row["namespace"].lower() in owners) and wanted <= inside:
            described = _describe(row)
            del described["position"]  # the client numbers what it lists itself
            rows.append(described)
    return page(request, rows)


@router.post("/api/collections")
def create(request: Request, payload: Payload) -> JSONResponse:
    """Make an empty collection; an equal title of the same user is a conflict."""
    title, description = (str(payload.get(key) or "") for key in ("title", "description"))
    user = access.owned_namespace(request, str(payload.get("namespace") or ""))
    private = payload.get("private") is True
    _check({**_NEW, "title": title, "description": description, "private": private})
    key = (user.name, title)
    with connect(store_of(request).root) as db:
        done = db.execute(
            "insert or ignore into collections (namespace, title, description, private, changed)"
            " values (?, ?, ?, ?, ?)",
            (*key, description, private, time.time()),
        )
        row = db.execute("select * from collections where namespace = ? and title = ?", key)
        made = {**dict(row.fetchone()), "items": []}
    described = _describe({**made, "slug": _slug(made)})
    if not done.rowcount:
        return JSONResponse({"error": "This collection exists", "slug": described["slug"]}, 409)
    return JSONResponse(described)


@router.get(_SLUG)
def get(request: Request, namespace: str, slug: str) -> dict[str, Any]:
    """Return a collection with everything in it."""
    return _describe(readable(request, namespace, slug))


@router.delete(_SLUG)
def delete(request: Request, namespace: str, slug: str) -> dict[str, str]:
    """Delete a collection; the repositories in it stay."""
    access.owned_namespace(request, namespace)
    collection = readable(request, namespace, slug)
    with connect(store_of(request).root) as db:
        db.execute("delete from collections where id = ?", (collection["id"],))
    return {"status": "ok"}


@router.patch(_SLUG)
def change(request: Request, payload: Payload, namespace: str, slug: str) -> dict[str, Any]:
    """Change `title`, `description`, `private`, `theme` or `position`; the address stays good."""
    access.owned_namespace(request, namespace)
    collection = readable(request, namespace, slug)
    new = {key: payload.get(key, collection[key]) for key in _CHANGED}
    _check(new)
    with connect(store_of(request).root) as db:
        assignments = ", ".join(f"{key} = ?" for key in new)
        try:
            db.execute(
                f"update collections set {assignments}, changed = ? where id = ?",
                (*new.values(), time.time(), collection["id"]),
            )
        except sqlite3.IntegrityError:
            raise HubError(409, "Another collection has this title") from None
    return {"data": _describe(readable(request, namespace, slug))}


def _check(new: dict[str, Any]) -> None:
    """Refuse values that a collection cannot have.

    Raises:
        HubError: 400 if there is one.
    """
    title, description, position = new["title"], new["description"], new["position"]
    good = isinstance(title, str) and 0 < len(title) <= _TITLE
    good = good and isinstance(description, str) and len(description) <= _DESCRIPTION
    if not good:
        raise HubError(400, f"A title has 1 to {_TITLE} characters, a text at most {_DESCRIPTION}")
    if new["private"] not in (False, True) or new["theme"] not in _THEMES:
        raise HubError(400, f"A theme is one of {', '.join(_THEMES)}; `private` is true or false")
    if isinstance(position, bool) or not isinstance(position, int):
        raise HubError(400, "A position is a number")


@router.patch(_SLUG + "/items/{item}")
def change_item(
    request: Request, payload: Payload, namespace: str, slug: str, item: str
) -> dict[str, Any]:
    """Change an item's `note`, or its `position` among all."""
    access.owned_namespace(request, namespace)
    collection = readable(request, namespace, slug)
    number = int(item, 16) if _NUMBER.fullmatch(item) else 0
    note, position = payload.get("note"), payload.get("position")
    if note is not None and (not isinstance(note, str) or len(note) > _NOTE):
        raise HubError(400, f"A note has at most {_NOTE} characters")
    if position is not None and (isinstance(position, bool) or not isinstance(position, int)):
        raise HubError(400, "A position is a number")
    ids = [row["id"] for row in collection["items"]]
    if number not in ids:
        raise HubError(404, "Item not found")
    if position is not None:
        ids.remove(number)
        ids.insert(max(0, position), number)
    with connect(store_of(request).root) as db:
        if note is not None:
            db.execute("update items set note = ? where id = ?", (note, number))
        places = [(place, one) for place, one in enumerate(ids)]
        db.executemany("update items set position = ? where id = ?", places)
        changed = "update collections set changed = ? where id = ?"
        db.execute(changed, (time.time(), collection["id"]))
    return {"success": True}


@router.post(_SLUG + "/items")
def add(request: Request, payload: Payload, namespace: str, slug: str) -> dict[str, Any]:
    """Add a repository (`item`: `id` and `type`), with a note if wanted."""
    access.owned_namespace(request, namespace)
    collection, repo = readable(request, namespace, slug), _repository(request, payload.get("item"))
    note = str(payload.get("note") or "")
    if len(note) > _NOTE:
        raise HubError(400, f"A note has at most {_NOTE} characters")
    with connect(store_of(request).root) as db:
        try:
            db.execute(
                "insert into items (collection, repo, note, position) values (?, ?, ?, ?)",
                (collection["id"], repo.id, note, len(collection["items"])),
            )
        except sqlite3.IntegrityError:
            raise HubError(409, "This item is in the collection") from None
        db.execute(
            "update collections set changed = ? where id = ?", (time.time(), collection["id"])
        )
    return _describe(readable(request, namespace, slug))


def _repository(request: Request, item: Any) -> Repo:
    if not isinstance(item, dict) or item.get("type") not in KINDS:
        raise HubError(400, "An item is a model, a dataset or a space with its id")
    owner, _, name = str(item.get("id")).partition("/")
    return access.readable(request, str(item["type"]), owner, name)


@router.delete(_SLUG + "/items/{item}")
def remove(request: Request, namespace: str, slug: str, item: str) -> dict[str, str]:
    """Take an item out."""
    access.owned_namespace(request, namespace)
    collection = readable(request, namespace, slug)
    number = int(item, 16) if _NUMBER.fullmatch(item) else 0
    with connect(store_of(request).root) as db:
        gone = db.execute(
            "delete from items where id = ? and collection = ?", (number, collection["id"])
        )
        if not gone.rowcount:
            raise HubError(404, "Item not found")
    return {"status": "ok"}

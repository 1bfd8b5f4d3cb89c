"""Who the people of a Hub are, as far as whoever asks may know; nobody follows or likes anything.

The client has no call that likes or follows, so that empty lists are the whole truth.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from usermirrorer.hub.server import access
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.routing import iso, kind_of, page
from usermirrorer.hub.server.store import KINDS, connect

router = APIRouter()


@router.get("/api/users/{user}/overview")
def overview(request: Request, user: str) -> dict[str, Any]:
    """Describe a user: their name and how many repositories of theirs the visitor may see."""
    row, counts = _known(request, user)
    return {
        "user": row["name"],
        "fullname": row["name"],
        "type": "user",
        "avatarUrl": "",
        "isPro": False,
        "orgs": [],
        "createdAt": iso(row["created"]),
        **{f"num{kind.capitalize()}s": counts[kind] for kind in KINDS},
        **{f"num{thing}": 0 for thing in ("Discussions", "Papers", "Upvotes", "Likes")},
        **{f"num{thing}": 0 for thing in ("Following", "Followers")},
    }


def _known(request: Request, user: str) -> tuple[dict[str, Any], Counter[str]]:
    """Return a user's record, and how many repositories of each kind the visitor may see.

    Strangers are told of those alone who show something.

    Raises:
        HubError: 404.
    """
    visitor, store = access.visitor(request), store_of(request)
    with connect(store.root) as db:
        row = db.execute("select * from users where name = ?", (user,)).fetchone()
    if row is not None:
        mine = visitor is not None and visitor.name == row["name"]
        records = store.repos("namespace = ?", (row["name"],))
        counts = Counter(one.kind for one in records if mine or not one.private)
        if counts or visitor is not None:
            return dict(row), counts
    raise HubError(404, "There is no such user")


@router.get("/api/users/{user}/likes")
@router.get("/api/users/{user}/followers")
@router.get("/api/users/{user}/following")
def nothing_of_a_user(request: Request, user: str) -> JSONResponse:
    """List what a user likes, or who follows whom: nothing and nobody."""
    _known(request, user)
    return page(request, [])


@router.get(REPO + "/likers")
def likers(request: Request, kinds: str, namespace: str, name: str) -> JSONResponse:
    """List who likes a repository: nobody."""
    access.readable(request, kind_of(kinds), namespace, name)
    return page(request, [])


@router.delete(REPO + "/like")
def unlike(request: Request, kinds: str, namespace: str, name: str) -> dict[str, str]:
    """Leave it at that: who asks does not like the repository."""
    access.readable(request, kind_of(kinds), namespace, name)
    return {"status": "ok"}

"""Gated repositories: who asked to read them, and whom their owner let in."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from usermirrorer.hub.server import access
from usermirrorer.hub.server.access import HubError, Payload, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.routing import iso, kind_of, page
from usermirrorer.hub.server.store import Repo, connect

router = APIRouter()
_STATUSES = ("pending", "accepted", "rejected")
#: Letters of the reason that a rejection may have.
_REASON = 500
_REQUESTS = REPO + "/user-access-request"


@router.post("/{kinds:kinds}/{namespace}/{name}/ask-access")
@router.post("/{namespace:owner}/{name}/ask-access")
def ask(request: Request, namespace: str, name: str, kinds: str = "models") -> dict[str, str]:
    """Ask to read a gated repository; with `auto`, that is enough."""
    user = access.signed_in(request)
    record = access.readable(request, kind_of(kinds), namespace, name)
    if user.name.lower() == record.namespace.lower():
        raise HubError(400, "You own this repository")
    _check_gated(record)
    first = "accepted" if record.gated == "auto" else "pending"
    with connect(store_of(request).root) as db:
        db.execute(
            "insert or ignore into grants (repo, user, status, changed) values (?, ?, ?, ?)",
            (record.id, user.name, first, time.time()),
        )
    return {"status": store_of(request).grant(record, user.name) or first}


@router.get(_REQUESTS + "/{status}")
def listing(request: Request, kinds: str, namespace: str, name: str, status: str) -> JSONResponse:
    """List who asked, by how it stands; the owner's to see."""
    record, _ = access.writable(request, kind_of(kinds), namespace, name)
    _check_gated(record)
    if status not in _STATUSES:
        raise HubError(404, "A request is pending, accepted or rejected")
    with connect(store_of(request).root) as db:
        asked = "select * from grants where repo = ? and status = ? order by id"
        rows = [_row(row) for row in db.execute(asked, (record.id, status))]
    return page(request, rows)


def _row(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "requestId": f"{row['id']:024x}",
        "user": {"user": row["user"], "fullname": row["user"], "email": None},
        "status": row["status"],
        "timestamp": iso(row["changed"]),
        **({"rejectionReason": row["reason"]} if row["reason"] else {}),
    }


def _check_gated(record: Repo) -> None:
    if not record.gated:
        raise HubError(400, f"{record.full_name} is not gated")


@router.post(_REQUESTS + "/handle")
def handle(
    request: Request, payload: Payload, kinds: str, namespace: str, name: str
) -> dict[str, Any]:
    """Accept or reject a request, or let it wait again (`user` or `requestId`, and `status`)."""
    record, _ = access.writable(request, kind_of(kinds), namespace, name)
    _check_gated(record)
    status, reason = str(payload.get("status")), str(payload.get("rejectionReason") or "")
    if status not in _STATUSES or len(reason) > _REASON:
        raise HubError(400, f"A request is {', '.join(_STATUSES)}; a reason has {_REASON} letters")
    user, number = str(payload.get("user") or ""), str(payload.get("requestId") or "")
    which = "user = ?" if user else "printf('%024x', id) = ?"
    with connect(store_of(request).root) as db:
        asked = f"select * from grants where repo = ? and {which}"
        row = db.execute(asked, (record.id, user or number)).fetchone()
        if row is None:
            raise HubError(404, "There is no such request")
        if row["status"] == status:
            raise HubError(404, f"This request is {status} already")
        return _put(db, record, row["user"], status, reason)


@router.post(_REQUESTS + "/grant")
def grant(
    request: Request, payload: Payload, kinds: str, namespace: str, name: str
) -> dict[str, Any]:
    """Let a user in who has not asked."""
    record, _ = access.writable(request, kind_of(kinds), namespace, name)
    _check_gated(record)
    with connect(store_of(request).root) as db:
        named = "select name from users where name = ?"
        user = db.execute(named, (str(payload.get("user")),)).fetchone()
        if user is None:
            raise HubError(404, "There is no such user")
        if store_of(request).grant(record, user["name"]) == "accepted":
            raise HubError(400, f"{user['name']} has access already")
        return _put(db, record, user["name"], "accepted", "")


def _put(
    db: sqlite3.Connection, record: Repo, user: str, status: str, reason: str
) -> dict[str, Any]:
    db.execute(
        "insert into grants (repo, user, status, reason, changed) values (?, ?, ?, ?, ?)"
        " on conflict (repo, user) do update set status = excluded.status,"
        " reason = excluded.reason, changed = excluded.changed",
        (record.id, user, status, reason, time.time()),
    )
    put = "select * from grants where repo = ? and user = ?"
    return _row(db.execute(put, (record.id, user)).fetchone())

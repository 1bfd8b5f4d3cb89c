"""Who attacks what: the repositories of an organisation, and everybody who may ask for them."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from usermirrorer.hub.server import store

#: Who owns the repositories that are attacked, and whose else there are.
ORGANISATION, OTHER = "lab", "eve"
#: Repositories of the organisation, of each kind: what is special about them.
REPOSITORIES: dict[str, dict[str, Any]] = {
    "open": {},
    "unseen": {"private": True},
    "asked": {"gated": "auto"},
    "closed": {"gated": "manual"},
}
KINDS = ("dataset", "model")
#: Its collections, each with an open and an unseen dataset in it.
COLLECTIONS: dict[str, dict[str, Any]] = {"shown": {}, "unseen-page": {"private": True}}
#: What only those may read who may see a repository, and who may read its files.
ABOUT, CONTENT = "mark-of-what-is-about", "mark-of-the-content"
#: A day that no upload of Xet is of.
PAST = 1


def large_file(kind: str, name: str) -> bytes:
    """Return the content of a repository's large file."""
    return f"{CONTENT} {kind} {name} ".encode() * 50


def sha256_of(kind: str, name: str) -> str:
    """Return the SHA-256 of a repository's large file."""
    return hashlib.sha256(large_file(kind, name)).hexdigest()


@dataclass
class World:
    """A running Hub with its people and their repositories."""

    endpoint: str
    root: Path
    tokens: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    #: Given out by the server: the path for Xet, its token, and (method, path) for large files.
    signed: tuple[str, str, list[tuple[str, str]]] = ("", "", [])
    #: `slug`, without its owner, and `item`, the first in it, of each collection.
    collections: dict[str, dict[str, str]] = field(default_factory=dict)

    def headers(self, actor: str) -> dict[str, str]:
        """Return what a request of this actor carries."""
        if actor in self.cookies:
            return {"Cookie": self.cookies[actor]}
        if actor in self.tokens:
            return {"Authorization": f"Bearer {self.tokens[actor]}"}
        return {}

    def client(self, actor: str, timeout: float = 300) -> httpx.Client:
        """Return a client of this actor."""
        return httpx.Client(base_url=self.endpoint, headers=self.headers(actor), timeout=timeout)


#: Everybody; those of the organisation first.
WRITER, READER, BROWSER = "org writer", "org reader", "browser of the org"
STRANGERS = ("anonymous", "other user", "browser of another", "revoked token", "wrong token")
ACTORS = (WRITER, READER, BROWSER, *STRANGERS)


def build(endpoint: str, root: Path) -> World:
    """Make the people and the repositories on a running Hub whose folder is `root`."""
    world = World(endpoint, root)
    for actor, user, role in (
        (WRITER, ORGANISATION, "write"),
        (READER, ORGANISATION, "read"),
        ("other user", OTHER, "write"),
        ("revoked token", ORGANISATION, "write"),
    ):
        world.tokens[actor] = store.create_token(root, user, role, label=actor)
    world.tokens["wrong token"] = "hf_wrong"
    for actor, owner in ((BROWSER, WRITER), ("browser of another", "other user")):
        with world.client("anonymous") as client:
            client.post("/login", data={"token": world.tokens[owner]})
            world.cookies[actor] = "; ".join(f"{k}={v}" for k, v in client.cookies.items())
    revoked = next(t for t in store.list_tokens(root) if t["label"] == "revoked token")
    store.revoke_token(root, revoked["id"])
    with world.client(WRITER) as client:
        for kind in KINDS:
            for name, settings in REPOSITORIES.items():
                make(client, kind, name, settings)
        for title, settings in COLLECTIONS.items():
            make_collection(client, world, title, settings)
    with world.client("other user") as client:
        for kind in KINDS:
            make(client, kind, "own", {}, owner=OTHER)
    world.signed = signed_addresses(world)
    return world


def signed_addresses(world: World) -> tuple[str, str, list[tuple[str, str]]]:
    """Ask for what a server signs about the organisation's open dataset."""
    batch = "/datasets/lab/open.git/info/lfs/objects/batch"
    transfers = []
    with world.client(WRITER) as client:
        xet = client.get("/api/datasets/lab/open/xet-write-token/main").raise_for_status().json()
        for operation, method, oid, size in (
            ("upload", "PUT", "f" * 64, 3),
            ("download", "GET", sha256_of("dataset", "open"), 1),
        ):
            body = {"operation": operation, "objects": [{"oid": oid, "size": size}]}
            (answer,) = client.post(batch, json=body).raise_for_status().json()["objects"]
            address = httpx.URL(answer["actions"][operation]["href"])
            transfers.append((method, address.raw_path.decode()))
    return httpx.URL(xet["casUrl"]).path, xet["accessToken"], transfers


def make(
    client: httpx.Client,
    kind: str,
    name: str,
    settings: dict[str, Any],
    owner: str = ORGANISATION,
) -> None:
    """Make a repository with a card, small files, a large one, a tag and a branch."""
    body = {"name": name, "type": kind, "private": settings.get("private", False)}
    client.post("/api/repos/create", json=body).raise_for_status()
    address = f"/api/{kind}s/{owner}/{name}"
    oid = upload(client, kind, f"{owner}/{name}", large_file(kind, name))
    about = ABOUT if settings.get("private") else "about"
    card = f"---\nlicense: mit\npretty_name: {about}\n---\n# {CONTENT}\n"
    files = {"README.md": card, "data/a.txt": f"{CONTENT} {name}", f"data/{about}.txt": CONTENT}
    lines = [{"key": "header", "value": {"summary": about}}]
    for path, text in files.items():
        content = base64.b64encode(text.encode()).decode()
        value = {"path": path, "content": content, "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    large = {"path": "big.bin", "algo": "sha256", "oid": oid, "size": len(large_file(kind, name))}
    lines.append({"key": "lfsFile", "value": large})
    client.post(
        f"{address}/commit/main", content="\n".join(map(json.dumps, lines))
    ).raise_for_status()
    client.post(f"{address}/tag/main", json={"tag": "v1", "message": about}).raise_for_status()
    client.post(f"{address}/branch/side", json={}).raise_for_status()
    if gated := settings.get("gated"):
        client.put(f"{address}/settings", json={"gated": gated}).raise_for_status()


def make_collection(
    client: httpx.Client, world: World, title: str, settings: dict[str, Any]
) -> None:
    """Make a collection with an open and an unseen dataset."""
    about = ABOUT if settings.get("private") else "about"
    body = {"title": title, "namespace": ORGANISATION, "description": about, **settings}
    slug = client.post("/api/collections", json=body).raise_for_status().json()["slug"]
    for name in ("open", "unseen"):
        item = {"item": {"id": f"{ORGANISATION}/{name}", "type": "dataset"}}
        made = client.post(f"/api/collections/{slug}/items", json=item).raise_for_status().json()
    item_id = made["items"][0]["_id"]
    world.collections[title] = {"slug": slug.partition("/")[2], "item": item_id}


def upload(client: httpx.Client, kind: str, full_name: str, data: bytes) -> str:
    """Send a large file if it is not there; return its SHA-256."""
    oid = hashlib.sha256(data).hexdigest()
    prefix = "" if kind == "model" else f"/{kind}s"
    answer = client.post(
        f"{prefix}/{full_name}.git/info/lfs/objects/batch",
        json={"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]},
    )
    for action in answer.raise_for_status().json()["objects"]:
        if "actions" in action:
            address = action["actions"]["upload"]["href"]
            httpx.put(address, content=data, timeout=60).raise_for_status()
    return oid


def routes() -> Iterator[tuple[str, str]]:
    """Yield (method, path) of every route of the application, those outside its schema as well."""
    from usermirrorer.hub.server.app import create_app

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Path(folder))
        app.state.store.close()
    waiting: list[Any] = list(app.routes)
    for route in waiting:
        if hasattr(route, "original_router"):  # what `include_router` makes
            waiting += route.original_router.routes
        else:
            yield from ((method, route.path) for method in sorted(route.methods))

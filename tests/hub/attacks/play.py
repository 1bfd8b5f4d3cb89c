"""The whole corpus as attacks that can be played again and again, by a user and by strangers."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Iterator

import httpx

from tests.hub.attacks import bombs, corpus
from tests.hub.attacks import world as worlds
from tests.hub.attacks.world import STRANGERS, World

#: Plays itself and yields the statuses of the answers.
Attack = Callable[[], Iterator[int]]
#: The attacker's own repositories.
EVIL = (("model", "evil"), ("dataset", "evil"))


def endless(world: World, seed: int = 1) -> Iterator[tuple[str, Attack]]:
    """Yield (name, attack) without end, in a new order each time."""
    chance = random.Random(seed)
    with world.client("other user") as client:
        for kind, name in EVIL:
            client.post("/api/repos/create", json={"name": name, "type": kind})
        wide = bombs.wide_table(20_000)
        oid = worlds.upload(client, "dataset", "eve/evil", wide)
        card = (
            "---\nconfigs:\n- config_name: a\n  data_files:\n  - {split: a, path: w.parquet}\n---\n"
        )
        large = {"path": "w.parquet", "algo": "sha256", "oid": oid, "size": len(wide)}
        lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": large}]
        client.post("/api/datasets/eve/evil/commit/main", content="\n".join(map(json.dumps, lines)))
        corpus.commit(client, "datasets/eve/evil", {"README.md": card})
    while True:
        entries = list(_entries(world))
        chance.shuffle(entries)
        yield from entries


def _entries(world: World) -> Iterator[tuple[str, Attack]]:
    for row in corpus.rows("yaml"):
        yield f"yaml: {row['name']}", lambda row=row: _yaml(world, row)
    for row in corpus.rows("framing"):
        yield f"framing: {row['name']}", lambda row=row: _framed(world, corpus.text_of(row))
    for call in corpus.calls():
        yield f"rights: {call}", lambda call=call: _call(world, call)
    for row in corpus.rows("json"):
        yield f"json: {row['name']}", lambda row=row: _json(world, corpus.text_of(row))
    for name, text in bombs.MARKDOWN.items():
        yield f"markdown: {name}", lambda text=text: _page(world, text)
    for name, shard in bombs.SHARDS.items():
        yield f"shard: {name}", lambda shard=shard: _shard(world, shard)
    for number in (10_000, 100_000, 700_000):
        for as_json in (True, False):
            body = bombs.many_paths(number, as_json=as_json)
            yield f"paths: {number}", lambda body=body: _ask(world, body)
    yield "connections: half open", lambda: _half_open(world)
    yield "commit: 2,000 files", lambda: _large_commit(world)
    yield "page: 20,000 columns", lambda: _get(world, "/datasets/eve/evil")


def _yaml(world: World, row: dict[str, object]) -> Iterator[int]:
    text = corpus.text_of(row)
    with world.client("other user") as client:
        content = {"content": f"---\n{text}\n---\n"}
        yield client.post("/api/validate-yaml", json=content).status_code
        files = {"README.md": f"---\n{text}\n---\n", ".eval_results/x.yaml": text}
        yield corpus.commit(client, "models/eve/evil", files).status_code
        for address in ("/api/models?full=1", "/api/models/eve/evil", "/eve/evil", "/"):
            yield client.get(address).status_code
        yield client.get("/api/datasets/lab/open/leaderboard").status_code


def _framed(world: World, text: str) -> Iterator[int]:
    url = httpx.URL(world.endpoint)
    with socket.create_connection((url.host, url.port or 80), timeout=300) as connection:
        received = b""
        with contextlib.suppress(OSError):
            connection.sendall(text.encode("latin-1"))
            while block := connection.recv(65536):
                received += block
    for line in received.splitlines():
        if line[:7] == b"HTTP/1.":
            yield int(line.split()[1])


def _call(world: World, call: corpus.Call) -> Iterator[int]:
    for actor in STRANGERS:
        with world.client(actor) as client:
            for name, _ in call.targets():
                yield call.send(client, world, name).status_code


def _json(world: World, text: str) -> Iterator[int]:
    with world.client("other user") as client:
        for address in corpus.JSON_ADDRESSES:
            target = address.replace("lab/open", "eve/evil")
            content = text.encode("utf-8", "surrogatepass")
            headers = {"Content-Type": "application/json"}
            yield client.post(target, content=content, headers=headers).status_code


def _page(world: World, text: str) -> Iterator[int]:
    with world.client("other user") as client:
        yield corpus.commit(client, "models/eve/evil", {"README.md": text}).status_code
        yield client.get("/eve/evil").status_code


def _shard(world: World, shard: bytes) -> Iterator[int]:
    with world.client("other user") as client:
        given = client.get("/api/models/eve/evil/xet-write-token/main").json()
        headers = {"Authorization": f"Bearer {given['accessToken']}"}
        yield httpx.post(
            f"{given['casUrl']}/v1/shards", content=shard, headers=headers, timeout=300
        ).status_code


def _ask(world: World, body: bombs.Body) -> Iterator[int]:
    with world.client("anonymous") as client:
        yield client.post(
            "/api/datasets/lab/open/paths-info/main",
            content=body[0],
            headers={"Content-Type": body[1]},
        ).status_code


def _get(world: World, address: str) -> Iterator[int]:
    with world.client("anonymous") as client:
        yield client.get(address).status_code


def _half_open(world: World) -> Iterator[int]:
    url = httpx.URL(world.endpoint)
    standing = []
    with contextlib.suppress(OSError):
        for _ in range(400):
            connection = socket.create_connection((url.host, url.port or 80), timeout=5)
            connection.sendall(b"GET / HT")
            standing.append(connection)
    time.sleep(0.5)
    yield from _get(world, "/healthz")
    for connection in standing:
        connection.close()


def _large_commit(world: World) -> Iterator[int]:
    with world.client("other user") as client:
        files = {f"many/{n}.txt": f"{time.time_ns()} {n}" for n in range(2000)}
        yield corpus.commit(client, "models/eve/evil", files).status_code

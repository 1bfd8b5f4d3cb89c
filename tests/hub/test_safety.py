"""Promises: rights are checked, garbage gets the right status, nothing escapes, no script runs."""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import time

import httpx
import pytest

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.local import running
from usermirrorer.hub.server import preview
from usermirrorer.hub.server.store import Store, create_token, list_tokens, revoke_token

REPO = "/api/datasets/usermirrorer/d"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        client = httpx.Client(
            base_url=hub.endpoint, headers={"Authorization": f"Bearer {hub.token}"}, timeout=30
        )
        client.post("/api/repos/create", json={"name": "d", "type": "dataset"}).raise_for_status()
        yield root, client


def commit(client, *lines, **options):
    header = {"key": "header", "value": {"summary": "x"}}
    body = "\n".join(json.dumps(line) for line in (header, *lines))
    return client.post(f"{REPO}/commit/main", content=body, **options)


def file(path, content="aGk="):
    return {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}}


def test_tokens_are_stored_hashed_and_can_be_revoked(tmp_path):
    token = create_token(tmp_path, "ann", "read")
    store = Store(tmp_path)
    assert store.user(token).name == "ann"
    everything = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
    assert token.encode() not in everything
    with sqlite3.connect(tmp_path / "hub.sqlite") as db:
        assert db.execute("select digest from tokens").fetchone()[0] != token
    revoke_token(tmp_path, list_tokens(tmp_path)[0]["id"])
    assert store.user(token) is None
    assert (tmp_path / "hub.sqlite").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="another server"):
        Store(tmp_path)


def upload_address(client: httpx.Client, oid: str, size: int) -> str:
    answer = client.post(
        "/datasets/usermirrorer/d.git/info/lfs/objects/batch",
        json={"operation": "upload", "objects": [{"oid": oid, "size": size}]},
    ).json()
    return answer["objects"][0]["actions"]["upload"]["href"]


def begin_upload(address: str, size: int) -> socket.socket:
    """Send the head of an upload and nothing of its body."""
    url = httpx.URL(address)
    connection = socket.create_connection((url.host, url.port), timeout=30)
    head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nHost: localhost\r\n"
    connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
    return connection


def test_a_connection_ends_with_the_large_body_it_brought(hub):
    _, client = hub
    connection = begin_upload(upload_address(client, "2" * 64, 3_000_000), 3_000_000)
    connection.sendall(b"x" * 3_000_000)
    answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 422 ")  # it is not what its address says
    assert b"connection: close" in answer.lower()


def test_uploads_that_stand_still_stop_no_others_and_leave_nothing(hub):
    root, client = hub
    stalled = [begin_upload(upload_address(client, f"{n:064}", 9), 9) for n in range(40)]
    data = b"through" * 300_000
    address = upload_address(client, hashlib.sha256(data).hexdigest(), len(data))
    assert httpx.put(address, content=data, timeout=10).status_code == 200
    (incoming,) = root.glob("repos/*/incoming")
    assert any(incoming.iterdir())
    for connection in stalled:
        connection.close()
    deadline = time.monotonic() + 10
    while any(incoming.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(incoming.iterdir())


def test_upload_addresses_cannot_be_forged_or_reused(hub):
    _, client = hub
    data = b"large" * 100
    oid = hashlib.sha256(data).hexdigest()
    good = upload_address(client, oid, 500)
    other = good.replace(oid, "0" * 64)
    for bad, content, status in (
        (other, data, 403),
        (good.replace("size=500", "size=501"), data + b"x", 403),
        (good.replace("&e=", "&e=9"), data, 403),
        (good, data[:-1], 400),
        (good, data + b"x", 400),
        (good, b"LARGE" * 100, 422),
        (good, iter([data, b"more"]), 422),
        (good, iter([data[:10]]), 422),
    ):
        assert httpx.put(bad, content=content).status_code == status
    assert httpx.put(good, content=data).status_code == 200
    line = {"key": "lfsFile", "value": {"path": "l", "algo": "sha256", "oid": "1" * 64, "size": 3}}
    assert commit(client, line).status_code == 422


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["not json"], 400),
        ([file("a")], 400),  # the header comes first: here it does, twice over
        ([{"key": "what", "value": {"path": "a"}}], 400),
        ([{"key": "file", "value": []}], 400),
        ([file("a", "!!!")], 400),
        ([{"key": "deletedFile", "value": {"path": "nothing"}}], 404),
        ([file("dir/a"), file("dir")], 400),
        ([{"key": "header", "value": {"summary": "x", "parentCommit": "0" * 40}}, file("a")], 412),
    ],
)
def test_garbage_commits(hub, lines, status):
    _, client = hub
    if lines == [file("a")]:  # without a header
        answer = client.post(f"{REPO}/commit/main", content=json.dumps(file("a")))
    elif lines == ["not json"]:
        answer = client.post(f"{REPO}/commit/main", content=b"not json\n")
    else:
        answer = commit(client, *lines)
    assert answer.status_code == status, answer.text
    assert client.get(f"{REPO}/tree/main").status_code == 200


def test_oversized_bodies_are_cut_off(hub):
    _, client = hub
    assert commit(client, file("a", "A" * (17 << 20))).status_code == 413
    assert client.post(f"{REPO}/tag/main", content=b" " * (2 << 20)).status_code == 413


def test_the_page_of_a_hostile_repository(hub):
    _, client = hub
    card = "---\nconfigs: [1, {data_files: x}, {data_files: [{path: '*'}]}]\n"
    card += "tags: [2026-01-01, .nan]\nwhen: 2026-01-01\nmuch: .inf\n---\n# Hello <b>\n"
    import base64

    evil = base64.b64encode(b"<script>alert(1)</script>").decode()
    lines = [
        file("README.md", base64.b64encode(card.encode()).decode()),
        file("<script>.html", evil),
        file("x.html", evil),
    ]
    assert commit(client, *lines).status_code == 200
    assert client.get("/api/datasets?full=1").status_code == 200
    assert client.get(f"{REPO}/revision/main").status_code == 200
    page = client.get("/datasets/usermirrorer/d")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "Hello &lt;b&gt;" in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    sent = client.get("/datasets/usermirrorer/d/resolve/main/x.html")
    assert sent.headers["content-type"].startswith("text/plain")
    assert "sandbox" in sent.headers["content-security-policy"]


def test_a_file_that_unpacks_without_end_costs_its_table_only(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good, bomb, broken = (tmp_path / f"{name}.parquet" for name in ("good", "bomb", "broken"))
    pq.write_table(pa.table({"a": [1, 2]}), good)
    zeros = pa.table({"a": pa.array([bytes(1 << 26)] * 2, pa.large_binary())})
    with pq.ParquetWriter(bomb, zeros.schema, compression="zstd", use_dictionary=False) as file:
        for _ in range(8):
            file.write_table(zeros)
    assert bomb.stat().st_size < 1 << 20  # and 1 GiB in memory
    broken.write_bytes(good.read_bytes().replace(b"a", b"\xff"))
    shown = preview.first_rows((good, bomb, broken, good), 20, 50)
    table = {"columns": ["a"], "rows": [["1"], ["2"]]}
    assert shown == [table, None, None, table]


def test_odd_yaml_becomes_plain_or_is_refused():
    from usermirrorer.hub.server.foreign_yaml import plain_yaml

    assert plain_yaml("a: 2026-01-01\nb: .nan\n1: x") == {"a": "2026-01-01", "b": "NaN", "1": "x"}
    for bad in (
        "a: &x 1\nb: *x",
        "? [1]\n: 2",
        "[" * 5000,
        "a: b: c",
        "!!python/object:os.system x",
    ):
        with pytest.raises(ValueError, match=r"YAML"):
            plain_yaml(bad)

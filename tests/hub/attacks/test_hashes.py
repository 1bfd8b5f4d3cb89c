"""Promise: to know the hash of content is no right to it: not by large files, Xet or addresses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.hub.attacks import bombs
from tests.hub.attacks import world as worlds
from tests.hub.attacks.world import CONTENT, World, large_file, sha256_of
from usermirrorer.hub.local import running

OWN = "/api/datasets/eve/own"
OWN_BATCH = "/datasets/eve/own.git/info/lfs/objects"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        yield worlds.build(hub.endpoint, root)


@pytest.fixture(params=[(k, n) for k in worlds.KINDS for n in worlds.REPOSITORIES], ids=str)
def hash_of_others(request: pytest.FixtureRequest) -> tuple[str, int]:
    """The SHA-256 and size of a large file that the other user's repository does not have."""
    kind, name = request.param
    return sha256_of(kind, name), len(large_file(kind, name))


def test_large_files_of_others_cannot_be_taken_by_hash(world, hash_of_others):
    oid, size = hash_of_others
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
    header = {"key": "header", "value": {"summary": "x"}}
    with world.client("other user") as client:
        for operation, status in (
            ({"key": "lfsFile", "value": {"path": "x", "oid": oid, "size": size}}, 422),
            ({"key": "lfsFile", "value": {"path": "x", "oid": oid}}, 422),
            ({"key": "file", "value": {"path": "x", "content": pointer, "encoding": "utf-8"}}, 400),
        ):
            content = "\n".join(map(json.dumps, (header, operation)))
            assert client.post(f"{OWN}/commit/main", content=content).status_code == status
        body = {"operation": "download", "objects": [{"oid": oid, "size": size}]}
        (row,) = client.post(f"{OWN_BATCH}/batch", json=body).json()["objects"]
        assert row["error"]["code"] == 404 and "actions" not in row
        (row,) = client.post(f"{OWN_BATCH}/batch", json=body | {"operation": "upload"}).json()[
            "objects"
        ]
        assert "upload" in row["actions"]  # as if nobody had it
        answer = client.post(f"{OWN_BATCH}/verify", json={"oid": oid, "size": size})
        assert answer.status_code == 404
        assert client.get("/datasets/eve/own/resolve/main/x").status_code == 404


def addresses(world: World) -> dict[str, str]:
    """Return addresses for the other user's own large file and for one that they may send."""
    made = {}
    with world.client("other user") as client:
        for operation, oid in (("download", sha256_of("dataset", "own")), ("upload", "e" * 64)):
            body = {"operation": operation, "objects": [{"oid": oid, "size": 9}]}
            (row,) = client.post(f"{OWN_BATCH}/batch", json=body).json()["objects"]
            made[operation] = row["actions"][operation]["href"]
    return made


def test_signed_addresses_are_good_for_what_they_were_given_for_alone(world):
    given = addresses(world)
    assert httpx.get(given["download"]).content == large_file("dataset", "own")
    for operation, method in (("download", "GET"), ("upload", "PUT")):
        address = given[operation]
        others = [
            re.sub(r"/lfs/[0-9]+/", f"/lfs/{number}/", address)
            for number in range(1, 12)
            if f"/lfs/{number}/" not in address
        ]
        others += [re.sub(r"[0-9a-f]{64}\?", f"{oid}?", address) for oid in swapped()]
        others += [re.sub(r"([&?]e=)", r"\g<1>9", address), address.partition("?")[0]]
        others += [re.sub(r"([&?]s=)[0-9a-f]{8}", r"\g<1>00000000", address)]
        others += [re.sub(r"(size=)[0-9]+", r"\g<1>10", address)] * (operation == "upload")
        for other in others:
            answer = httpx.request(method, other, content=b"x" * 9 if method == "PUT" else None)
            assert answer.status_code in (401, 403, 404), other
            assert CONTENT.encode() not in answer.content
        wrong = "PUT" if method == "GET" else "GET"
        assert httpx.request(wrong, address).status_code in (401, 403, 404)


def swapped() -> list[str]:
    """Return the hashes of all the organisation's large files."""
    return [sha256_of(kind, name) for kind in worlds.KINDS for name in worlds.REPOSITORIES]


def xet_of(client: httpx.Client, repo: str) -> dict[str, Any]:
    return client.get(f"/api/{repo}/xet-write-token/main").raise_for_status().json()


def test_tokens_of_xet_are_good_for_their_repository_alone(world):
    with world.client("other user") as client:
        given = xet_of(client, "datasets/eve/own")
    headers = {"Authorization": f"Bearer {given['accessToken']}"}
    number = int(re.search(r"/xet/([0-9]+)/", given["casUrl"])[1])
    for other in range(1, 12):
        base = given["casUrl"].replace(f"/xet/{number}/", f"/xet/{other}/")
        answer = httpx.post(f"{base}/v1/shards", content=b"x", headers=headers)
        assert answer.status_code == (400 if other == number else 401), other
        answer = httpx.post(f"{base}/v1/xorbs/default/{'f' * 64}", content=b"x", headers=headers)
        assert answer.status_code == (400 if other == number else 401), other
    for day in (1, 99999):
        base = re.sub(r"/[0-9]+$", f"/{day}", given["casUrl"])
        assert httpx.post(f"{base}/v1/shards", content=b"x", headers=headers).status_code == 401
    for headers in ({}, {"Authorization": f"Bearer {world.tokens['other user']}"}):
        answer = httpx.post(f"{given['casUrl']}/v1/shards", content=b"x", headers=headers)
        assert answer.status_code == 401


def test_a_xorb_that_is_broken_on_the_disk_is_taken_again(world):
    """Power failed while it was written: to say that it is there would fail its file for a day."""
    from tests.hub.test_xet import chunk
    from usermirrorer.hub.server import xet

    content = chunk(b"one") + chunk(b"two!", 1)
    with io.BufferedReader(io.BytesIO(content)) as file:
        name = xet.xorb_hash(file)
    with world.client(worlds.WRITER) as client:
        given = xet_of(client, "datasets/lab/open")
    headers = {"Authorization": f"Bearer {given['accessToken']}"}
    address = f"{given['casUrl']}/v1/xorbs/default/{name}"
    for inserted in (True, False):
        answer = httpx.post(address, content=content, headers=headers)
        assert answer.json() == {"was_inserted": inserted}
    (stored,) = world.root.glob(f"repos/*/xet/*/{name}")
    for broken in (content[:-1], b"", bytes(len(content))):
        stored.write_bytes(broken)
        answer = httpx.post(address, content=content, headers=headers)
        assert answer.json() == {"was_inserted": True}
        assert stored.read_bytes() == content


def test_xorbs_and_files_of_others_cannot_be_taken_by_hash(world):
    """A shard that names a xorb which another repository has been sent."""
    from tests.hub.test_xet import chunk
    from usermirrorer.hub.server import xet

    path = world.root / "xorb"
    path.write_bytes(chunk(b"secret of the organisation"))
    with path.open("rb") as file:
        name = xet.xorb_hash(file)
    path.unlink()
    with world.client(worlds.WRITER) as client:
        given = xet_of(client, "datasets/lab/unseen")
    headers = {"Authorization": f"Bearer {given['accessToken']}"}
    sent = httpx.post(
        f"{given['casUrl']}/v1/xorbs/default/{name}",
        content=chunk(b"secret of the organisation"),
        headers=headers,
    )
    assert sent.json() == {"was_inserted": True}
    raw = b"".join(int(name[n : n + 16], 16).to_bytes(8, "little") for n in range(0, 64, 16))
    shard = bombs.shard((26, 0, 1)).replace(b"x" * 32, raw)
    with world.client("other user") as client:
        mine = xet_of(client, "datasets/eve/own")
    answer = httpx.post(
        f"{mine['casUrl']}/v1/shards",
        content=shard,
        headers={"Authorization": f"Bearer {mine['accessToken']}"},
    )
    assert answer.status_code == 400
    assert "has not been sent" in answer.json()["error"]
    assert str(world.root) not in answer.text  # where things lie is nobody's business
    with world.client("other user") as client:  # nor does the hash say that others have it
        again = httpx.post(
            f"{mine['casUrl']}/v1/xorbs/default/{name}",
            content=chunk(b"secret of the organisation"),
            headers={"Authorization": f"Bearer {mine['accessToken']}"},
        )
    assert again.json() == {"was_inserted": True}

"""Promise: no address, and no name in a body, leads out of the repository that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.hub.attacks import world as worlds
from tests.hub.attacks.corpus import calls
from tests.hub.attacks.world import World
from usermirrorer.hub.local import running

VALUES = json.loads((Path(__file__).parent / "traversal.json").read_text())
CALLS = {call.call: call for call in calls()}.values()  # each route once


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("around") / "hub"
    with running(root) as hub:
        yield worlds.build(hub.endpoint, root)


def around(world: World) -> dict[str, bytes]:
    """Return the names around the repositories, and what is in the files among them."""
    known = re.compile(r"hub\.sqlite.*|server\.log")  # what changes with every write
    folders = (world.root.parent, world.root, world.root / "repos")
    paths = [path for folder in folders for path in folder.iterdir()]
    return {
        str(path): b"" if path.is_dir() else path.read_bytes()
        for path in paths
        if not known.fullmatch(path.name)
    }


def assert_nothing_got_out(world: World, answer: httpx.Response) -> None:
    secret = (world.root / "secret").read_bytes()
    assert answer.status_code < 500 or answer.status_code == 501, (
        answer.request.url,
        answer.text[:500],
    )
    for hidden in (secret, b"root:x:0", b"SQLite format", b"[core]", str(world.root).encode()):
        assert hidden not in answer.content, answer.request.url
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("call", [c for c in CALLS if "{" in c.call], ids=str)
def test_no_segment_of_an_address_leads_out(world, call):
    """As the organisation's writer: whom nothing else would stop."""
    before = around(world)
    method, path = call.call.split(" ")
    with world.client(worlds.WRITER) as client:
        for parameter in re.findall(r"\{(\w+)\}", path):
            for segment in VALUES["segments"]:
                values = call.values(world, "open") | {"repo_id": "1"}
                raw = re.sub(
                    r"\{(\w+)\}",
                    lambda m, p=parameter, s=segment, v=values: s if m[1] == p else v[m[1]],
                    path,
                )
                url = client.base_url.copy_with(raw_path=raw.encode())
                content = None if call.changes else call.content(world, "open")
                answer = client.request(method, url, content=content)
                assert_nothing_got_out(world, answer)
    assert around(world) == before


def replaced(value: Any, by: str) -> Iterator[Any]:
    """Yield a value of JSON once for each text in it, with this text replaced."""
    if isinstance(value, str):
        yield by
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from ({**value, key: new} for new in replaced(child, by))
    elif isinstance(value, list | tuple):
        for at, child in enumerate(value):
            yield from ([*value[:at], new, *value[at + 1 :]] for new in replaced(child, by))


@pytest.mark.parametrize("call", [c for c in CALLS if c.body or c.lines], ids=str)
def test_no_name_in_a_body_leads_out(world, call):
    """As another user, who may create and commit, in their own repository."""
    before = around(world)
    method, path = call.call.split(" ")
    values = call.values(world, "open") | {"namespace": worlds.OTHER, "name": "own"}
    address = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], path)
    lines = call.lines or (call.body,)
    with world.client("other user") as client:
        for value in VALUES["values"]:
            for new in replaced(list(lines), value):
                content = "\n".join(json.dumps(line) for line in new)
                content = content.replace("{namespace}", worlds.OTHER).replace("{name}", "own")
                answer = client.request(method, address, content=content)
                assert_nothing_got_out(world, answer)
        listed = client.get("/api/settings/repositories").json()
    made = {str(world.root / "repos" / row["id"]) for row in listed}
    assert around(world).keys() - before.keys() <= made
    assert {unquote(row["name"]).count("/") for row in listed} <= {1}
    assert not any(set(row["name"]) & set("\\\0\r\n~:") or ".." in row["name"] for row in listed)


def test_it_is_the_odd_segment_that_is_refused(world):
    """The same addresses without it are answered."""
    with world.client(worlds.WRITER) as client:
        for call in CALLS:
            if call.right in ("see", "read"):
                name = "shown" if call.of == "collection" else "open"
                assert call.send(client, world, name).status_code in call.status

"""Promise: nobody reads or writes what they may not, by whatever route; nor learns that it exists.

`calls.json` has a row for each route of the application: what right it asks for, and an example.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.hub.attacks import world as worlds
from tests.hub.attacks.corpus import Call, calls
from tests.hub.attacks.world import ABOUT, CONTENT, World, routes
from usermirrorer.hub.local import running

CALLS = calls()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        yield worlds.build(hub.endpoint, root)


def test_every_route_has_a_row_that_says_who_may_use_it():
    served = {
        f"{'GET' if method == 'HEAD' else method} {re.sub(r':[a-z]+}', '}', path)}"
        for method, path in routes()
    }
    assert {call.call for call in CALLS} == served


def is_entitled(actor: str, call: Call, target: dict[str, Any], right: str = "") -> bool:
    """Say whether somebody may make a call to (or has another right to) what is the lab's."""
    right = right or call.right
    if actor.startswith("browser") and not call.call.startswith("GET "):
        actor = "anonymous"  # a browser that is signed in reads, and nothing else
    valid = actor not in ("revoked token", "wrong token")
    member = actor in (worlds.WRITER, worlds.READER, worlds.BROWSER)
    if right in ("none", "everybody"):
        return valid or right == "none"
    if right == "signed in":
        return valid and actor != "anonymous"
    if right in ("namespace", "write"):
        return actor == worlds.WRITER
    sees = valid and (member or not target.get("private"))
    if right == "see":
        return sees
    granted = {"": True, "auto": valid and actor != "anonymous", "manual": member}
    return right == "read" and sees and granted[target.get("gated", "")]


def refused(answer: httpx.Response) -> bool:
    return answer.status_code in (401, 403, 404)


def fingerprint(world: World) -> tuple[object, ...]:
    """Return what a write would change: records, references, and the files of every repository."""
    with sqlite3.connect(world.root / "hub.sqlite") as db:
        rows = [line for line in db.iterdump() if "derived" not in line]
    repos = world.root / "repos"
    files = sorted(
        (str(path.relative_to(repos)), path.stat().st_size)
        for path in repos.rglob("*")
        if path.is_file() and "derived" not in path.parts
    )
    references = [path.read_bytes() for path in sorted(repos.glob("*/git/refs/*/*"))]
    return tuple(rows), tuple(files), tuple(references)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_only_the_entitled_get_through(world, call):
    """Strangers to a thing get nothing and change nothing; of a secret one they learn nothing."""
    before = fingerprint(world)
    for name, target in call.targets():
        for actor in worlds.ACTORS:
            if is_entitled(actor, call, target):
                continue
            with world.client(actor) as client:
                answer = call.send(client, world, name)
                told = answer.text + str(answer.headers)
                assert refused(answer), (name, actor, answer.status_code, answer.text)
                assert CONTENT not in told, (name, actor)
                if call.right == "namespace" or is_entitled(actor, call, target, "see"):
                    continue
                assert ABOUT not in told, (name, actor)
                nothing = call.send(client, world, "nothing")
                assert answer.status_code == nothing.status_code, (name, actor)
                if name in answer.text:
                    assert answer.text.replace(name, "nothing") == nothing.text, (name, actor)
    assert fingerprint(world) == before


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_entitled_do_get_through(world, call):
    """Without this the test above would hold for a server that refuses everything."""
    if call.right == "address":
        pytest.skip("see test_hashes.py")
    for name, target in call.targets():
        for actor in worlds.ACTORS:
            if not is_entitled(actor, call, target) or call.changes:
                continue
            with world.client(actor) as client:
                answer = call.send(client, world, name)
            assert answer.status_code in call.status, (name, actor, answer.text)
    if call.changes:
        with world.client(worlds.WRITER) as client:
            once = call.disposable(client, world)
            answer = call.send(client, world, once)
        assert answer.status_code in call.status, answer.text


@pytest.mark.parametrize("call", [c for c in CALLS if c.lists], ids=str)
def test_lists_leave_out_what_their_reader_may_not_see(world, call):
    for actor in worlds.ACTORS:
        if not is_entitled(actor, call, {}):
            continue
        with world.client(actor) as client:
            text = call.send(client, world, "open").text
        member = actor in (worlds.WRITER, worlds.READER, worlds.BROWSER)
        of_organisation = "settings" not in call.call or member
        assert ("unseen" in text) == member, (actor, text)
        assert ("lab/open" in text or "shown" in text) == of_organisation, (actor, text)

"""Promise: whoever waits for the accounts or for a repository holds nobody else up.

The event loop serves everybody: what opens a file of the Hub does so in a thread, by every route.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pygit2

from tests.hub.attacks import corpus
from tests.hub.attacks import world as worlds
from tests.hub.attacks.conftest import serving
from usermirrorer.hub.server.store import ACCOUNTS


def watched(opens: Callable[..., Any], on_the_loop: list[str]) -> Callable[..., Any]:
    """Return the same function, which notes who calls it on an event loop."""

    def watching(*arguments: Any, **named: Any) -> Any:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            on_the_loop.append("".join(traceback.format_stack(limit=12)))
        return opens(*arguments, **named)

    return watching


def test_no_route_opens_anything_on_the_event_loop(tmp_path, monkeypatch):
    on_the_loop: list[str] = []
    monkeypatch.setattr(sqlite3, "connect", watched(sqlite3.connect, on_the_loop))
    monkeypatch.setattr(pygit2, "Repository", watched(pygit2.Repository, on_the_loop))
    with serving(tmp_path) as endpoint:
        world = worlds.build(endpoint, tmp_path)
        for number, call in enumerate(corpus.calls()):
            for actor in (("anonymous", worlds.BROWSER)[number % 2], worlds.WRITER):
                with world.client(actor) as client:
                    client.headers["Accept"] = "text/html"  # errors are pages then
                    changes = call.changes and actor == worlds.WRITER
                    name = call.disposable(client, world) if changes else "open"
                    call.send(client, world, name)
    assert not on_the_loop, on_the_loop[0]


def test_who_waits_for_the_accounts_is_answered_and_others_meanwhile(tmp_path, monkeypatch):
    """A writer that has the accounts for longer than anybody waits: 503, not a failure."""
    patient = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: patient(path, timeout=1))
    with serving(tmp_path) as endpoint:
        world = worlds.build(endpoint, tmp_path)
        writer = patient(tmp_path / ACCOUNTS, isolation_level=None)
        writer.execute("begin immediate")
        answers: list[int] = []

        def rename() -> None:
            body = {"fromRepo": "lab/open", "toRepo": "lab/moved", "type": "dataset"}
            with world.client(worlds.WRITER) as client:
                answers.append(client.post("/api/repos/move", json=body).status_code)

        thread = threading.Thread(target=rename)
        thread.start()
        with world.client("anonymous") as client:
            while thread.is_alive():
                begun = time.monotonic()
                assert client.get("/datasets/lab/open/resolve/main/README.md").status_code == 200
                assert time.monotonic() - begun < 0.5
        writer.execute("rollback")
        writer.close()
    assert answers == [503]

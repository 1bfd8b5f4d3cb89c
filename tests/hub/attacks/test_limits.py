"""Promises: what costs much is refused at once or done in turn; others' reads stay fast."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import Request
from fastapi.responses import Response

from tests.hub.attacks import bombs
from tests.hub.attacks.conftest import sign_in
from tests.hub.attacks.corpus import JSON_ADDRESSES, commit, entries, text_of
from tests.hub.test_backup import put
from usermirrorer.hub.server import history, objects, pages, preview, turns
from usermirrorer.hub.server.access import HubError
from usermirrorer.hub.server.store import Store, create_token

BOARD = "datasets/usermirrorer/board"


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "form"])
@pytest.mark.parametrize("number", [10_001, 100_000, 700_000])
def test_questions_about_many_paths_are_refused_at_once(
    owner, stranger, read_meanwhile, number, as_json
):
    content, kind = bombs.many_paths(number, as_json=as_json)
    with read_meanwhile() as seconds:
        start = time.monotonic()
        answer = stranger.post(
            f"/api/{BOARD}/paths-info/main", content=content, headers={"Content-Type": kind}
        )
        took = time.monotonic() - start
    assert answer.status_code in (400, 413), answer.text[:200]
    assert took < 3
    assert max(seconds) < 1


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "form"])
def test_as_many_paths_as_are_allowed_hold_nobody_up(owner, stranger, read_meanwhile, as_json):
    for number, expand in ((10_000, False), (1000, True)):
        content, kind = bombs.many_paths(number, as_json=as_json, expand=expand)
        with read_meanwhile() as seconds:
            answer = stranger.post(
                f"/api/{BOARD}/paths-info/main", content=content, headers={"Content-Type": kind}
            )
        assert answer.status_code == 200, answer.text[:200]
        assert max(seconds) < 1
    too_many, kind = bombs.many_paths(1001, as_json=as_json, expand=True)
    answer = stranger.post(
        f"/api/{BOARD}/paths-info/main", content=too_many, headers={"Content-Type": kind}
    )
    assert answer.status_code == 413


def test_questions_about_many_objects_are_refused(owner, stranger):
    content, kind = bombs.many_objects(10_001)
    for path in (f"/{BOARD}.git/info/lfs/objects/batch",):
        answer = stranger.post(path, content=content, headers={"Content-Type": kind})
        assert answer.status_code == 413


class Costly:
    """The middleware before an application whose answers wait for `done`; asked from anywhere."""

    def __init__(self) -> None:
        self.done, self.running, self.statuses = asyncio.Event(), 0, Counter[int]()
        self.turns = turns.Turns(self.answer, lambda _, error: Response(status_code=error.status))

    async def answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.running += 1
        await self.done.wait()
        self.running -= 1
        await Response("x")(scope, receive, send)

    def ask(self, address: str, takes: asyncio.Event | None = None) -> asyncio.Task[None]:
        """Ask from an address; the client takes the answer when `takes` is set."""
        scope = {"type": "http", "method": "GET", "path": "/api/datasets", "headers": []}

        async def send(message: dict[str, Any]) -> None:
            if "status" in message:
                self.statuses[message["status"]] += 1
            if takes is not None:
                await takes.wait()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        client = {"client": (address, 1), "query_string": b"", **scope}
        return asyncio.create_task(self.turns(client, receive, send))


def test_who_looks_like_many_takes_no_slot_of_those_who_are_signed_in(monkeypatch):
    """Strangers have thousands of addresses, by a proxy's header or of this machine's own."""
    monkeypatch.setattr(turns, "_client", lambda scope: asyncio.sleep(0, scope["client"][0]))

    async def ask() -> None:
        costly = Costly()
        strangers = [costly.ask(f"10.0.{n // 250}.{n % 250}") for n in range(1000)]
        refused = 1000 - turns.WAITING_STRANGERS - turns.SLOTS_OF_STRANGERS
        while costly.statuses[503] < refused:
            await asyncio.sleep(0.01)
        assert costly.running == turns.SLOTS_OF_STRANGERS < turns.SLOTS
        user = costly.ask("user ann")
        await asyncio.sleep(0.1)
        assert costly.running == turns.SLOTS_OF_STRANGERS + 1
        assert costly.statuses == {503: refused}
        costly.done.set()
        await asyncio.gather(user, *strangers)

    asyncio.run(ask())


def test_addresses_of_one_machine_are_one_client():
    def name(address: str) -> str:
        return asyncio.run(turns._client({"type": "http", "headers": [], "client": (address, 1)}))

    assert name("127.0.0.1") == name("127.9.9.9") == name("::1")
    assert name("2001:db8::1") == name("2001:db8::ffff:2") != name("2001:db9::1")
    assert name("10.0.0.1") != name("10.0.0.2")


def test_who_does_not_take_the_answer_holds_no_slot():
    async def ask() -> None:
        costly, never = Costly(), asyncio.Event()
        costly.done.set()
        slow = [costly.ask("127.0.0.1", takes=never) for _ in range(2 * turns.SLOTS)]
        await asyncio.wait_for(costly.ask("127.0.0.1"), 1)
        assert costly.statuses == {200: 2 * turns.SLOTS + 1}
        never.set()
        await asyncio.gather(*slow)

    asyncio.run(ask())


def test_others_write_to_the_accounts_while_a_repository_is_filled(tmp_path):
    """A copy of a large one may take minutes; and of two that take the same name one is told."""
    hub = Store(tmp_path)

    def fill(folder: Path) -> None:
        start = time.monotonic()
        create_token(tmp_path, "bob")
        assert hub.create("model", "ann", "copy", False) is not None
        assert time.monotonic() - start < 5

    assert hub.create("model", "ann", "copy", False, fill) is None
    assert hub.create("model", "bob", "copy", False, lambda _: None) is not None
    assert [repo.id for repo in hub.repos("namespace = 'ann'")] == [2]
    assert sorted(path.name for path in (tmp_path / "repos").iterdir()) == ["2", "3"]
    hub.close()


def test_writes_of_one_repository_wait_in_a_queue_with_an_end(monkeypatch):
    """Those that find it full are told so, and when to come again; so are those that wait long."""
    monkeypatch.setattr(turns, "PATIENCE", 0.3)
    app = SimpleNamespace(state=SimpleNamespace(repositories=turns.Repositories()))
    request = cast(Request, SimpleNamespace(app=app))
    done = threading.Event()

    async def write(repository: int) -> Any:
        try:
            return await turns.alone(request, repository, done.wait, 5)
        except HubError as error:
            return error

    async def all_of_them() -> list[Any]:
        writes = [asyncio.create_task(write(1)) for _ in range(turns.WAITING_FOR_REPOSITORY + 3)]
        await asyncio.sleep(0.05)
        other = await asyncio.wait_for(turns.alone(request, 2, lambda: "at once"), 1)
        assert other == "at once"  # another repository has a queue of its own
        await asyncio.sleep(0.5)
        done.set()
        return await asyncio.gather(*writes)

    answers = asyncio.run(all_of_them())
    assert answers[0] is True
    refused = [answer for answer in answers if isinstance(answer, HubError)]
    assert {answer.status for answer in refused} == {503}
    assert all(answer.headers["Retry-After"] == "5" for answer in refused)
    assert sum("writes" in answer.message for answer in refused) == 2  # found it full
    assert len(refused) == len(answers) - 1  # and the others waited too long
    queues = app.state.repositories
    assert not queues.waiting and not queues.locks


def test_a_full_queue_of_commits_is_told_over_http(hub, owner, read_meanwhile):
    """Many commits at once: each is made, or told to come again, and others read meanwhile."""
    statuses: list[int] = []

    def push(number: int) -> None:
        with sign_in(hub) as client:
            files = {f"{number}/{n}": f"{number} {n}" for n in range(100)}
            statuses.append(commit(client, "datasets/usermirrorer/d", files).status_code)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(40)]
    with read_meanwhile():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) <= {200, 503}
    listed = owner.get("/api/datasets/usermirrorer/d/tree/main").json()
    made = sum(row["path"].isdecimal() for row in listed)
    assert made == statuses.count(200) > 0  # who was sent away changed nothing


def test_a_table_of_20_000_columns_costs_a_page_little(hub, owner, stranger, read_meanwhile):
    owner.post("/api/repos/create", json={"name": "wide", "type": "dataset"}).raise_for_status()
    put(owner, "usermirrorer/wide", "w", "x", bombs.wide_table(20_000))
    many = "".join(f"- {{config_name: c{n}, data_files: [{{path: w.bin}}]}}\n" for n in range(60))
    card = f"---\nconfigs:\n{many}---\n# Wide\n".replace("w.bin", "w.parquet")
    repo = "datasets/usermirrorer/wide"
    assert commit(owner, repo, {"README.md": card}).status_code == 200
    move_to_parquet(owner, repo)
    with read_meanwhile() as seconds:
        pages = [stranger.get("/datasets/usermirrorer/wide") for _ in range(4)]
    assert {page.status_code for page in pages} == {200}
    assert max(seconds) < 1
    assert "column-19999" not in pages[-1].text


def move_to_parquet(client: httpx.Client, repo: str) -> None:
    """Give the large file `w.bin` the name that previews look for."""
    row = client.post(f"/api/{repo}/paths-info/main", json={"paths": ["w.bin"]}).json()[0]
    value = {"path": "w.parquet", "oid": row["lfs"]["oid"], "size": row["size"]}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": value}]
    content = "\n".join(map(json.dumps, lines))
    client.post(f"/api/{repo}/commit/main", content=content).raise_for_status()


def test_a_listing_names_some_files_of_each_repository_and_its_information_all(owner, stranger):
    owner.post("/api/repos/create", json={"name": "many", "type": "space"}).raise_for_status()
    files = {f"d/{number}": "x" for number in range(2000)}
    assert commit(owner, "spaces/usermirrorer/many", files).status_code == 200
    rows = {row["id"]: row for row in stranger.get("/api/spaces?full=1").json()}
    assert len(rows["usermirrorer/many"]["siblings"]) == 1000
    assert len(rows["usermirrorer/s"]["siblings"]) > 0
    assert len(stranger.get("/api/spaces/usermirrorer/many").json()["siblings"]) == 2001
    assert "siblings" not in stranger.get("/api/spaces").json()[0]


def test_patterns_of_a_card_are_not_looked_for_without_end(tmp_path, monkeypatch):
    git = tmp_path / "git"
    (tmp_path / "incoming").mkdir()
    history.create(git, "ann")
    pointer = history.write_blob(git, objects.pointer("f" * 64, 9))
    patterns = "".join(f"- {{data_files: [{{path: '*x{n}*'}}]}}\n" for n in range(49))
    patterns += "- {data_files: [{path: 'z.parquet'}]}\n"  # no pattern: found without a search
    card = history.write_blob(git, f"---\nconfigs:\n{patterns}---\n".encode())
    changes = [history.Change("put", f"d/{n}.parquet", pointer) for n in range(3000)]
    changes += [
        history.Change("put", "z.parquet", pointer),
        history.Change("put", "README.md", card),
    ]
    history.commit(git, "main", changes, author="ann", message="m")
    repo = history.open_(git)
    compared = Counter[str]()
    compare = fnmatch.fnmatchcase
    monkeypatch.setattr(
        fnmatch,
        "fnmatchcase",
        lambda name, pattern: compared.update([pattern]) or compare(name, pattern),
    )
    tables = pages._tables(repo, history.resolve(repo, "main"))
    assert [oid for _, _, oid in tables] == ["f" * 64]
    assert compared.total() <= pages._COMPARED < 49 * 3000


def test_a_wide_table_is_read_once_and_shown_in_part(tmp_path, monkeypatch):
    path = tmp_path / "wide.parquet"
    path.write_bytes(bombs.wide_table(20_000))
    started = []
    real = preview.subprocess.run
    monkeypatch.setattr(
        preview.subprocess, "run", lambda *a, **k: (started.append(1), real(*a, **k))[1]
    )
    tables = [preview.first_rows((path,), 5, 240) for _ in range(8)]
    deadline = time.monotonic() + 60
    while tables[-1] == [None] and time.monotonic() < deadline:  # on a machine with much to do
        tables.append(preview.first_rows((path,), 5, 240))
    assert len(tables[-1][0]["columns"]) == 50
    assert len(started) == 1


@pytest.mark.parametrize("row", entries("json"))
def test_odd_json_is_refused_or_taken_and_never_a_failure(hub, owner, row):
    content = text_of(row).encode("utf-8", "surrogatepass")
    for address in JSON_ADDRESSES:
        for kind in ("application/json", "application/x-www-form-urlencoded"):
            answer = owner.post(
                address.replace("lab/open", "usermirrorer/d"),
                content=content,
                headers={"Content-Type": kind},
            )
            assert answer.status_code < 500, (address, answer.text[:500])
            json.loads(answer.content.decode())  # what comes back can be read
    assert owner.get("/api/datasets/usermirrorer/d/refs").status_code == 200

"""Promise: a backup is taken while the server is written to, and is a whole Hub by itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub import commands
from usermirrorer.hub.local import running
from usermirrorer.hub.server import maintenance
from usermirrorer.hub.server.backup import backup
from usermirrorer.hub.server.store import Store, create_token


def lines(*operations: dict) -> str:
    header = {"key": "header", "value": {"summary": "x"}}
    return "\n".join(json.dumps(line) for line in (header, *operations))


def put(client: httpx.Client, repo: str, name: str, content: str, large: bytes = b"") -> None:
    """Commit a small file, and a large one if there is some."""
    file = {"path": name, "content": content, "encoding": "utf-8"}
    operations = [{"key": "file", "value": file}]
    if large:
        oid = hashlib.sha256(large).hexdigest()
        answer = client.post(
            f"/datasets/{repo}.git/info/lfs/objects/batch",
            json={"operation": "upload", "objects": [{"oid": oid, "size": len(large)}]},
        )
        for action in answer.json()["objects"]:
            if "actions" in action:
                client.put(action["actions"]["upload"]["href"], content=large).raise_for_status()
        value = {"path": f"{name}.bin", "algo": "sha256", "oid": oid, "size": len(large)}
        operations.append({"key": "lfsFile", "value": value})
    address = f"/api/datasets/{repo}/commit/main"
    client.post(address, content=lines(*operations)).raise_for_status()


def create(client: httpx.Client, name: str) -> None:
    body = {"name": name, "type": "dataset"}
    client.post("/api/repos/create", json=body).raise_for_status()


class Writer(threading.Thread):
    """Commits without end; `acknowledged` are (repository, file) pairs that were answered."""

    def __init__(self, hub, number: int) -> None:
        super().__init__()
        self.hub, self.number, self.end = hub, number, threading.Event()
        self.acknowledged: list[tuple[str, str]] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self.hub.token}"}
        try:
            with httpx.Client(base_url=self.hub.endpoint, headers=headers, timeout=60) as client:
                turn = 0
                while not self.end.is_set():
                    if turn % 10 == 0:
                        name = f"w{self.number}-{turn}"
                        create(client, name)
                    file = f"f{turn}"
                    put(client, f"usermirrorer/{name}", file, file, file.encode() * 999)
                    self.acknowledged.append((name, file))
                    turn += 1
        except BaseException as error:
            self.failure = error


def test_a_backup_under_commits_has_all_that_was_acknowledged_before(tmp_path):
    root, target = tmp_path / "hub", tmp_path / "backup"
    with running(root) as hub:
        writers = [Writer(hub, number) for number in range(3)]
        for writer in writers:
            writer.start()
        wanted = []
        for turn in range(2):  # the second one is incremental
            deadline = time.monotonic() + 60
            while sum(len(w.acknowledged) for w in writers) < 15 * (turn + 1):
                assert time.monotonic() < deadline and not any(w.failure for w in writers)
                time.sleep(0.02)
            wanted = [pair for w in writers for pair in list(w.acknowledged)]
            done = backup(root, target)
            assert done["new_files"] > 0 and done["warnings"] == []
        assert done["new_files"] < done["files"]
        for writer in writers:
            writer.end.set()
            writer.join()
        assert not any(writer.failure for writer in writers)
        token = hub.token
    assert maintenance.check(target, every_byte=True) == []
    restored = tmp_path / "restored"
    shutil.copytree(target, restored)
    with running(restored) as hub:
        headers = {"Authorization": f"Bearer {hub.token}"}
        with httpx.Client(base_url=hub.endpoint, headers=headers, timeout=60) as client:
            for name, file in wanted:
                base = f"/datasets/usermirrorer/{name}/resolve/main/{file}"
                assert client.get(base).text == file
                assert client.get(f"{base}.bin").content == file.encode() * 999
            put(client, f"usermirrorer/{wanted[0][0]}", "after", "after")  # it is a Hub as any
            create(client, "another")
        old = {"Authorization": f"Bearer {token}"}  # tokens came along
        assert httpx.get(f"{hub.endpoint}/api/whoami-v2", headers=old).status_code == 200


def small_hub(root: Path) -> Store:
    create_token(root, "ann")
    store = Store(root)
    for name in ("a", "b"):
        store.create("dataset", "ann", name, False)
    return store


def test_a_backup_follows_what_was_deleted_renamed_and_made(tmp_path):
    root, target = tmp_path / "hub", tmp_path / "backup"
    store = small_hub(root)
    backup(root, target)
    store.delete(store.find("dataset", "ann", "a"))
    store.update(store.find("dataset", "ann", "b"), name="c", private=True)
    store.create("model", "ann", "d", False)
    assert backup(root, target)["repositories"] == 2
    store.close()
    assert sorted(path.name for path in (target / "repos").iterdir()) == ["2", "3"]
    copy = Store(target)
    assert {(r.id, r.name, r.private) for r in copy.repos()} == {(2, "c", True), (3, "d", False)}
    copy.close()


def test_a_backup_goes_nowhere_it_could_destroy_something(tmp_path):
    root, target = tmp_path / "hub", tmp_path / "backup"
    small_hub(root).close()
    other = tmp_path / "other"
    small_hub(other).close()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for bad in (root, root / "repos" / "x", tmp_path, other, tmp_path / "full"):
        with pytest.raises(UserError):
            backup(root, bad)
    backup(root, target)
    with pytest.raises(UserError, match="is a backup of"):
        backup(other, target)
    Store(target).close()  # served once, it lives on by itself
    with pytest.raises(UserError, match="no backup"):
        backup(root, target)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert maintenance.check(root) == maintenance.check(other) == []


def test_what_is_broken_in_the_hub_is_told_and_stops_no_backup(tmp_path):
    root, target = tmp_path / "hub", tmp_path / "backup"
    store = small_hub(root)
    (root / "repos/1/git/refs/heads/side").write_text("")
    run = CliRunner().invoke(commands.hub, ["backup", str(target), "--root", str(root)])
    assert run.exit_code == 0, run.output
    assert "refs/heads/side leads to no commit" in run.output
    store.close()
    Store(target).close()


def test_a_copy_that_lacks_something_is_not_called_a_backup(tmp_path, monkeypatch):
    from usermirrorer.hub.server import backup as module

    root, target = tmp_path / "hub", tmp_path / "backup"
    store = small_hub(root)
    backup(root, target)
    store.create("dataset", "ann", "c", False)
    store.close()
    everything = module._content
    monkeypatch.setattr(module, "_content", lambda source: list(everything(source))[1:])
    with pytest.raises(UserError, match="not whole"):
        backup(root, target)
    copy = Store(target)  # and the one before still is one
    assert sorted(repo.name for repo in copy.repos()) == ["a", "b"]
    copy.close()
    assert maintenance.check(target) == []

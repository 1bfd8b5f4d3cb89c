"""Promise: on a full or read-only disk reading goes on, also after a restart; writes say why."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.hub.test_backup import create, lines, put
from usermirrorer.hub.server import maintenance
from usermirrorer.hub.server.store import create_token

REPO = "/api/datasets/usermirrorer/d"


@contextlib.contextmanager
def serving(root: Path, token: str, *, largest_file: int = 0) -> Iterator[httpx.Client]:
    """Serve `root`; with `largest_file`, no file may grow beyond so many bytes."""
    port_file = Path(tempfile.mkdtemp()) / "port"  # not on the disk that is full

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    process = subprocess.Popen(
        [sys.executable, "-m", "usermirrorer.hub.server", str(root), str(port_file)],
        stdin=subprocess.PIPE,
        preexec_fn=limit,  # noqa: PLW1509
    )
    try:
        while not port_file.exists():
            assert process.poll() is None, "the server did not start"
            time.sleep(0.02)
        endpoint = f"http://127.0.0.1:{port_file.read_text()}"
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=endpoint, headers=headers, timeout=60) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    client.get("/healthz")
                    break
            yield client
    finally:
        process.kill()  # the restart has to do with what a kill leaves
        process.communicate()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("file systems cannot be mounted here; a limit on files is tested below")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def prepared(root: Path) -> str:
    """Make a Hub with one dataset of a small and a large file; return a token."""
    token = create_token(root, "usermirrorer")
    with serving(root, token) as client:
        create(client, "d")
        put(client, "usermirrorer/d", "a", "small", b"large" * 1000)
    return token


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


def assert_reads(client: httpx.Client) -> None:
    base = "/datasets/usermirrorer/d/resolve/main/a"
    assert client.get(base).text == "small"
    assert client.get(f"{base}.bin").content == b"large" * 1000
    for address in (
        *("/api/datasets?full=1", "/", "/datasets/usermirrorer/d", "/api/whoami-v2", REPO),
        *(f"{REPO}/tree/main?recursive=1&expand=1", f"{REPO}/refs", f"{REPO}/commits/main"),
        "/api/collections",
    ):
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text)
    assert {f["path"] for f in client.get(f"{REPO}/tree/main").json()} == {
        *(".gitattributes", "a", "a.bin")
    }
    assert client.get("/api/models").json() == []


def refused(client: httpx.Client, size: int) -> None:
    """Try every way to write; each must say 507 and why."""
    large = os.urandom(size)
    oid = hashlib.sha256(large).hexdigest()
    batch = client.post(
        "/datasets/usermirrorer/d.git/info/lfs/objects/batch",
        json={"operation": "upload", "objects": [{"oid": oid, "size": size}]},
    ).json()
    upload = batch["objects"][0]["actions"]["upload"]["href"]
    text = os.urandom(size).hex()
    one = {"key": "file", "value": {"path": "new", "content": text, "encoding": "utf-8"}}
    many = [
        {"key": "file", "value": {"path": f"n{n}", "content": f"{n}{text}", "encoding": "utf-8"}}
        for n in range(40)
    ]
    for answer in (
        client.post(f"{REPO}/commit/main", content=lines(one)),
        client.post(f"{REPO}/commit/main", content=lines(*many)),
        client.put(upload, content=large),
        client.post("/api/repos/create", json={"name": "e", "type": "model"}),
    ):
        assert answer.status_code == 507, (answer.request.url, answer.text)
        message = json.loads(answer.text)["error"]
        assert "full" in message and "nothing was stored" in message


def test_a_full_disk_stops_writing_only(small_disk):
    root = small_disk / "hub"
    token = prepared(root)
    with serving(root, token) as client:
        filler = fill(small_disk)
        assert_reads(client)
        refused(client, 5000)
        tag = client.post(f"{REPO}/tag/main", json={"tag": "v1"})
        assert tag.status_code == 507, tag.text
        settings = client.put(f"{REPO}/settings", json={"private": True})
        assert settings.status_code == 507, settings.text
        assert_reads(client)
    filler.unlink()
    filler = fill(small_disk)
    with serving(root, token) as client:
        assert_reads(client)
        refused(client, 5000)
        filler.unlink()
        put(client, "usermirrorer/d", "b", "again", b"again")
        assert client.get("/datasets/usermirrorer/d/resolve/main/b").text == "again"
        create(client, "e")
    assert maintenance.check(root, every_byte=True) == []


def test_a_limit_on_the_size_of_files_is_told_as_well(tmp_path):
    root = tmp_path / "hub"
    token = prepared(root)
    limit = (root / "hub.sqlite").stat().st_size + 4096
    with serving(root, token, largest_file=limit) as client:
        assert_reads(client)
        large = os.urandom(2 * limit)
        text = large.hex()
        file = {"key": "file", "value": {"path": "new", "content": text, "encoding": "utf-8"}}
        answer = client.post(f"{REPO}/commit/main", content=lines(file))
        assert answer.status_code == 507, answer.text
        assert_reads(client)
    assert maintenance.check(root, every_byte=True) == []


def test_a_folder_that_cannot_be_written_is_read(small_disk):
    root = small_disk / "hub"
    token = prepared(root)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    with serving(root, token) as client:
        assert_reads(client)
        file = {"key": "file", "value": {"path": "new", "content": "x", "encoding": "utf-8"}}
        for answer in (
            client.post(f"{REPO}/commit/main", content=lines(file)),
            client.post(f"{REPO}/tag/main", json={"tag": "v1"}),
            client.post("/api/repos/create", json={"name": "e"}),
            client.put(f"{REPO}/settings", json={"private": True}),
            client.request("DELETE", "/api/repos/delete", json={"name": "d", "type": "dataset"}),
        ):
            assert answer.status_code == 507, (answer.request.url, answer.text)
            assert "cannot be written" in answer.json()["error"]
        assert_reads(client)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before

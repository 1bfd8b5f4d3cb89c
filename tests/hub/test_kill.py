"""Promise: kill -9 in the middle of a push leaves the old version whole, and the retry succeeds."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from usermirrorer.hub.server.store import create_token

PUSH = """
import sys
from huggingface_hub import HfApi, CommitOperationAdd
seed, way = int(sys.argv[1]), sys.argv[2]
import random
data = random.Random(seed).randbytes(3_000_000)
api = HfApi()
print("start", flush=True)
big = __import__("io").BytesIO(data) if way == "lfs" else data
add = [CommitOperationAdd("big.bin", big)]
add += [CommitOperationAdd(f"small/{n}.txt", f"{seed} {n}".encode()) for n in range(5)]
api.create_commit("usermirrorer/kill", add, commit_message=f"push {seed}")
"""


class Server:
    """The server in its own process, to be killed."""

    def __init__(self, root: Path) -> None:
        port_file = root.with_name("port")
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "usermirrorer.hub.server", str(root), str(port_file)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        while not port_file.exists():
            assert self.process.poll() is None
            time.sleep(0.02)
        self.endpoint = f"http://127.0.0.1:{port_file.read_text()}"
        while True:
            with suppress(httpx.TransportError):
                httpx.get(f"{self.endpoint}/healthz")
                break

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def pusher(server: Server, token: str, home: Path, seed: int, way: str) -> subprocess.Popen:
    settings = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": token, "HF_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", PUSH, str(seed), way],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "start\n"
    return process


def state(server: Server, revision: str = "main") -> tuple[int, str]:
    """Return (seed, hash of the big file) of a revision whose files all belong together."""
    base = f"{server.endpoint}/usermirrorer/kill/resolve/{revision}"
    seeds = {httpx.get(f"{base}/small/{n}.txt").text.split()[0] for n in range(5)}
    big = httpx.get(f"{base}/big.bin").content
    assert len(seeds) == 1
    seed = int(seeds.pop())
    assert big == random.Random(seed).randbytes(3_000_000)
    return seed, hashlib.sha256(big).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["lfs", "xet"])
def test_kill_at_random_points_of_a_push(tmp_path, way):
    root, home = tmp_path / "hub", tmp_path / "home"
    token = create_token(root, "usermirrorer")
    headers = {"Authorization": f"Bearer {token}"}
    server = Server(root)
    httpx.post(
        f"{server.endpoint}/api/repos/create", headers=headers, json={"name": "kill"}
    ).raise_for_status()
    begun = time.monotonic()
    assert pusher(server, token, home, 0, way).wait() == 0
    duration = time.monotonic() - begun
    tag = f"{server.endpoint}/api/models/usermirrorer/kill/tag/main"
    httpx.post(tag, headers=headers, json={"tag": "v1.0.0"}).raise_for_status()
    tagged = state(server, "v1.0.0")
    chance, outcomes, current = random.Random(7), set(), 0
    for seed in range(1, 13):
        push = pusher(server, token, home, seed, way)
        time.sleep(chance.uniform(0, duration))
        server.kill()
        push.kill()
        push.communicate()
        server = Server(root)
        found, _ = state(server)
        assert found in (current, seed)
        outcomes.add(found == seed)
        assert state(server, "v1.0.0") == tagged
        check = ["git", "-C", str(next((root / "repos").iterdir()) / "git"), "fsck", "--strict"]
        checked = subprocess.run(check, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert pusher(server, token, home, seed, way).wait() == 0
        assert state(server)[0] == seed
        current = seed
    server.kill()
    assert False in outcomes  # some pushes were really cut off

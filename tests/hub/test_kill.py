"""Promise: kill -9 in the middle of a push leaves the old version whole, and the retry succeeds.

At any moment: nothing that was answered is lost, and the next start needs nobody's help. The second
test kills at `USERMIRRORER_KILLS` random points (60 unless it is set).
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.hub.test_backup import lines, put
from usermirrorer.hub.server import maintenance
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


#: Forks a server for each line it reads, so that not every start waits for the same imports.
FORKS = """
import os, sys
from usermirrorer.hub.server import __main__ as server
for line in sys.stdin:
    kept = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(kept[0], 0)
        sys.stdin = open(0)
        sys.argv = ["server", *line.rstrip().split("\\t")]
        server.main()
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
    os.close(kept[0]), os.close(kept[1])
"""


@dataclass
class Known:
    """What was answered about one repository."""

    names: set[str]  # more than one while a renaming was not answered
    files: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    deleted: str = ""  # "asked", then "answered"


class Worker(threading.Thread):
    """Changes its own repositories until the server dies; keeps what was answered."""

    def __init__(self, endpoint: str, token: str, repos: list[Known], seed: str) -> None:
        super().__init__()
        self.endpoint, self.token, self.repos = endpoint, token, repos
        self.chance, self.seed, self.count = random.Random(seed), seed, 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            with httpx.Client(base_url=self.endpoint, headers=headers, timeout=60) as client:
                while True:
                    self.count += 1
                    self.step(client)
        except httpx.TransportError:
            pass  # killed
        except BaseException as error:
            self.failure = error

    def step(self, client: httpx.Client) -> None:
        alive = [repo for repo in self.repos if not repo.deleted and len(repo.names) == 1]
        name = f"{self.seed}-{self.count}"
        if not alive or self.chance.random() < 0.1:
            body = {"name": name, "type": "dataset"}
            client.post("/api/repos/create", json=body).raise_for_status()
            self.repos.append(Known({name}))
            return
        repo, action = self.chance.choice(alive[-5:]), self.chance.random()
        (now,) = repo.names
        address = f"/api/datasets/usermirrorer/{now}"
        if action < 0.7:
            self.commit(client, repo, now, name, action)
        elif action < 0.85:
            client.post(f"{address}/tag/main", json={"tag": name}).raise_for_status()
            repo.tags.add(name)
        elif action < 0.93:
            repo.names.add(name)
            body = {"type": "dataset"}
            body |= {"fromRepo": f"usermirrorer/{now}", "toRepo": f"usermirrorer/{name}"}
            client.post("/api/repos/move", json=body).raise_for_status()
            repo.names = {name}
        else:
            repo.deleted = "asked"
            body = {"name": now, "type": "dataset"}
            client.request("DELETE", "/api/repos/delete", json=body).raise_for_status()
            repo.deleted = "answered"

    def commit(self, client: httpx.Client, repo: Known, now: str, name: str, action: float) -> None:
        if action < 0.25:  # one object each
            put(client, f"usermirrorer/{now}", name, name)
            repo.files[name] = name
        elif action < 0.5:  # a large file
            put(client, f"usermirrorer/{now}", name, name, name.encode() * 2000)
            repo.files |= {name: name, f"{name}.bin": name * 2000}
        else:  # a pack
            files = {f"{name}/{number}": f"{name} {number}" for number in range(25)}
            values = [{"path": p, "content": c, "encoding": "utf-8"} for p, c in files.items()]
            body = lines(*({"key": "file", "value": value} for value in values))
            address = f"/api/datasets/usermirrorer/{now}/commit/main"
            client.post(address, content=body).raise_for_status()
            repo.files |= files


def assert_kept(client: httpx.Client, repo: Known) -> None:
    """Assert that all that was answered about a repository is there, and settle what was not."""
    names = {
        name
        for name in repo.names
        if client.get(f"/api/datasets/usermirrorer/{name}").status_code == 200
    }
    if repo.deleted == "answered":
        assert not names
    elif repo.deleted == "asked":
        assert len(names) <= 1
        repo.deleted = "" if names else "answered"
    else:
        assert len(names) == 1, repo.names
    for name in names:
        for file, content in repo.files.items():
            address = f"/datasets/usermirrorer/{name}/resolve/main/{file}"
            assert client.get(address).text == content
        listed = client.get(f"/api/datasets/usermirrorer/{name}/refs").json()["tags"]
        assert repo.tags <= {tag["name"] for tag in listed}
        repo.names = {name}


@contextmanager
def forked(forks: subprocess.Popen, root: Path, port_file: Path) -> Iterator[tuple[int, str]]:
    """Run a server; yield its process id and address. It is dead afterwards."""
    port_file.unlink(missing_ok=True)
    forks.stdin.write(f"{root}\t{port_file}\n")
    forks.stdin.flush()
    child = int(forks.stdout.readline())
    deadline = time.monotonic() + 30
    while not port_file.exists():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    endpoint = f"http://127.0.0.1:{port_file.read_text()}"
    while time.monotonic() < deadline:  # it is bound, and will listen
        with suppress(httpx.TransportError):
            httpx.get(f"{endpoint}/healthz")
            break
        time.sleep(0.005)
    try:
        yield child, endpoint
    finally:
        os.kill(child, signal.SIGKILL)
        assert forks.stdout.readline() == "ended\n"


@pytest.mark.slow
def test_kill_at_random_points_of_everything_loses_nothing_that_was_answered(tmp_path):
    root, chance = tmp_path / "hub", random.Random(11)
    token = create_token(root, "usermirrorer")
    repos: list[list[Known]] = [[], [], []]
    kills = int(os.environ.get("USERMIRRORER_KILLS", "60"))
    forks = subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    headers = {"Authorization": f"Bearer {token}"}
    for turn in range(kills + 1):
        with (
            forked(forks, root, tmp_path / "port") as (_, endpoint),
            httpx.Client(base_url=endpoint, headers=headers, timeout=60) as client,
        ):
            for known in repos:
                for repo in known if turn == kills else known[-6:]:
                    assert_kept(client, repo)
            if turn == kills:
                break
            workers = [
                Worker(endpoint, token, known, f"w{number}-{turn}")
                for number, known in enumerate(repos)
            ]
            for worker in workers:
                worker.start()
            # So many answers and a moment later, however slow the machine is.
            answers, deadline = chance.randrange(12), time.monotonic() + 20
            while sum(worker.count for worker in workers) < answers + len(workers):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
        for worker in workers:
            worker.join()
            assert worker.failure is None, worker.failure
    forks.stdin.close()
    assert forks.wait() == 0
    left = maintenance.check(root, every_byte=True)
    assert left == []
    answered = sum(len(repo.files) + len(repo.tags) for known in repos for repo in known)
    assert answered > kills
    print(f"{kills} kills; {answered} files and tags, {sum(map(len, repos))} repositories kept")

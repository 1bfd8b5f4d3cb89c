"""Push and pull one large file through the local Hub, beside a plain copy with SHA-256.

    python tests/benchmarks/bench_hub.py --megabytes 1024 --repeat 3

Prints MB/s of each, the share of the plain copy's speed (the bar is 60 %), and the largest memory
of the server (the bar is 300 MB). `pull_bare` is the same client fetching the same bytes from a
bare socket, which tells how much of the time is the client's own. All take turns, so that other
load on the machine hits all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from usermirrorer.hub.local import running

BLOCK = 1 << 20
PUSH = """
import sys, time
from huggingface_hub import CommitOperationAdd, HfApi
path, repo_id = sys.argv[1:]
api = HfApi()
api.create_repo(repo_id, repo_type="dataset")
begun = time.perf_counter()
with open(path, "rb") as file:
    add = CommitOperationAdd("data/big.parquet", file if "{way}" == "lfs" else path)
    api.create_commit(repo_id, [add], commit_message="big", repo_type="dataset")
print(time.perf_counter() - begun)
"""
PULL = """
import hashlib, sys, time
from huggingface_hub import hf_hub_download
folder, repo_id = sys.argv[1:]
begun = time.perf_counter()
path = hf_hub_download(repo_id, "data/big.parquet", repo_type="dataset", local_dir=folder)
with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
print(time.perf_counter() - begun)
print(digest)
"""
BARE = """
import os, socket, sys, threading
path = sys.argv[1]
size, listener = os.path.getsize(path), socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def answer(connection):
    received = b""
    while block := connection.recv(65536):
        received += block
        if received.endswith(b"\\r\\n\\r\\n") and b"/resolve/" not in received:
            connection.sendall(b"HTTP/1.1 404 None\\r\\nContent-Length: 0\\r\\n\\r\\n")
            received = b""
        elif received.endswith(b"\\r\\n\\r\\n"):
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nETag: \\"%s\\"\\r\\nX-Repo-Commit: %s\\r\\n"
                               b"Content-Length: %d\\r\\n\\r\\n" % (b"a" * 64, b"b" * 40, size))
            if received.startswith(b"GET"):
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        connection.sendall(block)
            received = b""
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""


def make(path: Path, megabytes: int) -> str:
    """Write random bytes; return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(megabytes):
            block = os.urandom(BLOCK)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def copy(source: Path, target: Path) -> float:
    """Copy with SHA-256 and fsync; return seconds."""
    begun, digest = time.perf_counter(), hashlib.sha256()
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(BLOCK):
            digest.update(block)
            new.write(block)
        new.flush()
        os.fsync(new.fileno())
    return time.perf_counter() - begun


def client(code: str, environment: dict[str, str], *arguments: object) -> list[str]:
    """Run client code in its own process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout.split()


def pull_bare(source: Path, target: Path) -> float:
    """Pull from a bare socket; return seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", BARE, str(source)], stdout=subprocess.PIPE, text=True
    ) as server:
        port = server.stdout.readline().strip() if server.stdout else ""
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        try:
            return float(client(PULL, environment, target, "bare/bare")[0])
        finally:
            server.kill()


def peak_memory_mb(root: Path) -> float:
    """Return the largest resident memory of the server that serves `root`, in MB."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes().split(b"\0")
            if b"usermirrorer.hub.server" in command and str(root).encode() in command:
                line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
                return int(line.split()[1]) * 1024 / 1e6
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise RuntimeError("the server is not there")


def measure(folder: Path, megabytes: int, repeat: int) -> dict[str, float]:
    """Return MB/s (best of `repeat`) and the server's memory."""
    source = folder / "big"
    expected = make(source, megabytes)
    seconds: dict[str, list[float]] = {}
    with running(folder / "hub") as hub:
        environment = hub.environment(folder / "home") | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        for turn in range(repeat):
            seconds.setdefault("copy", []).append(copy(source, folder / "copy"))
            for way in ("lfs", "xet"):
                repo_id = f"usermirrorer/{way}{turn}"
                pushed = client(PUSH.replace("{way}", way), environment, source, repo_id)
                seconds.setdefault(f"push_{way}", []).append(float(pushed[0]))
            target = folder / f"got{turn}"
            pulled, digest = client(PULL, environment, target, f"usermirrorer/lfs{turn}")
            if digest != expected:
                raise RuntimeError("what came back is not what was sent")
            seconds.setdefault("pull", []).append(float(pulled))
            shutil.rmtree(target)
            target = folder / f"bare{turn}"
            seconds.setdefault("pull_bare", []).append(pull_bare(source, target))
            shutil.rmtree(target)
        memory = peak_memory_mb(folder / "hub")
    speed = {key: megabytes * BLOCK / 1e6 / min(values) for key, values in seconds.items()}
    shares = {f"{key}_share": speed[key] / speed["copy"] for key in speed if key != "copy"}
    return {**speed, **shares, "server_memory_mb": memory}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.megabytes, options.repeat)
    print(json.dumps({key: round(value, 3) for key, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()

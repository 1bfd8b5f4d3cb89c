"""Push and pull a dataset of eight shards through the local Hub, beside a plain copy with SHA-256.

    python tests/benchmarks/bench_hub.py --megabytes 1024 --repeat 3

Prints the best MB/s of each, its share of the plain copy's speed (the bar is 60 %) and the largest
memory of server and clients in MB (the bar is 300, whatever the size). All take turns, so that
other load hits all of them.

    copy           read, hash, write and fsync every file, in one thread
    push, pull     `usermirrorer release push` and `pull`, which prove every hash besides
    client_push    plain `upload_folder`; with hf_xet installed that is the Xet protocol
    client_pull    plain `snapshot_download`, which proves nothing
    floor_*        the same client against `null_hub.py`, which does nothing
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from usermirrorer.builders.common import schema, storage
from usermirrorer.hub import layout
from usermirrorer.hub.local import running

BLOCK, SHARDS = 1 << 20, 8
CLIENT = """
import json, sys, time
from huggingface_hub import HfApi, snapshot_download
from usermirrorer.hub import releases
way, folder, repo_id = sys.argv[1:]
begun = time.perf_counter()
if way == "push":
    releases.push(folder, repo_id)
elif way == "pull":
    releases.pull(repo_id, "1.0.0", folder)
elif way == "client_push":
    HfApi().create_repo(repo_id, repo_type="dataset")
    HfApi().upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder)
else:
    snapshot_download(repo_id, repo_type="dataset", revision="v1.0.0", local_dir=folder)
seconds = time.perf_counter() - begun
status = open("/proc/self/status").read()
memory = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
print(json.dumps([seconds, memory]))
"""


def make(folder: Path, megabytes: int) -> None:
    """Write a release whose rows are random bytes: nothing in it can be compressed."""
    for number in range(SHARDS):
        path = folder / f"data/preference/domain{number}/train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        rows = [np.random.bytes(BLOCK) for _ in range(megabytes // SHARDS)]
        pq.write_table(pa.table({"bytes": rows}), path, compression="none", use_dictionary=False)
    (folder / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n")
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    described = {name: layout.describe(path) for name, path in files.items()}
    manifest = {
        "version": "1.0.0",
        "schema_version": schema.SCHEMA_VERSION,
        "redistributable": True,
        "sources": [],
        "files": described,
        "splits": layout._splits(folder, described),
    }
    storage.write_json(folder / "manifest.json", manifest)


def touch_memory(folder: Path, megabytes: int) -> None:
    """Write and delete as much as will be written: afterwards the kernel has that memory at hand.

    A virtual machine gives memory that was free for seconds back to its host, and what is next to
    write pays for getting it again: more than a second a gigabyte. Whoever comes after a deletion
    would not pay, so that all are given the same start.
    """
    path, block = folder / "touched", bytes(BLOCK)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
    path.unlink()


def copy(source: Path, target: Path) -> float:
    """Copy a folder with SHA-256 and fsync of each file; return seconds."""
    begun = time.perf_counter()
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        digest, written = hashlib.sha256(), target / path.relative_to(source)
        written.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as old, written.open("wb") as new:
            while block := old.read(BLOCK):
                digest.update(block)
                new.write(block)
            new.flush()
            os.fsync(new.fileno())
    return time.perf_counter() - begun


def client(
    way: str, folder: Path, repo_id: str, environment: dict[str, str]
) -> tuple[float, float]:
    """Run a client in its own process; return seconds and its largest memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, way, str(folder), repo_id],
        env=os.environ | environment | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


@contextlib.contextmanager
def null_hub(folder: Path, home: Path) -> Iterator[dict[str, str]]:
    """Run a Hub that does nothing; yield what tells a client of it."""
    command = [sys.executable, str(Path(__file__).with_name("null_hub.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline().strip() if server.stdout else ""
        try:
            yield {
                "HF_ENDPOINT": f"http://127.0.0.1:{port}",
                "HF_TOKEN": "hf_none",
                "HF_HOME": str(home),
            }
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
    """Return MB/s (best of `repeat`), shares of the copy's speed, and memory in MB."""
    source, got = folder / "release", folder / "got"
    make(source, megabytes)
    size = sum(p.stat().st_size for p in source.rglob("*") if p.is_file()) / 1e6
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with (
        running(folder / "hub") as hub,
        null_hub(source, folder / "home") as nothing,
    ):
        environment = hub.environment(folder / "home")
        for turn in range(repeat):
            touch_memory(folder, megabytes)
            seconds.setdefault("copy", []).append(copy(source, got))
            shutil.rmtree(got)
            repo_id = f"usermirrorer/push{turn}"
            for name, way, where, repo, variables in (
                ("push", "push", source, repo_id, environment),
                ("floor_push", "push", source, "null/null", nothing),
                ("pull", "pull", got, repo_id, environment),
                ("client_pull", "client_pull", got, repo_id, environment),
                ("floor_pull", "pull", got, "null/null", nothing),
                ("floor_client_pull", "client_pull", got, "null/null", nothing),
                ("client_push", "client_push", source, f"{repo_id}-client", environment),
                ("floor_client_push", "client_push", source, "null/null", nothing),
            ):
                touch_memory(folder, megabytes)
                took, used = client(way, where, repo, variables)
                seconds.setdefault(name, []).append(took)
                memory[f"{name}_memory"] = max(used, memory.get(f"{name}_memory", 0))
                shutil.rmtree(got, ignore_errors=True)
            for name in (repo_id, f"{repo_id}-client"):  # what is done leaves disk and memory free
                HfApi(hub.endpoint, hub.token).delete_repo(name, repo_type="dataset")
            print({name: round(took[-1], 2) for name, took in seconds.items()}, file=sys.stderr)
        memory["server_memory"] = peak_memory_mb(folder / "hub")
    speed = {key: size / min(values) for key, values in seconds.items()}
    shares = {f"{key}_share": speed[key] / speed["copy"] for key in speed if key != "copy"}
    return {**speed, **shares, **memory}


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

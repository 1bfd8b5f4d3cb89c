"""Commit and list many small files through the local Hub, with the plain `huggingface_hub` client.

    python tests/benchmarks/bench_hub_files.py --files 1000 4000 10000 --large 100000

Prints the growth table (seconds of one commit, milliseconds per file, and how many times the
seconds per file of the first row: 1 or less where the cost is linear), then what a repository
of `--large` files costs: 100 files more in one commit, and a listing of them all. The bars are
10,000 files in 20 s, 100 files into 100,000 in 2 s, a listing of 100,000 in 30 s, and a cost per
file that does not grow. `--folders` spreads the files over folders of so many files each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Files of the commits that fill the large repository.
STEP = 10_000


def name(number: int, per_folder: int) -> str:
    """Return where the file with this number lies."""
    file = f"f{number:06}.txt"
    return f"d{number // per_folder:05}/{file}" if per_folder else file


def commit(api: Any, repo_id: str, start: int, count: int, per_folder: int) -> float:
    """Commit `count` files with numbers from `start`; return seconds."""
    from huggingface_hub import CommitOperationAdd

    operations = [
        CommitOperationAdd(name(number, per_folder), f"file {number} of {repo_id}\n".encode())
        for number in range(start, start + count)
    ]
    return seconds(
        lambda: api.create_commit(repo_id, operations, commit_message="m", repo_type="dataset")
    )


def seconds(work: Callable[[], Any]) -> float:
    """Return how long `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(api: Any, files: list[int], large: int, per_folder: int) -> dict[str, float]:
    """Return seconds by what was done."""
    taken: dict[str, float] = {}
    for count in files:
        repo_id = f"usermirrorer/growth-{count}"
        api.create_repo(repo_id, repo_type="dataset")
        taken[f"commit of {count}"] = took = commit(api, repo_id, 0, count, per_folder)
        each = took / count * 1e3
        first = taken[f"commit of {files[0]}"] / files[0] * 1e3
        told = f"{took:7.2f} s, {each:6.3f} ms per file, {each / first:5.2f} times the first"
        print(f"{count:>8,} files in one commit: {told}", flush=True)
    if large:
        repo_id = "usermirrorer/large"
        api.create_repo(repo_id, repo_type="dataset")
        for start in range(0, large, STEP):
            took = commit(api, repo_id, start, min(STEP, large - start), per_folder)
            print(f"{start:>8,} files are there, {STEP:,} more: {took:7.2f} s")
        took = commit(api, repo_id, large, 100, per_folder)
        taken[f"100 into {large}"] = took
        print(f"100 files into {large:,}: {took:.2f} s")
        listed: list[Any] = []
        tree = api.list_repo_tree(repo_id, repo_type="dataset", recursive=True)
        took = taken[f"listing of {large}"] = seconds(lambda: listed.extend(tree))
        assert sum(hasattr(row, "blob_id") for row in listed) == large + 101
        print(f"listing of {large:,}: {took:.2f} s")
        took = seconds(lambda: listed.append(api.dataset_info(repo_id)))
        taken[f"information about {large}"] = took
        assert len(listed[-1].siblings) == large + 101
        print(f"information about {large:,}: {took:.2f} s")
    return taken


def main() -> None:
    """Measure, print the tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[1000, 4000, 10_000])
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HOME": f"{folder}/home", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        from huggingface_hub import HfApi

        from usermirrorer.hub.local import running

        with running(Path(folder) / "hub") as hub:
            api = HfApi(hub.endpoint, hub.token)
            taken = measure(api, options.files, options.large, options.folders)
    print(json.dumps({key: round(value, 3) for key, value in taken.items()}))


if __name__ == "__main__":
    main()

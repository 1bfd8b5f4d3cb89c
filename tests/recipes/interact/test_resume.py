"""A run that is killed at any step goes on where it was, and ends with what an unbroken one has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from usermirrorer.builders.common.assets import fetch_asset

pytestmark = [pytest.mark.recsys, pytest.mark.slow]

#: What lies there when a step is under way or just done, in the order of the steps.
SIGNS = (
    "log.parquet",
    "trained/*/result.json",
    "choices/.*",
    "choices/*",
    "added/*",
    "trained/*/result.json",
)


def _command(model: Path, stated: Path, out: Path) -> list[str]:
    call = [sys.executable, "-m", "usermirrorer.recipes.cli", "interact", "movielens"]
    call += [str(fetch_asset("ml-100k")), "--recommenders", "BPR", "MultiDAE", "--json"]
    call += ["--simulators", f"tuned={model}", "--trained-on", f"tuned={stated}"]
    return [*call, "--users", "20", "--seeds", "2", "--effort", "0.02", "--out", str(out)]


def _until(process: subprocess.Popen[bytes], there: Callable[[], int], more_than: int) -> None:
    while process.poll() is None and there() <= more_than:
        time.sleep(0.01)


def _facts(results: dict[str, Any]) -> dict[str, Any]:
    """Return all of the results but what time they took."""
    cost = {name: row | {"seconds": None} for name, row in results["cost"].items()}
    return results | {"cost": cost, "training_seconds": None}


def test_a_run_killed_at_every_step_ends_as_an_unbroken_one(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    stated, out = tmp_path / "trained.parquet", tmp_path / "killed"
    pq.write_table(pa.table({"user_id": ["1", "2"], "source": ["movielens"] * 2}), stated)
    call = _command(tiny_chat_model, stated, out)
    kept: dict[Path, int] = {}
    for sign in SIGNS:

        def there(sign: str = sign) -> int:
            return len(list(out.glob(sign)))

        before = there()
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _until(process, there, before)
        assert process.poll() is None, f"it ended before {sign}"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "results.json").exists()
        for path, made in kept.items():
            assert path.stat().st_mtime_ns == made, f"{path} was done twice"
        kept |= {path: path.stat().st_mtime_ns for path in out.glob("trained/*/result.json")}
    again = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    whole = _command(tiny_chat_model, stated, tmp_path / "whole")
    once = json.loads(subprocess.run(whole, capture_output=True, text=True, check=True).stdout)
    assert _facts(again) == _facts(once)
    assert once["plan"]["seeds"] == 2
    assert (out / "report.html").is_file()
    assert not list((out / "trained").glob(".*"))

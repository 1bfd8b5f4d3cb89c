"""Example releases made of a few rows, and a running local Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from usermirrorer.builders.common import schema, storage
from usermirrorer.hub import releases
from usermirrorer.hub.local import running

DOMAINS = ("movielens", "steam")
#: Variables that a separate user of the same installation has too.
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH")


def scene(number: int, domain: str, split: str) -> dict:
    """Return a scene with three options of which the second is right."""
    return {
        "scene_id": f"{domain}-{split}-{number}",
        "domain": domain,
        "source": domain,
        "user_id": f"{split}-user-{number}",
        "item_id": "i1",
        "timestamp": 1_700_000_000 + number,
        "profile": "Age 30.",
        "history": ["Alien", "Heat"],
        "exposure": ["Solaris", "Fargo <b>", "日本 | pipe"],
        "exposure_item_ids": ["i0", "i1", "i2"],
        "exposure_origin": ["content", "target", "random"],
        **{name: [0.5, 0.25, 0.1] for name in schema.OPTION_FEATURES},
        "exposure_popularity": [5, 9, 9],
        "history_gap": 86_400,
        "answer": 1,
        "exposure_mode": "logged" if domain == "steam" else "exchangeable",
        "real_exposure": domain == "steam",
    }


def pair(number: int, domain: str) -> dict:
    """Return a preference pair of the scene with the same number."""
    return {
        "prompt": [{"role": "user", "content": f"What next? {number}"}],
        "chosen": [{"role": "assistant", "content": "Behavior: [B]"}],
        "rejected": [{"role": "assistant", "content": "Behavior: [A]"}],
        "scene_id": f"{domain}-train-{number}",
        "domain": domain,
        "source": domain,
        "options": 3,
        "chosen_behavior": "B",
        "rejected_behavior": "A",
        "chosen_model": "strong",
        "rejected_model": "weak",
        "chosen_entropy": 0.5,
        "rejected_entropy": 1.5,
        "epistemic_weak": 1.0,
        "epistemic_strong": 0.25,
        "epistemic_delta": 0.75,
    }


def build_release(folder: Path, version: str, rows: int = 4, **options) -> Path:
    """Build a release of `rows` rows for each table and domain."""
    made = folder.with_name(f"{folder.name}.inputs")
    pairs = [pair(n, d) for d in DOMAINS for n in range(rows)]
    storage.write_table(
        made / "pairs.parquet", pa.Table.from_pylist(pairs, schema=schema.PREFERENCE)
    )
    for split in ("train", "test"):
        scenes = [scene(n, d, split) for d in DOMAINS for n in range(rows)]
        table = pa.Table.from_pylist(scenes, schema=schema.SCENE)
        storage.write_table(made / f"{split}.parquet", table)
    arguments = {
        "repo_id": "usermirrorer/mixed",
        "version": version,
        "preference": made / "pairs.parquet",
        "scenes": {split: made / f"{split}.parquet" for split in ("train", "test")},
        "manifest": {
            "inputs": {"movielens": {"u.data": "0" * 64}},
            "code": "0.1.0",
            "seeds": {"scenes": 1},
            "models": [{"role": "strong", "id": "lab/strong|x", "revision": "abc"}],
        },
        "redistributable": True,
        **options,
    }
    return releases.write_release(folder, **arguments)


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A running Hub; this process's own client does not know it (it read its address already)."""
    with running(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def run(local_hub, tmp_path):
    """Run Python code as a separate user would: only the Hub's address, token and cache are set."""

    def call(code: str, *arguments: object, token: bool = True, check: bool = True, **more: str):
        settings = local_hub.environment(tmp_path / "home") | more
        if not token:
            del settings["HF_TOKEN"]
        kept = {k: v for k, v in os.environ.items() if k in _KEPT}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=kept | settings,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr[-3000:]
        return done

    return call

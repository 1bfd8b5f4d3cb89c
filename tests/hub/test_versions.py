"""Promise: two versions of a dataset are published and loaded by plain clients, hashes proved."""

from __future__ import annotations

import json

from .conftest import build_release

PUSH = """
import sys
from usermirrorer.hub import releases
for folder in sys.argv[1:]:
    print(releases.push(folder, "usermirrorer/mixed"))
"""
LOAD = """
import json
from datasets import load_dataset
name = "usermirrorer/mixed"
found = {}
for revision in ("v1.0.0", "v1.1.0"):
    pairs = load_dataset(name, revision=revision)
    found[revision] = {split: len(rows) for split, rows in pairs.items()}
rows = load_dataset(name, revision="v1.0.0", split="train")
found["row"] = rows[0]
scenes = load_dataset(name, "scenes", revision="v1.0.0")
found["scenes"] = {split: len(rows) for split, rows in scenes.items()}
one = load_dataset(name, "scenes_movielens", revision="v1.0.0", split="test")
found["domains"] = sorted(set(one["domain"]))
found["steam"] = len(load_dataset(name, "preference_steam", split="train", revision="v1.1.0"))
stream = load_dataset(name, "scenes", split="test", streaming=True, revision="v1.0.0")
found["streamed"] = [row["scene_id"] for row in stream.filter(lambda row: row["domain"] == "steam")]
columns = load_dataset(name, split="train", columns=["scene_id", "domain"], revision="v1.1.0",
                       filters=[("domain", "==", "steam")], verification_mode="no_checks")
found["columns"] = [columns.column_names, len(columns)]
found["newest"] = len(load_dataset(name, split="train"))
print(json.dumps(found, default=str))
"""
VERIFY = """
import sys
from pathlib import Path
from usermirrorer.hub import releases
manifest = releases.verify("usermirrorer/mixed", "1.0.0")
folder = releases.pull("usermirrorer/mixed", "1.0.0", Path(sys.argv[1]))
assert manifest == releases.verify(folder)
print([row["tag"] for row in releases.versions("usermirrorer/mixed")])
print(releases.diff("usermirrorer/mixed@1.0.0", "usermirrorer/mixed@1.1.0")[0])
"""


def test_two_versions(run, tmp_path):
    first = build_release(tmp_path / "one", "1.0.0")
    second = build_release(tmp_path / "two", "1.1.0", rows=6, changelog_from=first)
    run(PUSH, first, second)

    found = json.loads(run(LOAD, token=False).stdout.splitlines()[-1])
    assert found["v1.0.0"] == {"train": 8}
    assert found["v1.1.0"] == {"train": 12}
    assert found["newest"] == 12
    assert found["row"]["chosen"] == [{"role": "assistant", "content": "Behavior: [B]"}]
    assert found["scenes"] == {"train": 8, "test": 8}
    assert found["domains"] == ["movielens"]
    assert found["steam"] == 6
    assert found["streamed"] == [f"steam-test-{n}" for n in range(4)]
    assert found["columns"] == [["scene_id", "domain"], 6]

    lines = run(VERIFY, tmp_path / "pulled").stdout.splitlines()
    assert lines[0] == "['v1.1.0', 'v1.0.0']"
    assert "'added': 2, 'removed': 0, 'changed': 0, 'same': 4" in lines[1]
    for path in first.rglob("*"):
        if path.is_file():
            assert (tmp_path / "pulled" / path.relative_to(first)).read_bytes() == path.read_bytes()

    # Verification downloads anew: what went bad on the Hub's own disk is found and named.
    stored = [p for p in (tmp_path / "hub" / "repos").glob("*/lfs/*/*/*") if p.stat().st_size > 999]
    for path in stored:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    done = run(VERIFY, tmp_path / "again", check=False)
    assert "is not what the manifest says" in done.stderr.splitlines()[-1]

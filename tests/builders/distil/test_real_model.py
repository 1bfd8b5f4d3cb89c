"""The whole stage by its commands: MovieLens-100K, SmolLM2-135M, a kill, every strategy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from usermirrorer.builders import validate
from usermirrorer.builders.common import assets
from usermirrorer.builders.common.schema import PREFERENCE
from usermirrorer.builders.distil import pairs, strategies

pytestmark = pytest.mark.slow
MODEL = "smollm2-135m-instruct"
SCENES = 36  # more than one part
SAMPLES = 3
PAIRS = 3


def usermirrorer(*words: object) -> list[str]:
    return [sys.executable, "-m", "usermirrorer.recipes.cli", *map(str, words)]


def told(*words: object) -> str:
    ran = subprocess.run(usermirrorer(*words), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout + ran.stderr


def kill_after_the_first_part(words: list[str], parts: Path) -> None:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(parts.glob("0*.parquet")):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, "no part was written"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def decided(tmp_path_factory) -> Path:
    """Return a folder with real scenes and the decisions of both models on them.

    Both are the 135M model, at two temperatures: what is under test is the stage, not who is right.
    """
    folder = tmp_path_factory.mktemp("real")
    raw = assets.fetch_asset("ml-100k")
    sizes = ["--train", SCENES, "--test", 4, "--history", 1, 2]
    told("scenes", "movielens", raw, *sizes, "--out", folder)
    common = [
        "--samples",
        SAMPLES,
        "--max-tokens",
        24,
        "--guided",
        "--dtype",
        "float32",
        "--model",
        MODEL,
    ]
    weak = usermirrorer("decide", folder / "train.parquet", *common, "--out", folder / "w.parquet")
    kill_after_the_first_part(weak, folder / "w.parquet.parts")
    first = folder / "w.parquet.parts" / "000000.parquet"
    before = pq.read_table(first)
    again = subprocess.run(weak, capture_output=True, text=True, check=True)
    assert "scenes were done by an earlier run" in again.stderr
    assert pq.read_table(folder / "w.parquet").slice(0, before.num_rows).equals(before)
    strong = ["--temperature", 0.7, "--seed", 1, "--judge", assets.resolve_model(MODEL)]
    told("decide", folder / "train.parquet", *common, *strong, "--out", folder / "s.parquet")
    return folder


def test_a_killed_run_of_the_real_model_lost_and_repeated_nothing(decided):
    for name in ("w", "s"):
        rows = pq.read_table(
            decided / f"{name}.parquet", columns=["scene_id", "sample"]
        ).to_pylist()
        scenes = pq.read_table(decided / "train.parquet")["scene_id"].to_pylist()
        assert [(r["scene_id"], r["sample"]) for r in rows] == [
            (scene, n) for scene in scenes for n in range(SAMPLES)
        ]


def test_at_most_so_many_pairs_where_the_scenes_allow_fewer(decided, tmp_path):
    files = ["--weak", decided / "w.parquet", "--strong", decided / "s.parquet"]
    words = ["distil", decided / "train.parquet", *files, "--out", tmp_path / "pairs.parquet"]
    said = told(*words, "--at-most")
    count = pq.read_metadata(tmp_path / "pairs.parquet").num_rows
    assert PAIRS <= count <= SCENES and f"pairs: {count}" in said


@pytest.mark.parametrize("strategy", sorted(strategies.STRATEGIES))
def test_every_strategy_yields_a_valid_dataset(decided, strategy, tmp_path):
    files = ["--weak", decided / "w.parquet", "--strong", decided / "s.parquet"]
    more = ["--pairs", PAIRS, "--out", tmp_path / "pairs.parquet", "--views", tmp_path]
    model = ["--model", MODEL, "--dtype", "float32"]
    said = told("distil", decided / "train.parquet", *files, *more, *model, "--strategy", strategy)
    assert f"pairs: {PAIRS}" in said
    assert pq.read_schema(tmp_path / "pairs.parquet").equals(PREFERENCE)
    scenes, _ = validate.load(str(decided))
    findings = validate.validate(scenes, pq.read_table(tmp_path / "pairs.parquet"))
    assert [finding for finding in findings if finding.ok is False] == []
    for view in pairs.VIEWS:
        file = str(tmp_path / f"{view}.parquet")
        rows = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path))
        assert rows.num_rows == PAIRS and set(rows.column_names) == set(pairs.VIEWS[view])


def test_the_report_names_all_scenes(decided, tmp_path):
    files = ["--weak", decided / "w.parquet", "--strong", decided / "s.parquet"]
    told("report", decided / "train.parquet", *files, "--out", tmp_path)
    assert f"{SCENES} scenes" in (tmp_path / "report.md").read_text()

"""A slice of the tiny scale by the one command: real films, the real 135M model, real steps."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from usermirrorer.builders.common import storage

pytestmark = pytest.mark.slow


def reproduce(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "reproduce", "table6"]
    command += ["--out", str(out), "--set", "sources=[movielens]", "--set", "exposures=[paper]"]
    command += ["--set", "scene_counts={'*': '--interactions 5000 --train 5 --test 4'}"]
    command += ["--set", "samples=8", *words]  # of so few scenes, or no pair is left
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    done = reproduce(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_table_of_the_paper_comes_from_raw_files_beside_the_published_one(out):
    with (out / "pages" / "table6" / "paper.csv").open() as file:
        rows = {(row["source"], row["state"]): row for row in csv.DictReader(file)}
    ours = rows["movielens", "here"]
    published = rows["movielens", "as published, not run here"]
    assert (int(ours["pairs"]), ours["test scenes"]) == (storage_rows(out), "4")
    assert (published["pairs"], published["test scenes"]) == ("1022", "640")
    manifest = storage.read_json(out / "pages" / "table6" / "manifest.json")
    assert {"scenes-movielens-paper", "weak-paper", "strong-paper"} <= manifest["steps"].keys()


def storage_rows(out: Path) -> int:
    (file,) = out.glob("steps/pairs-paper-*/pairs.parquet")
    return storage.read_table(file).num_rows


def test_a_second_run_does_nothing_and_gives_the_same_page(out):
    before = (out / "pages" / "table6" / "index.html").read_bytes()
    again = reproduce(out)
    assert again.returncode == 0 and "✓" not in again.stderr
    assert (out / "pages" / "table6" / "index.html").read_bytes() == before


def test_more_pairs_make_the_pairs_again_but_not_the_decisions(out):
    again = reproduce(out, "--set", "pairs_kept=1")
    made = {line.split()[1] for line in again.stderr.splitlines() if line.startswith("✓")}
    assert again.returncode == 0 and made == {"pairs-paper", "report-paper"}

"""Pages: lm_eval's numbers beside the published ones, and rows that say what is missing."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eval_harness.fixtures import make_scenes, write_scenes
from tests.eval_harness.test_leaderboard import make_run
from usermirrorer.builders.common import storage
from usermirrorer.recipes.reproduce import cells, pages
from usermirrorer.recipes.reproduce.parts import Parts
from usermirrorer.recipes.reproduce.plan import read
from usermirrorer.recipes.reproduce.runner import Run
from usermirrorer.recipes.reproduce.store import Place

TASKS = ["usermirror_mind", "usermirror_movielens"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two models on the same scenes: one always answers [A], which every second scene wants."""
    folder = tmp_path_factory.mktemp("scored")
    rows = [r for s in ("mind", "movielens") for r in make_scenes(12, source=s, per_user=2)]
    for number, row in enumerate(rows):
        row["answer"], row["exposure_mode"] = (0 if number % 2 else 2), "paper"
    data = write_scenes(folder / "scenes.parquet", rows)
    for label in ("A", "B"):
        make_run(folder / label, data, label, 0.9, TASKS, ablations=False)
    return folder


@pytest.fixture
def run(scored, tmp_path):
    """A run in which four steps are done, and one has failed."""
    plan = read("tiny", changed={"selection_seeds": [0]})
    made = Run(plan, Parts(plan, None, tmp_path), tmp_path, lambda _: None)
    done = {
        "score-smollm2-paper": "B",
        "score-dpo-smollm2-paper": "A",
        "picked-delta_eu-0-paper": "A",
        "picked-random-0-paper": "B",
    }
    for name, label in done.items():
        place = made.state.places[name] = Place(tmp_path, name, "0123456789ab")
        place.work.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", scored / label, place.work], check=True)
        place.finish({"run": ["lm_eval"], "inputs": {}, "code": "1", "seconds": 1.0})
        made.state.done.add(name)
    made.state.reasons["score-sft-smollm2-paper"] = "failed: no <b>memory</b>"
    return made


def rows_of(table) -> dict[str, dict]:
    return {row[table.columns[0].name]: row for row in table.rows}


def test_a_number_of_lm_eval_stands_beside_the_published_one(run):
    table = cells.content(run, run.plan.items["table1"]).tables["paper"]
    rows = rows_of(table)
    ours, theirs = rows["smollm2-135m-instruct +SFT+DPO"], rows["Llama-3.2-3B +SFT+DPO"]
    assert (ours["movielens"], ours["mind"], ours["Overall"]) == (0.5, 0.5, 0.5)
    assert ours["movielens_low"] < 0.5 < ours["movielens_high"]
    assert (theirs["Overall"], theirs["state"]) == (0.55, cells.PUBLISHED)
    assert table.rows.index(theirs) == table.rows.index(ours) + 1
    assert ours["made by"] == "score-dpo-smollm2-paper-0123456789ab"


def test_a_row_that_was_not_run_says_why(run):
    rows = rows_of(cells.content(run, run.plan.items["table1"]).tables["paper"])
    row = rows["smollm2-135m-instruct +SFT"]
    assert row["state"] == "not run: failed: no <b>memory</b>" and "Overall" not in row
    assert rows["smollm2-135m-instruct +SFT+GRPO"]["state"] == "not run: not asked for"


def test_strategies_are_compared_scene_by_scene_with_the_first(run):
    table = cells.content(run, run.plan.items["table2"]).tables["paper"]
    rows = {row["strategy"]: row for row in table.rows if row["state"] == "here"}
    first, other = rows["delta_eu"], rows["random"]
    assert (first["MIND"], first["Overall"], other["Overall"]) == (0.5, 0.5, 0.0)
    assert other["difference"] == -0.5 and "difference" not in first
    # Each of the 12 users has two scenes, of which A is right in one: all differ by the same, and
    # only 2 of the 2^12 sign flips are as extreme.
    assert other["p"] == pytest.approx(2 / 2**12)


def test_a_page_has_a_csv_file_a_table_and_shows_no_text_as_html(run):
    item, folder = run.plan.items["table1"], run.out / "page"
    folder.mkdir()
    pages._write_item(run, item, folder)
    page = (folder / "index.html").read_text()
    assert "no &lt;b&gt;memory&lt;/b&gt;" in page and "<b>memory" not in page
    assert "11 of 10 results" not in page and "Differences of setting" in page
    with (folder / "paper.csv").open() as file:
        (ours,) = [
            r
            for r in csv.DictReader(file)
            if r["model"].endswith("+SFT+DPO") and r["mind"] and r["state"] == "here"
        ]
    assert float(ours["movielens"]) == 0.5 and float(ours["movielens_low"]) > 0
    steps = storage.read_json(folder / "manifest.json")["steps"]
    assert steps["score-dpo-smollm2-paper"]["key"] == "0123456789ab"
    for image in folder.glob("*.png"):
        assert image.read_bytes().startswith(b"\x89PNG") and image.name in page


def test_no_page_tells_a_folder_of_this_machine(run):
    run.state.reasons["score-sft-smollm2-paper"] = f"failed. See {run.out}/logs/score-sft.log."
    run.state.reasons["score-teacher-paper"] = "/home/somebody/models/big: does not exist"
    folder = run.out / "page"
    folder.mkdir()
    pages._write_item(run, run.plan.items["table1"], folder)
    texts = {file: file.read_text() for file in folder.iterdir() if file.suffix != ".png"}
    table1 = texts[folder / "table1.md"]
    assert "See logs/score-sft.log." in table1 and "not run: big: does not exist" in table1
    for file, text in texts.items():
        assert str(run.out) not in text and "/home/" not in text, file


PUSH = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from usermirrorer.hub import releases
from usermirrorer.recipes.reproduce import pages

releases.push(sys.argv[1], "usermirrorer/mixed")
for _ in range(2):
    pages.push(Path(sys.argv[2]), "usermirrorer/tables", "usermirrorer/mixed@1.0.0")
(one,) = HfApi().list_collections(owner="usermirrorer")
kinds = {(i.item_type, i.item_id) for i in HfApi().get_collection(one.slug).items}
assert ("space", "usermirrorer/tables") in kinds, kinds
assert "table1/index.html" in HfApi().list_repo_files("usermirrorer/tables", repo_type="space")
assert HfApi().space_info("usermirrorer/tables").sdk == "static"
"""


def test_the_index_is_a_static_space_in_the_collection_of_the_release(tmp_path):
    from tests.hub.conftest import build_release
    from usermirrorer.hub.local import running

    release = build_release(tmp_path / "release", "1.0.0")
    folder = tmp_path / "pages"
    (folder / "table1").mkdir(parents=True)
    (folder / "table1" / "index.html").write_text("<!doctype html>")
    (folder / "README.md").write_text("---\nsdk: static\n---\n")
    with running(tmp_path / "hub") as hub:
        words = [sys.executable, "-c", PUSH, str(release), str(folder)]
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_item_has_a_page_before_anything_was_run(tmp_path):
    plan = read("tiny")
    made = Run(plan, Parts(plan, None, tmp_path), tmp_path, lambda _: None)
    for item in plan.items.values():
        folder = tmp_path / item.name
        folder.mkdir()
        pages._write_item(made, item, folder)
        assert "not run" in (folder / "index.html").read_text(), item.name
        assert "cannot be shown" not in (folder / "index.html").read_text(), item.name
    assert Path(tmp_path / "table1" / "table1.md").read_text().count("as published") >= 18


def test_an_analysis_is_shown_with_its_tables_plots_and_what_made_them(run, scored):
    from click.testing import CliRunner

    from usermirrorer.model_cards.analyse_commands import analyse

    place = run.state.places["calibration-paper"] = Place(run.out, "calibration-paper", "ba98")
    words = ["calibration", f"base={scored / 'B'}", f"dpo={scored / 'A'}", "--out", str(place.work)]
    done = CliRunner().invoke(analyse, words)
    assert done.exit_code == 0, done.output
    place.finish({"run": words, "inputs": {}, "code": "1", "seconds": 1.0})
    run.state.done.add("calibration-paper")
    made = cells.content(run, run.plan.items["table12"])
    table = made.tables["entropy_calibration-paper"]
    assert [row["result"] for row in table.rows] == ["base", "dpo"]
    assert {row["made by"] for row in table.rows} == {"calibration-paper-ba98"}
    assert made.tables["calibration-exchangeable"].rows[0]["state"].startswith("not run")
    drawn = {path.name for path in made.pictures}
    assert drawn == {path.name for path in (place.folder / "plots").iterdir()}
    (run.out / "page").mkdir()
    pages._write_item(run, run.plan.items["table12"], run.out / "page")
    page = (run.out / "page" / "index.html").read_text()
    assert "entropy_calibration-paper.csv" in page and str(run.out.parent) not in page

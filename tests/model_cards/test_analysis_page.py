"""What `usermirrorer analyse` writes: a page, tables and plots, the same bytes each time."""

from __future__ import annotations

import csv
import json
import random
import re

import pytest
from click.testing import CliRunner

from tests.eval_harness.analysis import planted
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.eval_harness.analysis.table import ANALYSES
from usermirrorer.model_cards.analyse_commands import analyse

SCENES = [*planted.scenes(30, per_user=3), *planted.scenes(20, source="steam", per_user=2)]


def chooses(share: float, seed: int = 0):
    """Right with a probability; says and is sure of something that changes from scene to scene."""
    draw = random.Random(seed)

    def choose(row, _):
        behavior = row["answer"] if draw.random() < share else (row["answer"] + 1) % 5
        sure = 0.3 + 0.6 * draw.random()
        rest = [(1 - sure) / 4] * 5
        rest[behavior] = sure
        stimulus = draw.choice(["Curiosity", "Boredom, Weather", "odd"])
        knowing = "it " * draw.randrange(1, 9)
        text = planted.said(LABELS[behavior], stimulus=stimulus, knowing=knowing)
        return {"behavior": behavior, "text": text, "probabilities": rest}

    return choose


NAMES = {
    "factors": ("sft",),
    "ablation": ("full", "only-title", "without-title"),
    "calibration": ("base", "sft"),
    "style": ("sft",),
    "learning-curve": ("100", "200", "400", "800"),
    "transfer": ("base", "full", "a", "b"),
}
#: Two more words for those that need them; {teacher} is a decision file.
MORE = {
    "style": ["--teacher", "{teacher}"],
    "transfer": ["--trained", "a=movielens", "--trained", "b=steam"],
}


def words(folder, name: str, model: str = "m") -> list[str]:
    made = []
    for seed, result in enumerate((*NAMES[name], "teacher")):
        decisions = planted.decide(SCENES, chooses(0.5, seed), model=model)
        said = planted.write(folder, result, SCENES, decisions)
        made += said[1:] if result == "teacher" else said
    more = [w.format(teacher=folder / "teacher.parquet") for w in MORE.get(name, [])]
    return [name, *made, *more]


def run(*said: str):
    return CliRunner().invoke(analyse, list(said), catch_exceptions=True)


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_writes_its_page_tables_plots_and_json(name, tmp_path):
    told = run(*words(tmp_path / "r", name), "--out", str(tmp_path / "o"))
    assert told.exit_code == 0, told.exception
    stored = json.loads((tmp_path / "o/analysis.json").read_text())
    assert stored["analysis"] == name and stored["paper"] == ANALYSES[name].paper
    assert [row["name"] for row in stored["results"]] == list(NAMES[name])
    assert all(row["files"] and row["scenes"] == 50 for row in stored["results"])
    for table, content in stored["tables"].items():
        keys = []
        for column in content["columns"]:
            ends = ("_low", "_high") if column["interval"] else ()
            keys += [column["name"], *(column["name"] + end for end in ends)]
        assert content["rows"] and all(list(row) == keys for row in content["rows"])
        with (tmp_path / f"o/{table}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row, other in zip(content["rows"], rows, strict=True):
            assert {k: "" if v is None else str(v) for k, v in row.items()} == other
        assert f"## {content['title']}" in (tmp_path / "o/analysis.md").read_text()
    page = (tmp_path / "o/index.html").read_text()
    shown = re.findall(r'<img src="([^"]+)" alt="[^"]{20,}"', page)
    assert shown == list(stored["plots"]) and shown
    assert all((tmp_path / "o" / file).read_bytes().startswith(b"\x89PNG") for file in shown)
    assert set(stored["published"]) == {
        "factors": {"figure7"}, "ablation": {"table10", "table11"}, "calibration": {"table12"},
        "style": {"table13"}, "learning-curve": set(), "transfer": {"table14"},
    }[name]  # fmt: skip


def test_the_same_results_give_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        run(*words(tmp_path / "r", "calibration"), "--out", str(tmp_path / folder))
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) >= 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), (
            file
        )


def test_json_is_printed_alone_where_asked(tmp_path):
    told = run(*words(tmp_path / "r", "ablation"), "--out", str(tmp_path / "o"), "--json")
    assert told.stdout == (tmp_path / "o/analysis.json").read_text()


def test_names_of_models_and_terms_break_no_page(tmp_path):
    hostile = "<script>alert(1)</script>|`x`"
    decisions = planted.decide(
        SCENES,
        lambda row, _: {"behavior": 0, "text": planted.said("A", stimulus=hostile)},
        model=hostile,
    )
    said = planted.write(tmp_path / "r", "m", SCENES, decisions)
    told = run("factors", *said, "--out", str(tmp_path / "o"))
    assert told.exit_code == 0, told.exception
    assert "<script>" not in (tmp_path / "o/index.html").read_text()
    markdown = (tmp_path / "o/analysis.md").read_text()
    assert "<script>" not in markdown
    lines = [line for line in markdown.splitlines() if "&lt;script" in line]
    assert lines and all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in lines)


def test_a_mistake_is_one_line_and_writes_nothing(tmp_path):
    said = words(tmp_path / "r", "transfer")[:-4]
    told = run(*said, "--out", str(tmp_path / "o"))
    assert isinstance(told.exception, UserError) and "group1" in str(told.exception)
    assert not (tmp_path / "o").exists()

"""Promise: scenes go in and choices come out, once each, whatever kills the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from usermirrorer import Simulator
from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.simulator.commands import simulate

CLI = [sys.executable, "-m", "usermirrorer.recipes.cli"]


def scenes(count: int, options: int = 4) -> list[dict]:
    return [
        {
            "scene_id": f"s{n:03d}",
            "profile": f"Age: {20 + n}",
            "history": [f"A film viewed: number {n}"],
            "exposure": [f"film {n} {k}" for k in range(options)],
            "user_id": f"user{n}",
            "answer": n % options,
        }
        for n in range(count)
    ]


def run(*words: str, given: str | None = None, code: int = 0) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*CLI, *map(str, words)], input=given, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == code, done.stderr
    return done


def here(*words: object, given: str | None = None) -> Result:
    """Run `usermirrorer simulate` in this process."""
    return CliRunner().invoke(simulate, [str(word) for word in words], input=given)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_form_of_scenes_gives_the_same_choices(tiny_chat_model, tmp_path):
    rows = scenes(5)
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "scenes.jsonl").write_text(text)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    how = ("--model", tiny_chat_model, "--mode", "direct", "--dtype", "float32")
    printed = [
        json.loads(line) for line in run("simulate", *how, "-", given=text).stdout.splitlines()
    ]
    assert [row["scene_id"] for row in printed] == [row["scene_id"] for row in rows]
    expected = Simulator.from_pretrained(tiny_chat_model, dtype="float32").choose(
        rows, mode="direct"
    )
    assert [row["text"] for row in printed] == [choice.text for choice in expected]
    for source in (tmp_path / "scenes.jsonl", tmp_path / "test.parquet", tmp_path):
        out = tmp_path / "out" / f"{source.name}.jsonl"
        facts = json.loads(here(*how, source, "--out", out, "--json").stdout)
        assert facts["choices"] == 5 and facts["resumed"] == 0
        assert [row["label"] for row in lines(out)] == [row["label"] for row in printed]
        assert json.loads(here(*how, source, "--out", out, "--json").stdout)["resumed"] == 5
    assert here(*how, tmp_path, "--out", tmp_path / "choices.parquet").exit_code == 0
    table = pq.read_table(tmp_path / "choices.parquet")
    assert table["label"].to_pylist() == [row["label"] for row in printed]
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if "parts" in p.name) == []


def test_a_killed_run_goes_on_and_answers_nothing_twice(tiny_chat_model, tmp_path):
    (tmp_path / "scenes.jsonl").write_text("\n".join(map(json.dumps, scenes(40))))
    out = tmp_path / "choices.jsonl"
    words = [*CLI, "simulate", "--model", str(tiny_chat_model), "--mode", "decision", "--guided"]
    words += ["--max-tokens", "40", "--seed", "3", str(tmp_path / "scenes.jsonl"), "--json"]
    first = subprocess.Popen([*words, "--out", str(out)], stdout=subprocess.DEVNULL)
    parts = out.with_name(f".{out.name}.choices.parquet.parts")
    deadline = time.monotonic() + 60
    while not len(list(parts.glob("0*.parquet"))) >= 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not out.exists()
    again = subprocess.run([*words, "--out", str(out)], capture_output=True, check=True)
    facts = json.loads(again.stdout)
    assert 16 <= facts["resumed"] < 40
    whole = tmp_path / "whole.jsonl"
    assert here(*words[len(CLI) + 1 :], "--out", whole).exit_code == 0
    assert out.read_bytes() == whole.read_bytes()
    assert len({row["scene_id"] for row in lines(out)}) == 40
    other = here(*words[len(CLI) + 1 :], "--out", out, "--limit", "8")
    assert json.loads(other.stdout)["resumed"] == 0  # another question is not the old answer


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "holds no scenes"),
        ("{}", "has no exposure"),
        ("[1]", "no JSON object"),
        ('{"exposure": ["a", "b"]}\n{"expos', "standard input:2"),
        ('{"exposure": ["a", "b"]}\n\n{"exposure": ["a"]}', "standard input:3: an exposure has 2"),
        ('{"exposure": ["a", "b"], "profile": 3}', "profile"),
        ("[" * 100_000, "nested too deep"),
        ('{"exposure": ["' + "x " * 12_000 + '", "b"]}', "characters"),
    ],
)
def test_bad_lines_are_told_in_one(tiny_chat_model, given, said):
    wrong = here("--model", tiny_chat_model, "-", given=given)
    assert isinstance(wrong.exception, UserError) and not wrong.stdout
    assert said in str(wrong.exception) and "\n" not in str(wrong.exception)
    if not given:  # as people see it
        told = run("simulate", "--model", tiny_chat_model, "-", given=given, code=1)
        assert said in told.stderr and told.stderr.count("\n") == 1 and not told.stdout


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_scene_that_is_not_there_is_not_another(tiny_chat_model, tmp_path, number):
    source = tmp_path / "scenes.jsonl"
    source.write_text("\n".join(map(json.dumps, scenes(3))))
    wrong = here("--model", tiny_chat_model, source, "--scene", number)
    assert str(wrong.exception) == f"there is no scene {number}. Give 1 to 3."


def test_a_model_has_to_be_named_and_be_there(tmp_path):
    assert "--model" in run("simulate", code=1).stderr
    wrong = run("simulate", "--model", tmp_path / "nothing", code=1)
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["/nowhere/x.jsonl", "x.jsonl", "./x", "x.parquet", "/nowhere"])
def test_scenes_that_are_not_there_are_said_not_to_exist(tiny_chat_model, name):
    wrong = here("--model", tiny_chat_model, name)
    assert str(wrong.exception) == f"{name}: does not exist"


def test_the_demo_shows_the_decision_process_and_bars(tiny_chat_model):
    shown = run("simulate", "--model", tiny_chat_model, "--guided", "--max-tokens", "30").stdout
    assert "librarian" in shown and "\nDecision process\nThought:\nStimulus:" in shown
    assert shown.count(" %  ") == 5 and "█" in shown and "Chooses " in shown
    assert "\x1b" not in shown and "\r" not in shown  # nothing is redrawn in a pipe
    as_json = run("simulate", "--model", tiny_chat_model, "--mode", "direct", "--json").stdout
    assert len(json.loads(as_json)["probabilities"]) == 5

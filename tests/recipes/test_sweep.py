"""The sweep: no user on both sides, every grid point once whatever fails, results as they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset
from recipe_rows import pair, scene, thought

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.engines.base import Generation
from usermirrorer.builders.decisions.prompts import answer
from usermirrorer.recipes import sweep
from usermirrorer.recipes.sweep import Point

SCENES = [scene(i) | {"user_id": f"user{i % 31}"} for i in range(120)]


def test_users_are_trained_or_validated_on_never_both():
    rows = Dataset.from_list([pair(i) for i in range(120)])
    train, validation = sweep.split(rows, Dataset.from_list(SCENES), share=0.3, most=1000)
    users = {row["scene_id"]: row["user_id"] for row in SCENES}
    assert not {users[name] for name in train["scene_id"]} & set(validation["user_id"])
    assert len(train) + len(validation) == 120
    fewer = sweep.split(rows, Dataset.from_list(SCENES), share=0.3, most=5)[1]
    assert set(fewer["scene_id"]) < set(validation["scene_id"]) and len(fewer) == 5


def test_rows_of_unknown_scenes_cannot_be_split():
    with pytest.raises(UserError, match="1 training rows have no scene"):
        sweep.split(Dataset.from_list([pair(999)]), Dataset.from_list(SCENES), 0.3, 10)


def test_a_sweep_that_fails_on_the_way_goes_on_with_the_points_left(tmp_path):
    calls = []

    def trial(rate: float, epochs: int) -> Point:
        calls.append((rate, epochs))
        if len(calls) == 3:
            raise UserError("killed")
        return Point(rate, epochs, rate * epochs, 0.1, 9)

    grid = [0.1, 0.2], [1, 2, 3]
    with pytest.raises(UserError):
        sweep.run_grid(tmp_path, *grid, trial, {"a": 1})
    points = sweep.run_grid(tmp_path, *grid, trial, {"a": 1})
    done = [call for call in calls if call != calls[2]] + [calls[2]]
    assert sorted(done) == sorted((r, e) for r in grid[0] for e in grid[1])
    assert calls.count(calls[2]) == 2 and len(calls) == 7
    assert [(p.learning_rate, p.epochs) for p in points] == [
        (r, e) for r in grid[0] for e in grid[1]
    ]
    assert sweep.run_grid(tmp_path, *grid, trial, {"a": 1}) == points and len(calls) == 7
    sweep.run_grid(tmp_path, *grid, trial, {"a": 2})
    assert len(calls) == 13


def test_the_best_point_is_the_most_accurate_and_of_equal_ones_the_cheapest():
    points = [Point(0.1, 3, 0.5, 0, 1), Point(0.1, 1, 0.5, 0, 1), Point(0.2, 2, 0.4, 0, 1)]
    assert sweep.best(points) == points[1]


class KnowsFirst:
    """An engine that always thinks the first option likeliest, and says what it is told to."""

    context, seen = 4096, ()

    def __init__(self, say=lambda number: answer("A", thought(number))):
        self.say = say

    def count(self, prompt):
        return sum(len(message["content"]) for message in prompt)

    def sample(self, prompts, options, sampling, seeds):
        self.seen = (*self.seen, *prompts)
        return [[Generation(self.say(number), 1, 1)] for number in range(len(prompts))]

    def score(self, prompts, thoughts, options):
        self.seen = (*self.seen, *prompts)
        return [np.eye(k)[[0] * len(t)] for k, t in zip(options, thoughts, strict=True)]


ONE_EACH = [row | {"user_id": row["scene_id"]} for row in SCENES[:50]]
FIRST = sum(row["answer"] == 0 for row in ONE_EACH) / 50


@pytest.mark.parametrize("mode", ["direct", "decision"])
def test_accuracy_is_the_share_of_scenes_whose_behavior_is_picked(mode):
    value, error = sweep.accuracy(KnowsFirst(), ONE_EACH, mode)
    assert value == FIRST
    assert error == pytest.approx((value * (1 - value) / 49) ** 0.5)


def test_the_sweep_does_not_count_malformed_decisions_as_hits():
    """All name the right option in some way, and the labels' probabilities are right too."""
    right = [row | {"answer": 0} for row in ONE_EACH]
    malformed = ("It is A.", "Behavior: [A]", f"{thought(1)}\nBehavior: [A]\nBehavior: [B]")
    value, _ = sweep.accuracy(KnowsFirst(lambda n: malformed[n % 3]), right, "decision")
    assert value == 0
    assert sweep.accuracy(KnowsFirst(), right, "decision")[0] == 1


def test_accuracy_is_that_of_the_behavior_written_not_of_the_likeliest_label():
    second = [row | {"answer": 1} for row in ONE_EACH]
    says_b = KnowsFirst(lambda number: answer("B", thought(number)))
    assert sweep.accuracy(says_b, second, "decision")[0] == 1


@pytest.mark.parametrize("mode", ["direct", "decision"])
def test_histories_are_shortened_until_a_prompt_fits_the_model(mode):
    engine = KnowsFirst()
    long = [row | {"history": [f"seen {i:04d}" for i in range(900)]} for row in ONE_EACH[:3]]
    sweep.accuracy(engine, long, mode)
    room = engine.context - (sweep.MAX_TOKENS if mode == "decision" else 0)
    for prompt in engine.seen:
        assert room - 40 < engine.count(prompt) <= room
        assert "seen 0899" in prompt[1]["content"] and "seen 0000" not in prompt[1]["content"]


def test_the_default_grid_is_that_of_table_7(scenes, tmp_path, monkeypatch):
    trained = {}

    def note(words: list[str]) -> int:
        rate, epochs = (
            words[words.index(f"--{n}") + 1] for n in ("learning_rate", "num_train_epochs")
        )
        trained.setdefault(Path(words[1]).stem, set()).add((float(rate), int(epochs)))
        return 0

    monkeypatch.setattr(sweep, "_run", note)
    monkeypatch.setattr(sweep, "_engine", lambda folder, given: KnowsFirst())
    for recipe in ("sft", "grpo"):
        words = [recipe, "--dataset", str(scenes), "--output", str(tmp_path / recipe)]
        words += ["--validation-share", "0.4", "--stage", "direct"]
        CliRunner().invoke(sweep.command, words, catch_exceptions=False)
    grid = {(rate, epochs) for rate in (2e-4, 1e-4, 5e-5, 2e-5) for epochs in (1, 2, 3)}
    assert trained["sft"] == grid and sweep.LEARNING_RATES["dpo"] == sweep.LEARNING_RATES["sft"]
    assert trained["grpo"] == {(1e-5, 1), (1e-5, 2), (1e-5, 3)}


KILLED = [
    *("--learning-rates", "1e-2,1e-3", "--epochs", "1", "--validation-share", "0.4"),
    *("--bf16", "false", "--report_to", "none", "--max_length", "1024", "--logging_steps", "1"),
    *("--save_strategy", "steps", "--save_steps", "1", "--per_device_train_batch_size", "2"),
    *("--use_peft", "true", "--validation-scenes", "4"),
]


@pytest.mark.slow
def test_a_sweep_of_dpo_killed_in_mid_training_goes_on_where_it_was(
    tiny_model, pairs, scenes, tmp_path
):
    output = tmp_path / "sweep"
    words = ["dpo", "--dataset", str(pairs), "--scenes", str(scenes), "--output", str(output)]
    words += ["--model_name_or_path", str(tiny_model), *KILLED]
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "sweep", *words]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    folders = [output / f"lr-{rate}-epochs-1" for rate in ("0.01", "0.001")]
    while not (done := having(folders, "train_run.json")) or not having(
        [folder for folder in folders if folder not in done], "checkpoint-2/trainer_state.json"
    ):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(done) == 1
    (half,) = [folder for folder in folders if folder not in done]
    lines = (half / "metrics.jsonl").read_text().splitlines()[:2]
    finished = (done[0] / "train_run.json").stat().st_mtime_ns
    told = CliRunner().invoke(sweep.command, words, catch_exceptions=False)
    assert told.exit_code == 0 and "best" in told.output
    assert (done[0] / "train_run.json").stat().st_mtime_ns == finished
    # The first lines bear the times of the killed process: those steps were not done again.
    assert (half / "metrics.jsonl").read_text().splitlines()[:2] == lines
    points = json.loads((output / "sweep.json").read_text())["points"]
    assert [point["learning_rate"] for point in points] == [1e-2, 1e-3]
    run = json.loads((half / "train_run.json").read_text())
    assert run["stage"] == "dpo" and run["results"]["steps"] == -(-run["data"]["rows"] // 2)


def having(folders: list[Path], name: str) -> list[Path]:
    return [folder for folder in folders if (folder / name).exists()]


@pytest.mark.slow
def test_sweep_trains_scores_and_writes_table_and_figure(tiny_model, scenes, tmp_path):
    output = tmp_path / "sweep"
    words = ["sft", "--stage", "direct", "--dataset", str(scenes), "--output", str(output)]
    words += ["--learning-rates", "1e-2,1e-3", "--epochs", "1", "--validation-share", "0.4"]
    words += ["--model_name_or_path", str(tiny_model), "--bf16", "false", "--report_to", "none"]
    words += ["--max_length", "1024", "--use_peft", "true"]
    first = CliRunner().invoke(sweep.command, words, catch_exceptions=False)
    assert first.exit_code == 0 and "best" in first.output
    result = json.loads((output / "sweep.json").read_text())
    assert len(result["points"]) == 2 and result["best"] in result["points"]
    assert (output / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(output.glob("lr-*/train_run.json"))) == 2
    before = {path: path.stat().st_mtime_ns for path in output.glob("lr-*/train_run.json")}
    CliRunner().invoke(sweep.command, words, catch_exceptions=False)
    assert before == {path: path.stat().st_mtime_ns for path in before}

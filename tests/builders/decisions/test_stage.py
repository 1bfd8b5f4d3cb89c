"""Decisions survive a kill, repeat nothing, and never lose or invent a row."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from usermirrorer.builders.commands import decide
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import DECISION
from usermirrorer.builders.decisions import prompts, stage
from usermirrorer.builders.decisions.cost import DecisionMeter
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import load_engine

SAMPLING = Sampling(n=2, max_tokens=12, guided=True)


@pytest.fixture(scope="module")
def engine(tiny_chat_model):
    return load_engine(str(tiny_chat_model), "float32", "tiny")


@pytest.fixture
def rows(built):
    return built["train"].to_pylist()[:10]


def run(rows, engine, path, **more):
    settings = {"model": "tiny", "sampling": SAMPLING, "seed": 0, "judge": True, **more}
    return stage.run(rows, engine, path, **settings)


def test_every_scene_gets_n_rows_with_probabilities(rows, engine, tmp_path):
    run(rows, engine, tmp_path / "d.parquet")
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.schema.equals(DECISION)
    assert table.num_rows == 2 * len(rows)
    for row in table.to_pylist():
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_judging_apart_equals_judging_at_once(rows, engine, tmp_path):
    run(rows, engine, tmp_path / "once.parquet")
    run(rows, engine, tmp_path / "sampled.parquet", judge=False)
    stage.judged(
        rows, tmp_path / "sampled.parquet", engine, tmp_path / "apart.parquet", max_tokens=12
    )
    once, apart = (pq.read_table(tmp_path / f"{n}.parquet") for n in ("once", "apart"))
    assert once.drop_columns(["probabilities", "entropy"]).equals(
        apart.drop_columns(["probabilities", "entropy"])
    )
    for a, b in zip(once["entropy"].to_pylist(), apart["entropy"].to_pylist(), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_a_finished_stage_loads_no_model_and_does_nothing_twice(rows, engine, tmp_path):
    path = tmp_path / "d.parquet"
    run(rows, engine, path)
    before = path.stat().st_mtime_ns

    def must_not_load():
        raise AssertionError("loaded a model for work that is done")

    assert run(rows, must_not_load, path) == len(rows)
    assert path.stat().st_mtime_ns == before


def test_another_seed_starts_anew(rows, engine, tmp_path):
    run(rows, engine, tmp_path / "d.parquet")
    first = storage.file_hash(tmp_path / "d.parquet")
    assert run(rows, engine, tmp_path / "d.parquet", seed=1) == 0
    assert storage.file_hash(tmp_path / "d.parquet") != first


KILLED = """
import sys, pyarrow.parquet as pq
from pathlib import Path
from usermirrorer.builders.decisions import stage
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import load_engine
stage._PART_SCENES = 2
scenes, model, out = sys.argv[1:]
rows = pq.read_table(scenes).to_pylist()
resumed = stage.run(rows, load_engine(model, "float32", "tiny"), Path(out), model="tiny",
    sampling=Sampling(n=2, max_tokens=12, guided=True), seed=0, judge=True)
print("resumed", resumed)
"""


def test_kill_9_loses_nothing_and_repeats_nothing(built, tiny_chat_model, tmp_path):
    scenes, out = tmp_path / "scenes.parquet", tmp_path / "d.parquet"
    storage.write_table(scenes, built["train"].slice(0, 40))
    command = [sys.executable, "-c", KILLED, str(scenes), str(tiny_chat_model)]
    subprocess.run([*command, str(tmp_path / "whole.parquet")], check=True, capture_output=True)

    process = subprocess.Popen([*command, str(out)])
    parts = tmp_path / "d.parquet.parts"
    while len(list(parts.glob("*.parquet"))) < 3:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}

    again = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True)
    assert int(again.stdout.split()[-1]) == 2 * len(done)
    assert storage.file_hash(out) == storage.file_hash(tmp_path / "whole.parquet")
    assert not parts.exists()


def test_oldest_history_is_left_out_first_and_the_exposure_never(rows, engine):
    scene = {**rows[0], "history": [f"old film {i}" for i in range(40)]}
    room = engine.count(prompts.fit({**scene, "history": []}, engine.count, 10**6)) + 60
    text = prompts.fit(scene, engine.count, room)[1]["content"]
    assert "old film 39" in text and "old film 0\n" not in text
    assert all(option in text for option in scene["exposure"])


def test_every_prompt_of_the_stage_keeps_to_the_context(rows, engine, tmp_path, monkeypatch):
    """Sampling, judging and direct scoring of scenes whose whole history would not fit."""
    long = [{**row, "history": [f"old film {i}" for i in range(200)]} for row in rows[:2]]
    monkeypatch.setattr(stage, "CONTEXT_TOKENS", 1300)
    seen = []
    for name in ("sample", "score"):
        plain = getattr(engine, name)
        monkeypatch.setattr(
            engine,
            name,
            lambda prompts, *more, do=plain: seen.extend(prompts) or do(prompts, *more),
        )
    run(long, engine, tmp_path / "d.parquet")
    stage.direct(long, engine)
    counts = [engine.count(prompt) for prompt in seen]
    assert len(counts) == 6 and max(counts) <= 1300 and min(counts) > 1200
    for prompt, scene in zip(seen, long * 3, strict=True):
        assert all(option in prompt[1]["content"] for option in scene["exposure"])


def test_an_exposure_that_does_not_fit_is_a_clear_error(rows, engine):
    with pytest.raises(UserError, match="does not fit into 50 tokens"):
        prompts.fit(rows[0], engine.count, 50)


def test_free_generations_that_break_the_format_are_counted_by_reason(rows, engine, tmp_path):
    free = Sampling(n=2, max_tokens=8)
    run(rows, engine, tmp_path / "d.parquet", sampling=free)
    told = stage.summary(pq.read_table(tmp_path / "d.parquet"))
    assert told["malformed"] == sum(told["malformed_by_reason"].values()) == 2 * len(rows)
    assert told["tokens_out"] <= 16 * len(rows)


def test_a_model_that_says_nothing_leaves_rows_that_say_so(rows, tiny_chat_model, tmp_path):
    silent = load_engine(str(tiny_chat_model), "float32", "tiny")
    silent._stop = list(range(len(silent.tokenizer)))
    run(rows, silent, tmp_path / "d.parquet", sampling=Sampling(n=2, max_tokens=9))
    table = pq.read_table(tmp_path / "d.parquet")
    assert stage.summary(table)["malformed_by_reason"] == {"no behavior": 2 * len(rows)}
    assert set(table["text"].to_pylist()) == {""}
    assert table["probabilities"].null_count == table["entropy"].null_count == 2 * len(rows)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"engine": "vllm"}},
        {"identity": {"revision": "another"}},
        {"sampling": Sampling(n=2, max_tokens=13, guided=True)},
    ],
)
def test_what_changes_rows_starts_anew(rows, engine, tmp_path, change):
    path = tmp_path / "d.parquet"
    run(rows[:2], engine, path)
    assert run(rows[:2], engine, path) == 2
    assert run(rows[:2], engine, path, **change) == 0


def test_scenes_with_the_same_ids_and_other_texts_start_anew(rows, engine, tmp_path):
    run(rows[:2], engine, tmp_path / "d.parquet")
    other = [{**row, "history": row["history"][:-1]} for row in rows[:2]]
    assert run(other, engine, tmp_path / "d.parquet") == 0


def test_another_judge_judges_again(rows, engine, tmp_path):
    run(rows[:2], engine, tmp_path / "s.parquet", judge=False)
    files = (tmp_path / "s.parquet", engine, tmp_path / "d.parquet")
    settings = {"max_tokens": 12, "identity": {"model": "one"}}
    assert stage.judged(rows[:2], *files, **settings) == 0
    assert stage.judged(rows[:2], *files, **settings) == 2
    assert stage.judged(rows[:2], *files, **{**settings, "identity": {"model": "two"}}) == 0


def test_decisions_of_other_scenes_cannot_be_judged(rows, engine, tmp_path):
    run(rows[:2], engine, tmp_path / "s.parquet", judge=False)
    with pytest.raises(UserError, match="does not hold the decisions of these scenes"):
        stage.judged(
            rows[:3], tmp_path / "s.parquet", engine, tmp_path / "d.parquet", max_tokens=12
        )


def test_nan_logits_midway_keep_the_finished_parts(rows, tiny_chat_model, tmp_path):
    broken = load_engine(str(tiny_chat_model), "float32", "tiny")
    head = broken.model.model.norm.weight
    whole, path = head.detach().clone(), tmp_path / "d.parquet"

    def break_it(count, resumed):
        head.data.fill_(float("nan"))

    with pytest.raises(UserError, match="NaN"):
        run(rows, broken, path, part_scenes=4, progress=break_it)
    head.data.copy_(whole)
    broken._last = broken._system = None
    assert run(rows, broken, path, part_scenes=4) == 4
    assert pq.read_table(path).num_rows == 2 * len(rows)


#: Fills a disk of its own, makes room as a user would, and runs again; needs a mount namespace.
FULL_DISK = """
import subprocess, sys
from pathlib import Path
import pyarrow.parquet as pq
from usermirrorer.builders.decisions import stage as decisions
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import load_engine
from usermirrorer.builders.common.errors import UserError
scenes, model, disk = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
rows, out = pq.read_table(scenes).to_pylist(), Path(disk) / "d.parquet"
def run():
    return decisions.run(rows, load_engine(model, "float32", "tiny"), out, model="tiny",
        sampling=Sampling(n=2, max_tokens=12, guided=True), seed=0, judge=True, part_scenes=4)
try:
    run()
except UserError as error:
    print(error)
print(len(list(Path(disk).glob("d.parquet.parts/*.parquet"))))
subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
print(run(), pq.read_table(out).num_rows)
"""


def test_a_full_disk_stops_the_run_and_finished_parts_stay(built, tiny_chat_model, tmp_path):
    alone = ["unshare", "--map-root-user", "--mount"]
    can = shutil.which("unshare") and subprocess.run([*alone, "true"], check=False).returncode == 0
    if not can:
        pytest.skip("a disk of its own needs a mount namespace, which is not allowed here")
    storage.write_table(tmp_path / "scenes.parquet", built["train"].slice(0, 40))
    (tmp_path / "disk").mkdir()
    files = [str(tmp_path / "scenes.parquet"), str(tiny_chat_model), str(tmp_path / "disk")]
    told = subprocess.run(
        [*alone, sys.executable, "-c", FULL_DISK, *files],
        capture_output=True,
        text=True,
        check=True,
    )
    error, parts, counts = told.stdout.splitlines()
    assert "cannot be written: No space left on device. Free some space and run again" in error
    assert 0 < int(parts) < 10
    assert counts == f"{4 * int(parts)} 80"


@pytest.mark.parametrize(
    ("option", "engine"),
    [("--tensor-parallel 2", "vllm"), ("--base-url http://x/v1", "openai")],
)
def test_options_of_another_engine_are_refused(built, tmp_path, option, engine):
    storage.write_table(tmp_path / "s.parquet", built["train"].slice(0, 1))
    words = [str(tmp_path / "s.parquet"), "--model", "m", "--out", str(tmp_path / "d.parquet")]
    told = CliRunner().invoke(decide, [*words, *option.split()])
    assert isinstance(told.exception, UserError)
    assert f"{option.split()[0]}: is of --engine {engine}" in str(told.exception)


def test_the_meter_adds_up_runs_and_prices(rows, engine, tmp_path):
    path, stop = tmp_path / "d.parquet", []

    def kill_after_two_parts(count, resumed):
        stop.append(count)
        if len(stop) == 2:
            raise KeyboardInterrupt

    settings = {"part_scenes": 2, "judge": False}
    with pytest.raises(KeyboardInterrupt):
        run(
            rows, engine, path, meter=DecisionMeter(path), progress=kill_after_two_parts, **settings
        )
    killed = json.loads((tmp_path / "d.parquet.stats.json").read_text())
    seconds = killed["total"]["seconds"]
    assert killed["seconds_left"] == pytest.approx(seconds * 6 / 4, abs=0.6)
    meter = DecisionMeter(path, (1.0, 10.0))
    assert run(rows, engine, path, meter=meter, **settings) == 4
    stored = json.loads((tmp_path / "d.parquet.stats.json").read_text())
    table, total = pq.read_table(path), stored["total"]
    assert [entry["scenes"] for entry in stored["runs"]] == [4, 6]
    tokens = {name: int(np.sum(table[name].to_numpy())) for name in ("tokens_in", "tokens_out")}
    assert {name: total[name] for name in tokens} == tokens
    assert stored["seconds_left"] == 0
    assert stored["cost"] == stored["cost_of_all"]
    assert stored["cost"] == pytest.approx(
        (tokens["tokens_in"] + 10 * tokens["tokens_out"]) / 1e6, abs=1e-4
    )
    assert total["tokens_out_per_second"] == pytest.approx(
        tokens["tokens_out"] / total["seconds"], rel=0.05
    )
    assert f"cost {stored['cost']:.2f}" in meter.summary()

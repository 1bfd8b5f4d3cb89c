"""The main job from end to end, with a random model: every step is the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from datasets import load_dataset

from tests.hub.validators import check_card, check_croissant
from usermirrorer.builders import validate
from usermirrorer.builders.common import published, storage
from usermirrorer.recipes.cli import app
from usermirrorer.recipes.job import Job
from usermirrorer.recipes.quickstart import dataset
from usermirrorer.recipes.quickstart.plan import Plan

ROLES = ("weak", "strong")
KIND = dict.fromkeys(ROLES, "decisions")


def options(raw: Path, model: Path, encoder: Path) -> dict:
    return {
        "raw": str(raw),
        "weak": str(model),
        "embedder": str(encoder),
        "train_scenes": 200,
        "simulator_scenes": 16,
        "trained_layers": 1,
        "decision_scenes": 24,
        "check_scenes": 20,
        "test_scenes": 12,
        "every_order": True,
        "decision_test_scenes": 3,
        "samples": 3,
        "thought_tokens": 18,
        "pairs": 8,
        "sft_steps": 2,
        "dpo_steps": 2,
        "dtype": "float32",
    }


def command(out: Path, settings: dict) -> list[str]:
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in settings.items()
    ]
    return [sys.executable, "-m", "usermirrorer.recipes.cli", "quickstart", f"--out={out}", *words]


@pytest.fixture(scope="module")
def settings(raw_movielens, tiny_chat_model, tiny_encoder):
    return options(raw_movielens, tiny_chat_model, tiny_encoder)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """Run the job, kill it once in the middle, and run it to its end."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    process = subprocess.Popen(command(out, settings), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out / "steps" / "scenes.json").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(out, settings), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    return out, again.stderr


def test_a_killed_run_goes_on_where_it_was(finished):
    _, told = finished
    assert "✓ scenes done before" in told
    assert "Took" in told and "What was learnt" in told


def test_the_release_keeps_every_promise(finished):
    out, _ = finished
    findings = validate.validate(*validate.load(str(out / "release")))
    assert [finding for finding in findings if finding.ok is False] == []


def test_validate_proves_every_file_that_other_steps_read(finished):
    out, _ = finished
    beside = ["--scenes", out / "scenes" / "train.parquet"]
    files = {"scenes": [out / "scenes"], "release": [out / "release"]}
    files |= {name: [out / "decisions" / f"{name}.parquet", *beside] for name in ROLES}
    files["pairs"] = [out / "pairs.parquet", *beside]
    for name, words in files.items():
        done = CliRunner().invoke(app, ["validate", *map(str, words)])
        assert done.exit_code == 0, (name, done.output)
        told = "holds   %s: the scenes are those they were made from"
        assert name in ("scenes", "release") or told % KIND.get(name, name) in done.output


def test_the_release_passes_the_validators_of_cards_and_of_croissant(finished):
    check_card(finished[0] / "release")
    check_croissant(finished[0] / "release")


def test_what_was_loaded_back_is_what_was_released(finished):
    out, _ = finished
    summary = storage.read_json(out / "summary.json")
    assert summary["loaded"]["pairs"] == summary["pairs"]["fate"]["pairs"] > 0
    assert summary["loaded"]["scenes"]["test"] == 12


def test_the_exposures_are_audited_and_the_release_says_so(finished):
    manifest = storage.read_json(finished[0] / "release" / "manifest.json")
    (source,) = manifest["audit"]["sources"].values()
    assert manifest["audit"]["verdict"] == source["verdict"] == "holds"
    assert {"no_history", "collaborative", "all_features"} <= source["placebo"].keys()


def test_the_papers_exposures_are_a_configuration_of_the_release_with_an_audit_of_their_own(
    finished,
):
    release = finished[0] / "release"
    paper = published.read_rows(str(release), "paper", "test")
    assert set(paper["exposure_mode"]) == {"paper"} and len(paper) == 12
    assert storage.read_json(release / "manifest.json")["audit_paper"]["sources"]["movielens"]


def test_scores_of_all_models_stand_beside_baselines_and_ablations(finished):
    rows = storage.read_json(finished[0] / "summary.json")["scores"]
    tasks = {
        "base": ["usermirror-direct_movielens"],
        "simulator": ["usermirror-direct_movielens"],
        "sft": ["usermirror_movielens"],
        "dpo": ["usermirror_movielens"],
    }
    needed = {"acc", "acc_chance", "acc_collaborative", "acc_no_history_learned", "entropy"}
    ablations = {"acc_no_history", "acc_swapped", "acc_placebo"}
    for model, its in tasks.items():
        shown = {(r["task"], r["metric"]) for r in rows if r["model"] == model}
        assert {task for task, _ in shown} == set(its)
        for task in its:
            assert {(task, metric) for metric in needed} <= shown
            asked = {metric for metric in ablations if (task, metric) in shown}
            assert asked == (ablations if model == "simulator" else set())


def test_what_was_learnt_is_compared_on_the_same_scenes_in_a_table_and_a_picture(finished):
    out, told = finished
    learnt = storage.read_json(out / "summary.json")["learnt"]
    names = [row["name"] for row in learnt["rows"]]
    for name in ("chance", "learned without history", "collaborative filter", "base model"):
        assert name in names and name in told
    assert "simulator with another's history" in names
    for row in learnt["rows"]:
        assert 0 <= row["lower"] <= row["value"] <= row["upper"] <= 1
    against = learnt["against"]["base model"]
    value = {row["name"]: row["value"] for row in learnt["rows"]}
    gained = value["simulator, trained"] - value["base model"]
    assert against["difference"] == pytest.approx(gained)
    assert (out / "figures" / "learnt.png").stat().st_size > 5_000


def test_what_the_simulator_adds_to_each_baseline_is_told(finished):
    out, told = finished
    learnt = storage.read_json(out / "summary.json")["learnt"]
    baselines = {row["name"] for row in learnt["rows"] if row["kind"] == "baseline"}
    assert learnt["added"].keys() == baselines and "adds to it, bits" in told
    for one in learnt["added"].values():
        assert one["bits"]["n"] == learnt["scenes"]
        assert one["bits"]["low"] <= one["bits"]["difference"] <= one["bits"]["high"]
        assert one["alone"] - one["together"] == pytest.approx(one["bits"]["difference"])


def test_the_simulator_is_scored_in_every_order_of_the_options_and_the_card_says_so(finished):
    out, _ = finished
    rows = storage.read_json(out / "summary.json")["scores"]
    orders = {row["model"]: "rotations" in row["settings"] for row in rows}
    assert orders == {"base": False, "simulator": True, "sft": False, "dpo": False}
    card = (out / "models" / "simulator" / "README.md").read_text()
    assert "options in every order" in card


def test_cards_of_all_models_name_their_data_and_scores(finished):
    for stage in ("simulator", "sft", "dpo"):
        card = (finished[0] / "models" / stage / "README.md").read_text()
        assert "usermirrorer/mixed" in card and "model-index" in card


def test_trained_models_load_with_plain_transformers(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for stage in ("simulator", "sft", "dpo"):
        folder = finished[0] / "models" / stage
        assert AutoTokenizer.from_pretrained(folder).chat_template
        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0


def test_a_finished_run_does_nothing_twice(finished, settings):
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (out / "release").rglob("*") if p.is_file()}
    again = subprocess.run(command(out, settings), capture_output=True, text=True, check=True)
    assert again.stderr.count("done before") == len(list((out / "steps").glob("*.json")))
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_other_sizes_want_another_folder_which_is_said_before_any_work(finished, settings):
    out, _ = finished
    before = (out / "plan.json").read_bytes()
    more = {**settings, "pairs": 9, "test_scenes": 7}
    again = subprocess.run(command(out, more), capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "Give another --out" in again.stderr
    assert "--test-scenes" in again.stderr and "--pairs" in again.stderr
    assert "--seed" not in again.stderr and "done before" not in again.stderr
    assert (out / "plan.json").read_bytes() == before


def test_the_same_seed_gives_the_same_bytes(finished, settings, tmp_path):
    """Everything that decides a byte is in the plan: another folder makes the same release."""
    out, _ = finished
    plan = _plan(out)
    dataset.make_dataset(Job(tmp_path / "again"), plan)
    for path in sorted((out / "release").rglob("*")):
        if path.is_file():
            other = tmp_path / "again" / "release" / path.relative_to(out / "release")
            assert other.read_bytes() == path.read_bytes(), path.name
    job = Job(tmp_path / "other")
    parts = dataset.get_parts(job, plan)
    dataset.make_scenes(job, replace(plan, seed=1), parts)
    assert storage.file_hash(job.out / "scenes" / "train.parquet") != storage.file_hash(
        out / "scenes" / "train.parquet"
    )


def _plan(out: Path) -> Plan:
    return Plan(**storage.read_json(out / "plan.json"))


def test_no_path_of_this_machine_is_published(finished):
    out, _ = finished
    for folder in (out / "release", out / "models" / "sft", out / "models" / "dpo"):
        for path in [*folder.glob("*.json"), *folder.glob("*.md"), *folder.glob("*.yaml")]:
            assert str(out.parent) not in path.read_text(), path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"raw": "/nowhere"}, "/nowhere: does not exist"),
        ({"weak": "/no/model"}, "is no folder, no known part and not on the Hub"),
        ({"train_scenes": 10}, "too few train scenes"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_half_written(settings, tmp_path, change, told):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    ran = subprocess.run(
        command(tmp_path / "run", {**settings, **change}),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 1
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and told in errors[0], ran.stderr[-1000:]
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "run" / "release").exists()


def test_datasets_reads_a_release_folder_directly(finished, tmp_path):
    pairs = load_dataset(str(finished[0] / "release"), split="train", cache_dir=str(tmp_path))
    assert {"prompt", "chosen", "rejected"} <= set(pairs.column_names)


@pytest.mark.slow
def test_the_real_model_on_a_handful_of_scenes(tmp_path):
    """MovieLens-100K and SmolLM2-135M through every step; the strong model is a named one."""
    settings = {
        "strong": "smollm2-135m-instruct",
        "train_scenes": 200,
        "simulator_scenes": 1,
        "decision_scenes": 12,
        "check_scenes": 8,
        "test_scenes": 8,
        "decision_test_scenes": 2,
        "samples": 3,
        "thought_tokens": 36,
        "pairs": 4,
        "sft_steps": 1,
        "dpo_steps": 1,
    }
    ran = subprocess.run(
        command(tmp_path / "run", settings), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    summary = storage.read_json(tmp_path / "run" / "summary.json")
    assert summary["scenes"]["interactions"] == 100_000
    assert summary["loaded"]["pairs"] > 0
    assert summary["decided"]["weak"]["malformed"] == 0
    accuracy = {r["model"]: r["value"] for r in summary["scores"] if r["metric"] == "acc"}
    assert set(accuracy) == {"base", "simulator", "sft", "dpo"}
    findings = validate.validate(*validate.load(str(tmp_path / "run" / "release")))
    assert [finding for finding in findings if finding.ok is False] == []

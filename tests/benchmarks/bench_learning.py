"""Does real feedback teach a small model to pick as people did, and how much of it is needed?

    python tests/benchmarks/bench_learning.py runs/learning --sizes 300 900 2400 --placebo_size 900

Builds exchangeable scenes of MovieLens-100K, trains SmolLM2-135M-Instruct on the label token alone
(section 3.1) on each number of scenes by `accelerate launch recipes/sft.py` with the configuration
and the prompts in `recipes/smollm2-135m-instruct/direct_compact/`, and scores each, and the base,
by `lm_eval` on the same scenes of test users: with the history, without it, with another user's.
Smaller sets are parts of larger ones. A last model is trained on placebo targets, from which there
is nothing of a person to be learnt: on scenes at random, since scenes taken by agreement are those
whose history speaks for the target, whoever took it (`--max_pairs_by agreement` shows that).
Beside them stand the scenes' baselines, scene by scene. A killed run goes on where it was. Options
that are not its own go to the recipe, e.g. `--learning_rate 1e-4`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from usermirrorer.builders.audit.report import baselines_by_scene
from usermirrorer.builders.common import assets
from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.models import fast_dtype
from usermirrorer.builders.common.storage import read_json, read_table, write_json
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import pipeline
from usermirrorer.builders.scenes.world import SceneConfig
from usermirrorer.eval_harness.added import added
from usermirrorer.eval_harness.analysis.answers import read_run
from usermirrorer.eval_harness.metrics import mean, paired_test
from usermirrorer.eval_harness.results import compare, read_results
from usermirrorer.recipes.job import RECIPES, Job

FOLDER = RECIPES / "smollm2-135m-instruct" / "direct_compact"
PROMPTS = FOLDER / "prompts"
TASK = "usermirror-direct_movielens"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
#: What the curve shows of each model.
SHOWN = ("acc", "acc_swapped", "acc_no_history", "acc_placebo", "entropy")


def build(job: Job, train: int, test: int, seed: int) -> dict[str, Any]:
    """Make scenes of five options and their placebos; no test user is in train."""
    return pipeline.raw_to_scenes(
        get_source("movielens"),
        Path(assets.fetch_asset("ml-100k")),
        job.out / "scenes",
        SceneConfig(train, test, seed, history=(1, 20), train_others=(4, 4)),
        embedder=assets.resolve_model("all-minilm-l6-v2"),
        bar=job.bar,
    )


def train(job: Job, base: str, name: str, scenes: str, size: int, more: list[str]) -> Path:
    """Train by the recipe; `more` are options that win over its configuration."""
    folder = job.out / "models" / name
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(RECIPES / "accelerate" / "cpu.yaml"), str(RECIPES / "sft.py")]
    command += ["--config", str(FOLDER / "config.yaml")]
    command += ["--model_name_or_path", base, "--base_model_id", BASE, "--prompts", str(PROMPTS)]
    command += ["--dataset_name", str(job.out / "scenes" / scenes), "--max_pairs", str(size)]
    command += ["--bf16", str(fast_dtype() == "bfloat16").lower(), "--output_dir", str(folder)]
    job.call(f"{name}: accelerate launch recipes/sft.py", [*command, *more])
    return folder


def score(job: Job, name: str, model: str, limit: int, every_order: bool) -> dict[str, Any]:
    """Score by lm_eval on the first `limit` test scenes, with all ablations."""
    output = job.out / "scores" / name
    shutil.rmtree(output, ignore_errors=True)  # of a run that asked for other scenes or orders
    scenes = {"dataset": str(job.out / "scenes" / "test.parquet"), "prompt_folder": str(PROMPTS)}
    scenes |= {"rotations": every_order}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype={fast_dtype()}", "--tasks", TASK]
    command += ["--limit", str(limit), "--apply_chat_template", "--batch_size", "32"]
    command += ["--metadata", json.dumps(scenes), "--log_samples", "--output_path", str(output)]
    job.call(f"{name}: lm_eval --tasks {TASK}", command)
    return {"folder": str(output)}


def years(scene: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one line says of a scene: the option of about the newest five films' years."""
    shown, options = ([year(text) for text in scene[name]] for name in ("history", "exposure"))
    newest = [then for then in shown[-5:] if then is not None]
    scores = [
        math.nan if own is None or not newest else -sum(abs(own - then) for then in newest)
        for own in options
    ]
    return {
        "right": top_choice(scores, scene["answer"]),
        # The root, since a distance of 40 years hardly says more than one of 30.
        "scores": [0.0 if math.isnan(score) else -math.sqrt(-score) for score in scores],
    }


def year(text: str) -> int | None:
    """Return the last year in brackets."""
    found = re.findall(r"\((\d{4})\)", text)
    return int(found[-1]) if found else None


def against(folder: Path, told: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return baseline -> its accuracy, the model's difference to it, and what the model adds."""
    answers = list(read_run(str(folder)).answers.values())
    users = [answer.scene.user for answer in answers]
    truths = [answer.scene.answer for answer in answers]
    own = [answer.expected for answer in answers]
    right = [answer.right for answer in answers]
    found = {}
    for name in next(iter(told.values())):
        theirs = [told[answer.scene.scene_id][name] for answer in answers]
        baseline = [one["right"] for one in theirs]
        found[name] = {
            "acc": asdict(mean(baseline, users)),
            "model_minus_it": asdict(paired_test(baseline, right, users)),
            "model_adds": asdict(added([one["scores"] for one in theirs], own, truths, users)),
        }
    return found


def point(job: Job, name: str, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what one model reached: a row of the curve."""
    scores = read_results(job.out / "scores" / name)
    row: dict[str, Any] = {
        s.metric: [round(s.value, 4), *(round(end, 4) for end in s.interval)]
        for s in scores
        if s.metric in SHOWN
    }
    row["baselines"] = against(job.out / "scores" / name, told)
    if name != "base":
        base = read_results(job.out / "scores" / "base")
        row["minus_base"] = asdict(compare(base, scores))
        run = read_json(job.out / "models" / name / "train_run.json")
        row |= {"rows": run["data"]["rows"], "minutes": round(run["results"]["seconds"] / 60, 1)}
        row["tokens_per_second"] = run["results"]["tokens_per_second"]
    return row


def main() -> None:
    """Do it and print one JSON line per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 900, 2400])
    parser.add_argument("--test", type=int, default=1000, help="test scenes")
    parser.add_argument("--scored", type=int, help="score the first so many of them (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--one_order", action="store_true", help="score the options in one order, not in every"
    )
    parser.add_argument(
        "--placebo_size",
        type=int,
        help="placebo targets to train on (default: the largest size; 0: train on none)",
    )
    asked, more = parser.parse_known_args()  # the rest goes to the recipe
    job, largest = Job(asked.out), max(asked.sizes)
    made_from = [largest, asked.test, asked.seed]
    made = job.step("scenes", made_from, lambda: build(job, largest, asked.test, asked.seed))
    files = {split: job.out / "scenes" / f"{split}.parquet" for split in ("train", "test")}
    tables = {split: read_table(path) for split, path in files.items()}
    told = baselines_by_scene(tables)
    for scene in tables["test"].to_pylist():
        told[scene["scene_id"]]["years"] = years(scene)
    base = assets.resolve_model("smollm2-135m-instruct")
    limit = min(made["test"]["scenes"], asked.scored or made["test"]["scenes"])
    runs = [(str(size), "train.parquet", size, more) for size in sorted(asked.sizes)]
    if placebo := largest if asked.placebo_size is None else asked.placebo_size:
        at_random = ["--max_pairs_by", "random", *more]
        runs.append((f"placebo-{placebo}", "placebo_train.parquet", placebo, at_random))
    curve = {}
    for name, scenes, size, options in [("base", "", 0, more), *runs]:
        # The recipe knows a finished run itself.
        model = str(train(job, base, name, scenes, size, options)) if size else base
        job.step(
            f"score {name}",
            [made["files"], assets.model_revision(model), limit, asked.one_order],
            partial(score, job, name, model, limit, not asked.one_order),
        )
        curve[name] = point(job, name, told)
        print(json.dumps({"model": name, **curve[name]}), flush=True)
        write_json(job.out / "learning.json", {"test_scenes": limit, "curve": curve})


if __name__ == "__main__":
    main()

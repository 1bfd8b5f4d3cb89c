"""Does real feedback teach a small model to pick as people did? (section 3.1, in small)

    python tests/benchmarks/bench_learning.py runs/learning

Builds train and test scenes of MovieLens-100K, trains SmolLM2-135M-Instruct on the label token
alone by `accelerate launch recipes/sft.py` with the configuration and the prompts in
`recipes/smollm2-135m-instruct/direct_compact/`, scores it and its base by `lm_eval` on the same
scenes of test users, and writes the card of the trained model, its curve in it. Beside them stand
chance, the most popular option and the one nearest to the history. A killed run goes on where it
was. Options that are not its own go to the recipe, e.g. `--learning_rate 1e-4`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.models import fast_dtype
from usermirrorer.builders.common.storage import write_json
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import pipeline
from usermirrorer.builders.scenes.world import SceneConfig
from usermirrorer.eval_harness.results import card_rows, compare, read_results
from usermirrorer.model_cards import model_card
from usermirrorer.recipes.job import Job

RECIPES = Path(__file__).parents[2] / "recipes"
FOLDER = RECIPES / "smollm2-135m-instruct" / "direct_compact"
PROMPTS = FOLDER / "prompts"
TASK = "usermirror-direct_movielens"
BASE, TRAINED = "HuggingFaceTB/SmolLM2-135M-Instruct", "usermirrorer/smollm2-135m-instruct-direct"
BASELINES = ("acc_chance", "acc_popular", "acc_nearest")


def build(job: Job, train: int, test: int, seed: int) -> dict[str, Any]:
    """Make scenes of five options, as section 3.1 has them; no test user is in train."""
    return pipeline.raw_to_scenes(
        get_source("movielens"),
        Path(assets.fetch_asset("ml-100k")),
        job.out / "scenes",
        SceneConfig(train, test, seed, history=(1, 6), train_others=(4, 4)),
        embedder=assets.resolve_model("all-minilm-l6-v2"),
        bar=job.bar,
    )


def train(job: Job, base: str, more: list[str]) -> dict[str, Any]:
    """Train by the recipe; `more` are options that win over its configuration."""
    folder = job.out / "model"
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(RECIPES / "accelerate" / "cpu.yaml"), str(RECIPES / "sft.py")]
    command += ["--config", str(FOLDER / "config.yaml")]
    command += ["--model_name_or_path", base, "--base_model_id", BASE, "--prompts", str(PROMPTS)]
    command += ["--dataset_name", str(job.out / "scenes" / "train.parquet")]
    command += ["--bf16", str(fast_dtype() == "bfloat16").lower(), "--output_dir", str(folder)]
    job.call("accelerate launch recipes/sft.py --stage direct", [*command, *more])
    return {"folder": str(folder)}


def score(job: Job, name: str, model: str, limit: int) -> dict[str, Any]:
    """Score by lm_eval on the first `limit` test scenes."""
    output = job.out / "scores" / name
    scenes = {"dataset": str(job.out / "scenes" / "test.parquet"), "prompt_folder": str(PROMPTS)}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype={fast_dtype()}", "--tasks", TASK]
    command += ["--limit", str(limit), "--apply_chat_template", "--batch_size", "32"]
    command += ["--metadata", json.dumps(scenes), "--log_samples", "--output_path", str(output)]
    job.call(f"{name}: lm_eval --tasks {TASK}", command)
    return {"folder": str(output)}


def summary(job: Job, limit: int) -> dict[str, Any]:
    """Compare both on the same scenes and write the trained model's card."""
    found = {name: read_results(job.out / "scores" / name) for name in ("base", "trained")}
    model_card.write(
        job.out / "model",
        scores=card_rows(found["base"], BASE) + card_rows(found["trained"], TRAINED),
        dataset=None,
        repo_id=TRAINED,
        version="",
    )
    values = {
        name: {s.metric: [round(s.value, 4), round(1.96 * s.stderr, 4)] for s in scores}
        for name, scores in found.items()
    }
    run = json.loads((job.out / "model" / "train_run.json").read_text())
    return {
        "test_scenes": limit,
        "train_rows": run["data"]["rows"],
        "train_seconds": run["results"]["seconds"],
        "tokens_per_second": run["results"]["tokens_per_second"],
        "base": values["base"]["acc"],
        "trained": values["trained"]["acc"],
        **{name: values["base"][name] for name in BASELINES},
        "entropy_bits": [values["base"]["entropy"], values["trained"]["entropy"]],
        "trained_minus_base": asdict(compare(found["base"], found["trained"])),
        "card": str(job.out / "model" / "README.md"),
    }


def main() -> None:
    """Do it and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1500, help="train scenes")
    parser.add_argument("--test", type=int, default=500, help="test scenes")
    parser.add_argument("--seed", type=int, default=0)
    asked, more = parser.parse_known_args()  # the rest goes to the recipe
    job = Job(asked.out)
    made = job.step(
        "scenes",
        [asked.train, asked.test, asked.seed],
        lambda: build(job, asked.train, asked.test, asked.seed),
    )
    base = assets.resolve_model("smollm2-135m-instruct")
    # From here on the recipe and the prompts decide; the recipe knows a finished run itself.
    trained = train(job, base, more)
    limit = made["test"]["scenes"]
    for name, model in (("base", base), ("trained", trained["folder"])):
        revision = assets.model_revision(model)
        job.step(
            f"score {name}",
            [made["files"], revision, limit],
            lambda name=name, model=model: score(job, name, model, limit),
        )
    result = summary(job, limit)
    write_json(job.out / "learning.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""What does choosing pairs by a strategy add over choosing at random (Table 2), on two CPU cores?

    python tests/benchmarks/bench_strategies.py runs/strategies \\
        --simulator runs/learning/models/900 --scenes runs/learning/scenes/test.parquet

Takes a simulator that was trained on behaviors and scenes of users that it was not trained on
(`bench_learning` leaves both). One part of these users' scenes is decided on by the base model and
by the simulator; each strategy picks so many pairs from the same candidates, and each set trains
the simulator further: SFT on the chosen responses, then DPO (unless `--stages sft`). All are scored
by `lm_eval` on the same scenes of the other users: by decision processes, `random_direct` by the
likeliest label. The differences to `random` are paired by scene, by user. A killed run goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.models import fast_dtype
from usermirrorer.builders.common.storage import (
    file_hash,
    read_table,
    write_json,
    write_table,
)
from usermirrorer.builders.distil.strategies import STRATEGIES
from usermirrorer.eval_harness.metrics import holm, mean, paired_test
from usermirrorer.eval_harness.results import read_results, read_samples
from usermirrorer.recipes.job import RECIPES, Job

SMALL = RECIPES / "smollm2-135m-instruct"
PROMPTS = SMALL / "direct_compact" / "prompts"
METRICS = ("acc", "log_loss")
BEFORE = "simulator"


def deal(job: Job, scenes: pa.Table, decided: int, scored: int) -> dict[str, Any]:
    """Write `decide.parquet` and `score.parquet`: scenes of different users, so many of each."""
    users = sorted(set(scenes["user_id"].to_pylist()))
    counts = {}
    for name, part, most in (("decide", users[::2], decided), ("score", users[1::2], scored)):
        rows = scenes.filter(pc.is_in(scenes["user_id"], pa.array(part))).slice(0, most)
        write_table(job.out / f"{name}.parquet", rows)
        counts[name] = {"scenes": len(rows), "users": len(set(rows["user_id"].to_pylist()))}
    return counts


def decide(job: Job, base: str, simulator: str, samples: int, tokens: int) -> dict[str, Any]:
    """Sample decision processes of both models; the base model judges."""
    for name, model in (("weak", base), ("strong", simulator)):
        command = [sys.executable, "-m", "usermirrorer.recipes.cli", "decide"]
        command += [str(job.out / "decide.parquet"), "--model", model, "--judge", base]
        command += ["--samples", str(samples), "--max-tokens", str(tokens), "--guided"]
        command += ["--prompts", str(PROMPTS), "--out", str(job.out / f"{name}.parquet")]
        job.call(f"{name}: decide", command)
    return {name: file_hash(job.out / f"{name}.parquet") for name in ("weak", "strong")}


def distil(job: Job, strategy: str, base: str, pairs: int, tokens: int) -> dict[str, Any]:
    """Make the pairs of one strategy."""
    target = job.out / "pairs" / f"{strategy}.parquet"
    target.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "distil"]
    command += [str(job.out / "decide.parquet"), "--weak", str(job.out / "weak.parquet")]
    command += ["--strong", str(job.out / "strong.parquet"), "--prompts", str(PROMPTS)]
    command += ["--strategy", strategy, "--pairs", str(pairs), "--at-most", "--out", str(target)]
    if strategy == "ifd":
        command += ["--model", base, "--max-tokens", str(tokens)]
    job.call(f"{strategy}: distil", command)
    return {"pairs": len(read_table(target)), "file": file_hash(target)}


def train(job: Job, strategy: str, simulator: str, steps: int, stages: list[str]) -> Path:
    """SFT on the chosen responses of a strategy's pairs, then DPO on the pairs."""
    before = Path(simulator)
    for stage in stages:
        folder = job.out / "models" / f"{strategy}-{stage}"
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(RECIPES / "accelerate" / "cpu.yaml")]
        command += [str(RECIPES / f"{stage}.py"), "--config", str(SMALL / stage / "config.yaml")]
        command += ["--model_name_or_path", str(before), "--max_steps", str(steps)]
        command += ["--dataset_name", str(job.out / "pairs" / f"{strategy}.parquet")]
        command += ["--stage", STRATEGIES[strategy].mode, "--output_dir", str(folder)]
        command += ["--use_cpu", "true", "--bf16", str(fast_dtype() == "bfloat16").lower()]
        job.call(f"{strategy}: accelerate launch recipes/{stage}.py", command)
        before = folder
    return before


def score(job: Job, name: str, model: Path, mode: str, samples: int, tokens: int) -> dict[str, Any]:
    """Score on `score.parquet` by `lm_eval`."""
    output = job.out / "scores" / name
    shutil.rmtree(output, ignore_errors=True)  # of a run that asked for other scenes or orders
    metadata = {
        "dataset": str(job.out / "score.parquet"),
        "prompt_folder": str(PROMPTS),
        "ablations": False,
        "guided": mode == "decision",
        "samples": samples,
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype={fast_dtype()}"]
    command += ["--tasks", f"usermirror{'-direct' if mode == 'direct' else ''}_movielens"]
    command += ["--apply_chat_template", "--batch_size", "40", "--log_samples"]
    command += ["--gen_kwargs", f"max_gen_toks={tokens}"]
    command += ["--metadata", json.dumps(metadata), "--output_path", str(output)]
    job.call(f"{name}: lm_eval", command)
    return {"folder": str(output)}


def table(job: Job, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row per scored model: its metrics and their differences to `random`."""
    samples = {}
    for name in names:
        scores = [s for s in read_results(job.out / "scores" / name) if s.metric == "acc"]
        samples[name] = read_samples(scores[0])
    scenes = list(samples["random"])
    users = [samples["random"][scene]["user_id"] for scene in scenes]
    rows = []
    for name, title in names.items():
        row: dict[str, Any] = {"name": name, "asked": title}
        for metric in METRICS:
            own = [samples[name][scene][metric] for scene in scenes]
            other = [samples["random"][scene][metric] for scene in scenes]
            row[metric] = asdict(mean(own, users, "share" if metric == "acc" else "number"))
            row[f"{metric}_over_random"] = asdict(paired_test(other, own, users))
        rows.append(row)
    for metric in METRICS:
        told = [row[f"{metric}_over_random"] for row in rows if row["name"] != "random"]
        for one, p in zip(told, holm([one["p_value"] for one in told]), strict=True):
            one["p_holm"] = p
    return rows


def main() -> None:
    """Do it and print one JSON line per strategy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--simulator", required=True, help="model that was trained on behaviors")
    parser.add_argument("--scenes", type=Path, required=True, help="scenes of other users")
    parser.add_argument("--decided", type=int, default=160, help="scenes that both decide on")
    parser.add_argument("--scored", type=int, default=120, help="scenes of yet other users")
    parser.add_argument("--pairs", type=int, default=32, help="of each strategy")
    parser.add_argument("--samples", type=int, default=3, help="decisions per scene and model")
    parser.add_argument("--tokens", type=int, default=48, help="of the longest decision process")
    parser.add_argument("--steps", type=int, default=8, help="of SFT, and of DPO, of 4 rows each")
    parser.add_argument("--stages", nargs="+", choices=["sft", "dpo"], default=["sft", "dpo"])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    asked = parser.parse_args()
    job, base = Job(asked.out), assets.resolve_model("smollm2-135m-instruct")
    simulator = str(Path(asked.simulator).absolute())
    size = [asked.samples, asked.tokens]
    made_from = [file_hash(asked.scenes), asked.decided, asked.scored]
    scenes = read_table(asked.scenes)
    counts = job.step("deal", made_from, lambda: deal(job, scenes, asked.decided, asked.scored))
    scored = file_hash(job.out / "score.parquet")
    made_from = [*made_from, assets.model_revision(simulator), *size]
    decided = job.step("decide", made_from, lambda: decide(job, base, simulator, *size))
    names, pairs = {}, {}
    for strategy in dict.fromkeys(["random", *asked.strategies]):
        mode = STRATEGIES[strategy].mode
        picked = job.step(
            f"{strategy} pairs",
            [decided, asked.pairs],
            partial(distil, job, strategy, base, asked.pairs, asked.tokens),
        )
        pairs[strategy] = picked["pairs"]
        # The recipe knows a finished run itself.
        model = train(job, strategy, simulator, asked.steps, asked.stages)
        job.step(
            f"{strategy} score",
            [picked, asked.steps, asked.stages, scored, *size],
            partial(score, job, strategy, model, mode, *size),
        )
        names[strategy] = mode
    for mode in ("direct", "decision"):  # before any pair
        job.step(
            f"{BEFORE} {mode} score",
            [made_from, mode],
            partial(score, job, f"{BEFORE}-{mode}", Path(simulator), mode, *size),
        )
        names[f"{BEFORE}-{mode}"] = mode
    rows = table(job, names)
    write_json(job.out / "strategies.json", {"scenes": counts, "pairs": pairs, "rows": rows})
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

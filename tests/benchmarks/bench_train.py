"""Speed and memory of a recipe against TRL's own script, and of packing against padding.

    python tests/benchmarks/bench_train.py sft --model MODEL --pairs pairs.parquet --steps 6
    python tests/benchmarks/bench_train.py dpo --model MODEL --pairs pairs.parquet --steps 4

All runs train the same rows with the same settings, each in a process of its own, in turns (a, b,
c, c, b, a) so that a slow spell of the machine meets all. Steps and tokens per second are the
trainer's own, without start-up; tokens are those of the rows, padding not counted. `loss` is the
mean over the steps: equal losses say that the same work was done (packing: other rows in a step).
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
#: Stage -> variant -> what it is told beside `settings`; `trl` is TRL's own script.
VARIANTS = {
    "sft": {
        "recipe": [],
        "trl": [],
        "padding_free": ["--padding_free", "true"],
        "packed": ["--packing", "true", "--per_device_train_batch_size", "1"],
    },
    "dpo": {
        "recipe": [],
        "trl": [],
        "precomputed": ["--precompute_ref_log_probs", "true"],
    },
}


def settings(asked: argparse.Namespace, output: Path) -> list[str]:
    """Return what every run is told."""
    return [
        *("--model_name_or_path", asked.model, "--output_dir", str(output)),
        *("--max_steps", str(asked.steps), "--max_length", str(asked.max_length)),
        *("--per_device_train_batch_size", str(asked.batch), "--learning_rate", "1e-4"),
        *("--bf16", "false", "--gradient_checkpointing", "false", "--report_to", "none"),
        *("--save_strategy", "no", "--logging_steps", "1", "--seed", "1"),
        *("--use_peft", "true", "--lora_dropout", "0"),
    ]


def measured(command: list[str], output: Path) -> dict[str, float]:
    """Run a training script; return its steps and tokens per second and its peak memory."""
    with (output.parent / f"{output.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    text = Path(log.name).read_text()
    if status:
        raise SystemExit(text[-3000:])
    final = next(line for line in reversed(text.splitlines()) if "'train_steps_per_second'" in line)
    numbers = json.loads(final[final.index("{") : final.index("}") + 1].replace("'", '"'))
    tokens = float(re.findall(r"'num_tokens': '([^']+)'", text)[-1])
    return {
        "steps_per_second": float(numbers["train_steps_per_second"]),
        "tokens_per_second": tokens / float(numbers["train_runtime"]),
        "loss": float(numbers["train_loss"]),
        "peak_memory_gib": usage.ru_maxrss / 2**20,
    }


def trl_folder(stage: str, pairs: Path, folder: Path) -> Path:
    """Write the rows as TRL's script reads them, in a folder of Parquet; return the folder."""
    from datasets import Dataset

    rows = Dataset.from_parquet(str(pairs))
    if stage == "sft":
        rows = rows.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    else:
        rows = rows.select_columns(["prompt", "chosen", "rejected"])
    folder.mkdir()
    rows.to_parquet(folder / "train.parquet")
    return folder


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=list(VARIANTS))
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--variants", nargs="+", help="Default: all of the stage.")
    asked = parser.parse_args()
    variants = asked.variants or list(VARIANTS[asked.stage])
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = trl_folder(asked.stage, asked.pairs, work / "rows")
        for number, variant in enumerate([*variants, *reversed(variants)] * asked.rounds):
            output = work / f"{variant}-{number}"
            script = [str(RECIPES / f"{asked.stage}.py"), "--dataset_name", str(asked.pairs)]
            if variant == "trl":
                script = ["-m", f"trl.scripts.{asked.stage}", "--dataset_name", str(rows)]
            more = [*settings(asked, output), *VARIANTS[asked.stage][variant]]
            results[variant].append(measured([sys.executable, *script, *more], output))
    found = {name: middle(runs) for name, runs in results.items()}
    ratios = {
        f"{name}_over_{base}": found[name][what] / found[base][what]
        for name, base, what in (
            ("recipe", "trl", "steps_per_second"),
            ("precomputed", "trl", "steps_per_second"),
            ("packed", "recipe", "tokens_per_second"),
            ("padding_free", "recipe", "tokens_per_second"),
        )
        if {name, base} <= set(found)
    }
    print(json.dumps({**found, **ratios}))


if __name__ == "__main__":
    main()

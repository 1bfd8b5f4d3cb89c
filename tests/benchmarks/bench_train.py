"""Speed and memory of the SFT recipe against TRL's own script, and of packing against padding.

    python tests/benchmarks/bench_train.py --model MODEL --pairs pairs.parquet --steps 6

All runs train the same rows with the same settings, each in a process of its own, in turns (ours,
TRL, TRL, ours) so that a slow spell of the machine meets both. Steps and tokens a second are the
trainer's own, without start-up; tokens are those of the rows, padding not counted. Prints one JSON
line.
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

RECIPE = Path(__file__).parents[2] / "recipes" / "sft.py"


def settings(model: str, steps: int, output: Path) -> list[str]:
    """Return what both scripts are told."""
    return [
        *("--model_name_or_path", model, "--output_dir", str(output), "--max_steps", str(steps)),
        *("--bf16", "false", "--gradient_checkpointing", "false", "--report_to", "none"),
        *("--save_strategy", "no", "--logging_steps", "1", "--learning_rate", "1e-4"),
        *("--use_peft", "true", "--lora_dropout", "0", "--seed", "1"),
    ]


def measured(command: list[str], output: Path) -> dict[str, float]:
    """Run a training script; return its steps and tokens a second and its peak memory."""
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


def trl_folder(pairs: Path, folder: Path) -> Path:
    """Write the rows as TRL's script reads them: prompt and completion in a Parquet folder."""
    from datasets import Dataset

    rows = Dataset.from_parquet(str(pairs)).select_columns(["prompt", "chosen"])
    folder.mkdir()
    rows.rename_column("chosen", "completion").to_parquet(folder / "train.parquet")
    return folder


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", default="2048")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = trl_folder(asked.pairs, work / "trl")
        padded = [
            "--per_device_train_batch_size",
            str(asked.batch),
            "--max_length",
            asked.max_length,
        ]
        packed = ["--per_device_train_batch_size", "1", "--packing", "true"]
        packed += ["--max_length", asked.max_length]

        def ours(kind: str, more: list[str], number: int) -> dict[str, float]:
            output = work / f"{kind}-{number}"
            words = [sys.executable, str(RECIPE), *settings(asked.model, asked.steps, output)]
            return measured([*words, "--dataset_name", str(asked.pairs), *more], output)

        def trl(number: int) -> dict[str, float]:
            output = work / f"trl-{number}"
            words = [sys.executable, "-m", "trl.scripts.sft"]
            words += [*settings(asked.model, asked.steps, output), "--dataset_name", str(rows)]
            return measured([*words, *padded], output)

        results: dict[str, list[dict[str, float]]] = {"recipe": [], "trl": [], "packed": []}
        for number in range(asked.rounds):
            results["recipe"].append(ours("recipe", padded, 2 * number))
            results["trl"] += [trl(2 * number), trl(2 * number + 1)]
            results["recipe"].append(ours("recipe", padded, 2 * number + 1))
            results["packed"].append(ours("packed", packed, number))
    found = {name: middle(runs) for name, runs in results.items()}
    ratio = found["recipe"]["steps_per_second"] / found["trl"]["steps_per_second"]
    gain = found["packed"]["tokens_per_second"] / found["recipe"]["tokens_per_second"]
    print(json.dumps({**found, "recipe_over_trl": ratio, "packing_over_padding": gain}))


if __name__ == "__main__":
    main()

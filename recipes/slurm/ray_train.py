"""One recipe on a Ray cluster: every worker runs the recipe's `main` in one process group.

    pip install "ray[train]"
    python recipes/slurm/ray_train.py 8 dpo \
        --config recipes/llama-3.2-3b-instruct/dpo/config.yaml --output_dir /shared/dpo

The first number is that of workers, one GPU each; `2cpu` means two workers without. The output
folder lies on storage that all nodes share; Ray restarts a failed group, which then goes on from
its last checkpoint.
"""

from __future__ import annotations

import importlib
import sys

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def worker(settings: dict[str, object]) -> None:
    """Run the recipe; Ray has set rank, world size and address for torch.distributed."""
    recipe = importlib.import_module(f"usermirrorer.recipes.{settings['recipe']}")
    recipe.main(settings["arguments"])


def main(workers: str, recipe: str, arguments: list[str]) -> None:
    """Train `recipe` with so many workers."""
    number, gpu = int(workers.removesuffix("cpu")), not workers.endswith("cpu")
    TorchTrainer(
        worker,
        train_loop_config={"recipe": recipe, "arguments": arguments},
        scaling_config=ScalingConfig(num_workers=number, use_gpu=gpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

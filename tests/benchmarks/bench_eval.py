"""Scenes a second of the direct mode against lm_eval's stock multiple_choice, same run and data.

    python tests/benchmarks/bench_eval.py --pretrained MODEL --scenes scenes.parquet --limit 40

Stock scores the full text of each option as a continuation of the prompt, one forward per option;
the direct mode reads all labels' logits in one forward. With --decisions it times the decision
mode instead: shared prompts against lm_eval's own generate_until and loglikelihood. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

TASKS = Path(__file__).parents[2] / "eval_harness" / "tasks"


def stock_task(dataset: str, limit: int):
    """The same prompts as a stock multiple_choice task; choices are the options' texts."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from usermirrorer.builders.decisions.prompts import messages
    from usermirrorer.eval_harness.data import load_scenes

    scenes, _ = load_scenes("movielens", dataset)
    rows = [
        {
            "text": "\n\n".join(turn["content"] for turn in messages(scene, "direct")),
            "choices": scene["exposure"],
            "answer": scene["answer"],
        }
        for scene in scenes.select(range(min(limit, len(scenes))))
    ]
    data = Dataset.from_list(rows)
    return ConfigurableTask(
        config={
            "task": "stock_full_text",
            "custom_dataset": lambda **_: {"test": data},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "text",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        }
    )


def timed(lm, tasks, limit: int, manager) -> tuple[float, float]:
    """Run and return scenes per second and accuracy; the model is warm before."""
    from lm_eval import simple_evaluate

    start = time.perf_counter()
    result = simple_evaluate(
        model=lm, tasks=tasks, limit=limit, task_manager=manager, bootstrap_iters=0
    )
    seconds = time.perf_counter() - start
    (values,) = result["results"].values()
    return values["sample_len"] / seconds, values["acc,none"]


def _plain(dataset: str) -> dict[str, Any]:
    """Metadata of a run without ablations, which stock tasks do not have."""
    return {"dataset": dataset, "ablations": False}


def measure(lm, dataset: str, limit: int) -> dict[str, float]:
    """Return scenes per second and accuracy of both ways, each after one warm-up scene."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=TASKS, include_defaults=False, metadata=_plain(dataset))
    ours = ["usermirror-direct_movielens"]
    timed(lm, ours, 1, manager)
    direct, direct_accuracy = timed(lm, ours, limit, manager)
    stock, stock_accuracy = timed(lm, [stock_task(dataset, limit)], limit, manager)
    return {
        "direct_scenes_per_second": direct,
        "stock_scenes_per_second": stock,
        "speed_up": direct / stock,
        "direct_accuracy": direct_accuracy,
        "stock_accuracy": stock_accuracy,
    }


def measure_decisions(lm, plain, dataset: str, limit: int, tokens: int) -> dict[str, float]:
    """Return scenes per second of 5 decisions and their scores, with and without shared prompts.

    Accuracies are of different random samples; entropies may be compared.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=TASKS, include_defaults=False, metadata=_plain(dataset))
    found = {}
    for name, model in (("shared", lm), ("stock", plain)):
        start = time.perf_counter()
        result = simple_evaluate(
            model=model,
            tasks=["usermirror_movielens"],
            limit=limit,
            task_manager=manager,
            bootstrap_iters=0,
            gen_kwargs={"max_gen_toks": tokens},
            apply_chat_template=True,
        )
        seconds = time.perf_counter() - start
        found[f"{name}_scenes_per_second"] = limit / seconds
        found[f"{name}_entropy"] = result["results"]["usermirror_movielens"]["entropy,none"]
    found["speed_up"] = found["shared_scenes_per_second"] / found["stock_scenes_per_second"]
    return found


def main() -> None:
    """Measure one model on one file of scenes."""
    from lm_eval.models.huggingface import HFLM

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--scenes", required=True, help="Parquet file or repository.")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decisions", action="store_true")
    parser.add_argument("--tokens", type=int, default=64, help="Longest decision.")
    arguments = parser.parse_args()
    options = {
        "pretrained": arguments.pretrained,
        "device": arguments.device,
        "dtype": "float32",
        "batch_size": arguments.batch_size,
    }
    if not arguments.decisions:
        print(json.dumps(measure(HFLM(**options), arguments.scenes, arguments.limit)))
        return

    class Plain(HFLM):
        """Not taken for an ordinary `hf` model, so scored through the stock requests."""

        def _model_call(self, *args, **kwargs):
            return super()._model_call(*args, **kwargs)

    found = measure_decisions(
        HFLM(**options), Plain(**options), arguments.scenes, arguments.limit, arguments.tokens
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()

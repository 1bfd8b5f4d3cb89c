"""The metrics of metrics.py as a module of the `evaluate` library; loads offline, from this file.

import evaluate
from usermirrorer.eval_harness import user_simulation
metric = evaluate.load(user_simulation.__file__)
metric.compute(predictions=[[0.7, 0.2, 0.1]], references=[0])
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from usermirrorer.builders.common.choice import top_choice
from usermirrorer.eval_harness import metrics

_DESCRIPTION = "Accuracy, entropy, log-loss, Brier score and calibration of P(option) over scenes."
_INPUTS = """
Args:
    predictions: One list of option probabilities per scene.
    references: Index of the real behavior of each scene.
Returns:
    accuracy, entropy (bits), normalised_entropy, log_loss (bits), brier, calibration_error, and
    the standard error of each as <name>_stderr.
"""


class UserSimulation(evaluate.Metric):
    """Scores probabilities over the options of scenes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        pairs = [(np.asarray(p), int(a)) for p, a in zip(predictions, references, strict=True)]
        hits = [top_choice(p, a) for p, a in pairs]
        confidence = np.array([[p.max(), hit] for (p, _), hit in zip(pairs, hits, strict=True)])
        estimates = {
            "accuracy": metrics.mean(hits, unit="share"),
            "entropy": metrics.mean([metrics.entropy(p) for p, _ in pairs]),
            "normalised_entropy": metrics.mean([metrics.normalised_entropy(p) for p, _ in pairs]),
            "log_loss": metrics.mean([metrics.log_loss(p, a) for p, a in pairs]),
            "brier": metrics.mean([metrics.brier(p, a) for p, a in pairs]),
            "calibration_error": metrics.bootstrap(
                lambda rows: metrics.calibration_error(rows[:, 0], rows[:, 1]), confidence
            ),
        }
        return {name: e.value for name, e in estimates.items()} | {
            f"{name}_stderr": e.stderr for name, e in estimates.items()
        }

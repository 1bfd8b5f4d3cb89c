"""The metrics of one scene from what a model gave for it, and of all scenes from those of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import Mode, parse
from usermirrorer.eval_harness import metrics
from usermirrorer.eval_harness.data import history_gap
from usermirrorer.eval_harness.metric_table import AT_POSITION, GAPS, gap_of, lookup
from usermirrorer.eval_harness.requests import ModelOutput

Scene = Mapping[str, Any]
#: Column with one score per option -> the baseline that picks the highest.
BASELINE_COLUMNS = {
    "exposure_popularity": "acc_popular",
    "exposure_collaborative": "acc_collaborative",
    "history_similarity": "acc_nearest",
}


class SceneValue(float):
    """A metric's value of one scene, which knows whose scene it is."""

    user: str

    def __new__(cls, value: float, user: str = "") -> SceneValue:
        """Return `value` as that of a scene of `user`."""
        made = super().__new__(cls, value)
        made.user = user
        return made


def scene_metrics(
    scene: Scene, outputs: Sequence[ModelOutput], *, mode: Mode, positions: int = 0
) -> dict[str, Any]:
    """Return the metrics of one scene from its outputs, one per rotation of its options.

    With sampled decisions, accuracy is that of the generated behaviors (malformed ones are wrong);
    without, that of the most likely label. `entropy` is E over decisions of H(P(Y | X + D))
    (Table 12); `entropy_total`, log-loss, Brier and calibration are of the mean distribution
    (definition 3.1). Without log-probabilities these use the sampled frequencies, both entropies
    are estimates of that of P(Y | X), and `entropy_is_estimate` is 1.

    Args:
        scene: A row of the SCENE schema.
        outputs: Model outputs; output r belongs to the options rotated left by r.
        mode: Of the prompts.
        positions: Report accuracy at the first so many positions of the target.
    """
    k, truth = len(scene["exposure"]), int(scene["answer"])
    behaviors = _behaviors(outputs, k, mode)
    rows = _distributions(outputs)
    probabilities = np.array(rows) if rows else metrics.frequencies(behaviors, k)[None]
    expected = probabilities.mean(axis=0)
    best = top_choice(expected, truth)
    accuracy = float(np.mean([b == truth for b in behaviors])) if behaviors else best
    if rows:
        entropy = float(metrics.entropy(probabilities).mean())
        total = float(metrics.entropy(expected))
    else:
        entropy = total = metrics.sampled_entropy(behaviors, k)
    values: dict[str, Any] = {
        "acc": accuracy,
        "acc_chance": 1 / k,
        **{name: top_choice(scene.get(c), truth, k) for c, name in BASELINE_COLUMNS.items()},
        "entropy": entropy,
        "entropy_norm": entropy / math.log2(k),
        "entropy_total": total,
        "entropy_is_estimate": float(not rows),
        "log_loss": metrics.log_loss(expected, truth),
        "brier": metrics.brier(expected, truth),
        "ece": [float(expected.max()), best],
    }
    if behaviors:
        texts = [text for output in outputs for text in output["texts"]]
        values["malformed"] = float(np.mean([b is None for b in behaviors]))
        values["decision_words"] = float(np.mean([len(text.split()) for text in texts]))
    gap = gap_of(history_gap(scene))
    values |= {f"acc_gap_{name}": accuracy if name == gap else None for name in GAPS}
    for position, label in enumerate(LABELS[:positions]):
        values[f"{AT_POSITION}{label}"] = accuracy if position == truth else None
    return values


def accuracy(scene: Scene, output: ModelOutput, mode: Mode) -> float:
    """Return the accuracy of one output, as `acc` counts it."""
    return scene_metrics(scene, [output], mode=mode)["acc"]


def taste_metrics(
    values: Mapping[str, float], ablated: Mapping[str, float], has_placebo: bool
) -> dict[str, float | None]:
    """Return what a scene's score says of taste; None where the scene lacks what it takes.

    Args:
        values: The scene's own metrics.
        ablated: Accuracy under `no_history`, `swapped` and `placebo`, of those that were run.
        has_placebo: Whether the task has placebo scenes; without, chance is taken off.
    """

    def loss(name: str) -> float | None:
        return values["acc"] - ablated[name] if name in ablated else None

    taste = {f"acc_{name}": ablated.get(name) for name in ("placebo", "no_history", "swapped")}
    taste |= {f"acc_loss_{name}": loss(name) for name in ("no_history", "swapped")}
    over = loss("placebo") if has_placebo else values["acc"] - values["acc_chance"]
    return {"acc_over_placebo": over, **taste}


def reported(values: Mapping[str, Any], user: str, without: Collection[str] = ()) -> dict[str, Any]:
    """Return a scene's metrics in the form in which lm_eval carries them.

    Each stands twice, the second time for its standard error, which lm_eval cannot be told
    otherwise. Values know their user; None stays None.

    Args:
        values: Metrics of the scene.
        user: Whose scene it is.
        without: Metrics that no scene of the task has, so that there is nothing to report.
    """
    carried: dict[str, Any] = {"users": user}
    for name, value in values.items():
        if name in without:
            continue
        item = value
        if isinstance(value, list):
            item = [*value, user]
        elif value is not None:
            item = SceneValue(value, user)
        carried[name] = carried[f"{name}_stderr"] = item
    return carried


def over_scenes(items: Sequence[Any], name: str, field: str) -> float | str:
    """Return a metric over scenes, or its standard error, clustered by user.

    Args:
        items: As `reported` carries them.
        name: Of the metric.
        field: `value` or `stderr`.

    Returns:
        The number. Where no scene has the metric it is NaN in a metric that lm_eval's groups pool,
        and otherwise `N/A`, lm_eval's word for it.
    """
    if name == "users":
        return float(len(set(items)))
    present = [item for item in items if item is not None]
    if not present:
        return math.nan if lookup(name).pooled and field == "value" else "N/A"
    if name == "ece":
        return _calibration(present, field)
    users = [item.user for item in present]
    value = getattr(metrics.mean(present, users, lookup(name).unit), field)
    return "N/A" if math.isnan(value) and field == "stderr" else value


def _calibration(items: Sequence[Sequence[Any]], field: str) -> float:
    rows = np.array([item[:2] for item in items], dtype=np.float64)
    if field == "value":
        return metrics.calibration_error(rows[:, 0], rows[:, 1])
    users = [item[2] for item in items]
    return metrics.bootstrap(
        lambda x: metrics.calibration_error(x[:, 0], x[:, 1]), rows, users
    ).stderr


def _behaviors(outputs: Sequence[ModelOutput], options: int, mode: Mode) -> list[int | None]:
    """Parsed behaviors as indices of the scene's own order; None where malformed."""
    return [
        None
        if (index := parse(text, options, mode).behavior) is None
        else (index + rotation) % options
        for rotation, output in enumerate(outputs)
        for text in output["texts"]
    ]


def _distributions(outputs: Sequence[ModelOutput]) -> list[np.ndarray]:
    """Probabilities in the scene's own order, one row per decision; [] if the model gives none."""
    return [
        np.roll(row, rotation)
        for rotation, output in enumerate(outputs)
        for row in output["probabilities"] or []
    ]

"""Entropies by stage, calibration curves and calibration errors.

Table 12 and section D.4 of the paper. Confidence is the largest probability of the mean
distribution over a scene's decisions, and right is whether its option is the real behavior. Tables:

    entropy   result, model, scenes, users, entropy (bits, mean over decisions of H(P(Y | X + D))),
              spread (standard deviation over scenes), normalised (0 to 1), total (bits, of the mean
              distribution), accuracy (of the behaviors), difference (of entropy to the first
              result's on common scenes), p, p_holm
    errors    result, scenes, confidence, right, ece (with the interval of a bootstrap of users),
              ece_if_calibrated (mean over draws in which each scene is right with just its
              confidence: what the error of a model without any would come to), log_loss, brier
    curve     result, low, high (of the bin), scenes, users, confidence, right
    sources   result, source, scenes, users, entropy, ece (only where there are several sources)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import metrics, published
from usermirrorer.eval_harness.analysis.answers import Answer, Run
from usermirrorer.eval_harness.analysis.inference import (
    common_scenes,
    holm_cells,
    mean_cells,
    user_of,
)
from usermirrorer.eval_harness.analysis.result import Column, Result, Table, ends

#: Draws of right and wrong for `ece_if_calibrated`.
DRAWS = 200
Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]

_ENTROPY = (
    Column("result", "name of the results"),
    Column("model", "as its files name it"),
    Column("scenes", "scenes with probabilities", "count"),
    Column("users", "people behind them", "count"),
    Column("entropy", "mean over decisions of H(P(Y | X + D)), bits", "bits", interval=True),
    Column("spread", "standard deviation of it over scenes", "bits"),
    Column("normalised", "entropy over log2 of the options, 0 to 1", "number", interval=True),
    Column("total", "entropy of the mean distribution over the decisions", "bits", interval=True),
    Column("accuracy", "of the behaviors, malformed ones wrong", "share", interval=True),
    Column("difference", "of entropy, to the first results", "bits", interval=True),
    Column("p", "of the difference, paired by scene, flipped by user", "p"),
    Column("p_holm", "the same, corrected for the number of tests", "p"),
)
_ERRORS = (
    Column("result", "name of the results"),
    Column("scenes", "scenes with probabilities", "count"),
    Column("confidence", "largest probability of the mean distribution", "share", interval=True),
    Column("right", "how often its option is the real one", "share", interval=True),
    Column("ece", "expected calibration error, bootstrap of users", "number", interval=True),
    Column("ece_if_calibrated", "what a model without any error would show here", "number"),
    Column("log_loss", "bits", "bits", interval=True),
    Column("brier", "0 best, 2 worst", "number", interval=True),
)
_CURVE = (
    Column("result", "name of the results"),
    Column("low", "least confidence of the bin", "number"),
    Column("high", "confidence below which it ends (the last includes 1)", "number"),
    Column("scenes", "in the bin", "count"),
    Column("users", "in the bin", "count"),
    Column("confidence", "mean", "share"),
    Column("right", "how often right", "share", interval=True),
)
_SOURCES = (
    Column("result", "name of the results"),
    Column("source", "of the scenes"),
    Column("scenes", "with probabilities", "count"),
    Column("users", "people behind them", "count"),
    Column("entropy", "as above", "bits", interval=True),
    Column("ece", "as above", "number", interval=True),
)


def analyse(runs: Sequence[Run], bins: int = metrics.BINS) -> Result:
    """Compare entropies and calibration of models.

    Args:
        runs: In the order of the stages.
        bins: Equal-width bins of confidence, 2 to 100.

    Raises:
        UserError: if a run has no probabilities, or the number of bins makes no sense.
    """
    if not 2 <= bins <= 100:
        raise UserError(f"{bins} bins are not between 2 and 100", where="--bins")
    scored = [(run, _scored(run)) for run in runs]
    tables = {
        "entropy": Table(
            "Entropy by stage",
            "Entropy of the behavior given the decision, in bits.",
            _ENTROPY,
            _entropies(scored),
        ),
        "errors": Table(
            "Calibration",
            f"Expected calibration error over {bins} bins of equal width; see the column beside it "
            "for how much of it so few scenes show of a model without any error.",
            _ERRORS,
            [_errors(run, answers, bins) for run, answers in scored],
        ),
        "curve": Table(
            "Calibration curve",
            "How often the likeliest option is right, by its probability.",
            _CURVE,
            [row for run, answers in scored for row in _curve(run, answers, bins)],
        ),
    }
    if sources := [row for run, answers in scored for row in _sources(run, answers, bins)]:
        text = "The same by source."
        tables["sources"] = Table("By source", text, _SOURCES, sources)
    return Result(tables, _notes(scored), {"table12": _printed()}, {"bins": bins})


def _scored(run: Run) -> list[Answer]:
    answers = [a for a in run.answers.values() if a.probabilities is not None]
    if not answers:
        raise UserError(
            "has no probabilities of options",
            where=run.name,
            fix="Score the decisions (--judge), or a model that gives log-probabilities.",
        )
    return answers


def _entropy(answer: Answer) -> float:
    assert answer.probabilities is not None
    return float(metrics.entropy(answer.probabilities).mean())


def _mean_distribution(answer: Answer) -> Floats:
    assert answer.probabilities is not None
    return answer.probabilities.mean(axis=0)


def _entropies(scored: Sequence[tuple[Run, list[Answer]]]) -> Rows:
    rows: Rows = []
    first = {a.scene.scene_id: a for a in scored[0][1]}
    for run, answers in scored:
        users = [user_of(answer) for answer in answers]
        entropies = [_entropy(answer) for answer in answers]
        scale = [math.log2(answer.scene.options) for answer in answers]
        totals = [metrics.entropy(_mean_distribution(answer)) for answer in answers]
        row = {
            "result": run.name,
            "model": run.public_model,
            "scenes": len(answers),
            "users": len(set(users)),
            "spread": float(np.std(entropies, ddof=1)) if len(entropies) > 1 else math.nan,
            **mean_cells("entropy", entropies, users, "bits"),
            **mean_cells("normalised", np.array(entropies) / scale, users, "number"),
            **mean_cells("total", totals, users, "bits"),
            **mean_cells("accuracy", [a.right for a in answers], users),
        }
        if run is not scored[0][0]:
            row |= _against(scored[0][0], run, first)
        rows.append(row)
    holm_cells(rows)
    return rows


def _against(base: Run, run: Run, first: dict[str, Answer]) -> dict[str, Any]:
    """Return the difference of entropy on the scenes that both have probabilities of."""
    both = [
        scene_id
        for scene_id in common_scenes(base, run)
        if scene_id in first and run.answers[scene_id].probabilities is not None
    ]
    if not both:
        return {}
    gap = metrics.paired_test(
        [_entropy(first[scene_id]) for scene_id in both],
        [_entropy(run.answers[scene_id]) for scene_id in both],
        [user_of(first[scene_id]) for scene_id in both],
    )
    return {**ends("difference", gap.difference, gap.low, gap.high), "p": gap.p_value}


def _confidence(answers: Sequence[Answer]) -> tuple[Floats, Floats]:
    """Return the confidence of each scene and whether its likeliest option is right, [n]."""
    means = [_mean_distribution(answer) for answer in answers]
    hits = [top_choice(p, a.scene.answer) for p, a in zip(means, answers, strict=True)]
    return np.array([p.max() for p in means]), np.array(hits)


def _error(answers: Sequence[Answer], bins: int) -> dict[str, float]:
    users = [user_of(answer) for answer in answers]
    rows = np.stack(_confidence(answers), axis=1)
    estimate = metrics.bootstrap(
        lambda drawn: metrics.calibration_error(drawn[:, 0], drawn[:, 1], bins), rows, users
    )
    if len(set(users)) < 2:
        return ends("ece", estimate.value, math.nan, math.nan)
    return ends("ece", estimate.value, estimate.low, estimate.high)


def _errors(run: Run, answers: Sequence[Answer], bins: int) -> dict[str, Any]:
    users = [user_of(answer) for answer in answers]
    confidence, right = _confidence(answers)
    draws = np.random.default_rng(0).random((DRAWS, len(answers))) < confidence
    expected = [metrics.calibration_error(confidence, drawn, bins) for drawn in draws]
    means = [(_mean_distribution(answer), answer.scene.answer) for answer in answers]
    return {
        "result": run.name,
        "scenes": len(answers),
        **mean_cells("confidence", confidence, users),
        **mean_cells("right", right, users),
        **_error(answers, bins),
        "ece_if_calibrated": float(np.mean(expected)),
        **mean_cells("log_loss", [metrics.log_loss(*pair) for pair in means], users, "bits"),
        **mean_cells("brier", [metrics.brier(*pair) for pair in means], users, "number"),
    }


def _curve(run: Run, answers: Sequence[Answer], bins: int) -> Rows:
    confidence, right = _confidence(answers)
    number = metrics.confidence_bin(confidence, bins)
    rows: Rows = []
    for index in range(bins):
        own = np.flatnonzero(number == index).tolist()
        if not own:
            continue
        users = [user_of(answers[i]) for i in own]
        rows.append(
            {
                "result": run.name,
                "low": index / bins,
                "high": (index + 1) / bins,
                "scenes": len(own),
                "users": len(set(users)),
                "confidence": float(confidence[own].mean()),
                **mean_cells("right", right[own], users),
            }
        )
    return rows


def _sources(run: Run, answers: Sequence[Answer], bins: int) -> Rows:
    names = sorted({answer.scene.source for answer in answers})
    rows: Rows = []
    for name in names if len(names) > 1 else ():
        own = [answer for answer in answers if answer.scene.source == name]
        users = [user_of(answer) for answer in own]
        row = {"result": run.name, "source": name, "scenes": len(own), "users": len(set(users))}
        entropies = mean_cells("entropy", [_entropy(answer) for answer in own], users, "bits")
        rows.append({**row, **entropies, **_error(own, bins)})
    return rows


def _notes(scored: Sequence[tuple[Run, list[Answer]]]) -> list[str]:
    notes = []
    for run, answers in scored:
        if lacking := len(run.answers) - len(answers):
            notes.append(f"{run.name}: {lacking} scenes without probabilities are left out.")
        if run.kind == "decisions":
            notes.append(
                f"{run.name}: probabilities are those of the model that judged the decision file, "
                "of well-formed decisions only."
            )
    return notes


def _printed() -> Table:
    columns = (Column("model", "as printed"), Column("entropy", "as printed", "bits"))
    rows = [{"model": name, "entropy": value} for name, value in published.TABLE_12.items()]
    text = "As printed in the paper, mean on its test set; nothing of it was run here."
    return Table("Table 12 of the paper", text, columns, rows)

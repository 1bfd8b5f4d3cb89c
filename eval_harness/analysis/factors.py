"""Factors and styles of decisions: how often each is named, and whether it goes with being right.

Figures 6 and 7 and section D.2 of the paper. What is read of a decision are its lines `Stimulus
Factors`, `Knowledge Factors` and `Evaluation Style`; `labels.py` says how terms become names.
Malformed decisions are left out and counted. Tables:

    frequencies  (Figure 7) stage (`stimulus`, `knowledge`, or `evaluation`: the style), factor,
                 mentions, share (of the stage's mentions; adds up to 1), named (share of the
                 decisions that name it), users
    accuracy     (Figure 6a) stage, factor, decisions, users, accuracy (of the decisions that name
                 it), without (of those that do not), difference (within sources), p, p_holm
    amount       (Figure 6b) quantity, mean, deviation, slope (of accuracy, for one deviation more,
                 within sources), p, p_holm; quantities are `stimulus_words`, `knowledge_words`,
                 `evaluation_words`, `decision_words`, `stimulus_factors`, `knowledge_factors`
    bins         quantity, low, high, decisions, users, accuracy: a fifth of the decisions each
    terms        stage, term, mentions, factor, rule (`name`, `synonym`, `embedding`, `none`),
                 nearest, similarity

All begin with `result`, the name of the RESULTS. `p_holm` is corrected for all tests of one result.
A factor is tested if at least `LEAST` users name it in some decision and as many leave it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.intervals import variance_of_mean
from usermirrorer.builders.decisions.prompts import parse
from usermirrorer.eval_harness import metrics, published
from usermirrorer.eval_harness.analysis.answers import Run
from usermirrorer.eval_harness.analysis.inference import (
    Association,
    association,
    holm_cells,
    mean_cells,
    user_of,
)
from usermirrorer.eval_harness.analysis.labels import OTHERS, Kind, Merged, Merging, normal
from usermirrorer.eval_harness.analysis.result import Column, Result, Table, ends

#: Users on either side, at least, for a factor to be tested.
LEAST = 5
#: Parts of equal size into which a quantity is cut.
PARTS = 5
#: Stage -> line of a decision that names its factors, and the part of the synonym table.
STAGES: dict[str, tuple[str, Kind]] = {
    "stimulus": ("Stimulus Factors", "factors"),
    "knowledge": ("Knowledge Factors", "factors"),
    "evaluation": ("Evaluation Style", "styles"),
}
Row = dict[str, Any]

_RESULT = Column("result", "name of the results")
_STAGE = Column("stage", "of the decision; evaluation: its style")
_FREQUENCIES = (
    _RESULT,
    _STAGE,
    Column("factor", "merged name"),
    Column("mentions", "decisions that name it", "count"),
    Column("share", "of all mentions in the stage", "share", interval=True),
    Column("named", "share of decisions that name it", "share", interval=True),
    Column("users", "people in whose decisions it stands", "count"),
)
_ACCURACY = (
    _RESULT,
    _STAGE,
    Column("factor", "merged name"),
    Column("decisions", "that name it", "count"),
    Column("users", "people in whose decisions it stands", "count"),
    Column("accuracy", "of decisions that name it", "share", interval=True),
    Column("without", "of decisions that do not", "share", interval=True),
    Column("difference", "within sources and numbers of options", "points", interval=True),
    Column("p", "sign flips of users", "p"),
    Column("p_holm", "corrected for all tests of the result", "p"),
)
_AMOUNT = (
    _RESULT,
    Column("quantity", "of a decision"),
    Column("mean", "over decisions", "number", interval=True),
    Column("deviation", "standard deviation over decisions", "number"),
    Column("slope", "of accuracy, for one deviation more", "points", interval=True),
    Column("p", "sign flips of users", "p"),
    Column("p_holm", "corrected for all tests of the result", "p"),
)
_BINS = (
    _RESULT,
    Column("quantity", "of a decision"),
    Column("low", "least", "number"),
    Column("high", "most", "number"),
    Column("decisions", "in this part", "count"),
    Column("users", "in this part", "count"),
    Column("accuracy", "of these decisions", "share", interval=True),
)
_TERMS = (
    _RESULT,
    _STAGE,
    Column("term", "as written, without signs"),
    Column("mentions", "decisions that have it", "count"),
    Column("factor", "what it counts as"),
    Column("rule", "name, synonym, embedding or none"),
    Column("nearest", "name with the nearest words, where an encoder was asked"),
    Column("similarity", "their cosine", "number"),
)


@dataclass(frozen=True)
class _Decision:
    """A well-formed decision: its terms by stage, sizes by quantity, and whether it was right."""

    user: str
    group: str  # source and number of options
    right: float
    terms: Mapping[str, Sequence[str]]
    sizes: Mapping[str, float]


def analyse(runs: Sequence[Run], merging: Merging) -> Result:
    """Count factors and styles, and test whether they go with being right.

    Args:
        runs: Of models that write decisions.
        merging: How terms become names.

    Raises:
        UserError: if a run has no well-formed decision.
    """
    rows: dict[str, list[Row]] = {
        name: [] for name in ("frequencies", "accuracy", "amount", "bins", "terms")
    }
    notes = []
    for run in runs:
        decisions = _decisions(run, merging)
        if left_out := run.facts["decisions"] - len(decisions):
            told = f"{left_out} of {run.facts['decisions']} decisions are malformed and left out"
            notes.append(f"{run.name}: {told}.")
        merged = _merged(decisions, merging)
        named = {stage: _named(decisions, stage, merged[stage]) for stage in STAGES}
        accuracy = _accuracies(decisions, named)
        amount, bins = _amounts(decisions)
        holm_cells([*accuracy, *amount])
        made = {
            "frequencies": _frequencies(decisions, named),
            "accuracy": accuracy,
            "amount": amount,
            "bins": bins,
            "terms": _term_rows(decisions, merged),
        }
        for name, own in made.items():
            rows[name] += [{"result": run.name, **row} for row in own]
    tables = {
        "frequencies": Table(
            "How often each factor is named", _FREQUENCY_TEXT, _FREQUENCIES, rows["frequencies"]
        ),
        "accuracy": Table("Accuracy by factor", _ACCURACY_TEXT, _ACCURACY, rows["accuracy"]),
        "amount": Table("Accuracy by length and number", _AMOUNT_TEXT, _AMOUNT, rows["amount"]),
        "bins": Table("Accuracy by fifths", "A fifth of the decisions each.", _BINS, rows["bins"]),
        "terms": Table("What counts as what", "Terms by mentions.", _TERMS, rows["terms"]),
    }
    return Result(tables, notes, {"figure7": _printed()}, merging.settings)


_FREQUENCY_TEXT = "Share of all mentions in a stage, and of the decisions that name a factor."
_ACCURACY_TEXT = (
    "Which factors and styles go with being right. The difference is within sources and numbers of "
    "options; a decision that names a factor may differ in more than that from one that does not."
)
_AMOUNT_TEXT = "What longer decisions and more factors go with: change of accuracy per deviation."


def _decisions(run: Run, merging: Merging) -> list[_Decision]:
    decisions = []
    for answer in run.answers.values():
        scene = answer.scene
        for text, behavior in zip(answer.texts, answer.behaviors, strict=True):
            if behavior is None:
                continue
            said = parse(text, scene.options).fields
            terms = {
                stage: merging.terms(said[line])
                for stage, (line, _) in STAGES.items()
                if said.get(line)
            }
            if len(terms) < len(STAGES):
                continue
            decisions.append(
                _Decision(
                    user_of(answer),
                    f"{scene.source}/{scene.options}",
                    float(behavior == scene.answer),
                    terms,
                    _sizes(said, terms),
                )
            )
    if not decisions:
        raise UserError(
            "has no well-formed decision",
            where=run.name,
            fix="Factors stand in decisions: give a run of the decision tasks.",
        )
    return decisions


def _sizes(said: Mapping[str, str], terms: Mapping[str, Sequence[str]]) -> dict[str, float]:
    words = {
        f"{line.lower()}_words": float(len(said.get(line, "").split()))
        for line in ("Stimulus", "Knowledge", "Evaluation")
    }
    counts = {f"{s}_factors": float(len(terms[s])) for s in ("stimulus", "knowledge")}
    whole = float(sum(len(text.split()) for text in said.values()))
    return {**words, "decision_words": whole, **counts}


def _merged(decisions: Sequence[_Decision], merging: Merging) -> dict[str, dict[str, Merged]]:
    """Return stage -> normal form of a term -> what it counts as."""
    return {
        stage: merging.merge((t for d in decisions for t in d.terms[stage]), kind)
        for stage, (_, kind) in STAGES.items()
    }


def _named(
    decisions: Sequence[_Decision], stage: str, merged: Mapping[str, Merged]
) -> list[set[str]]:
    """Return the factors that each decision names in a stage; a style is the first that is told.

    A line of signs alone names `Others`.
    """
    named = [[merged[normal(term)].name for term in d.terms[stage]] for d in decisions]
    most = 1 if stage == "evaluation" else None
    return [set((row or [OTHERS])[:most]) for row in named]


def _has(named: Sequence[set[str]], factor: str) -> NDArray[np.float64]:
    return np.array([factor in row for row in named], dtype=np.float64)


def _by_count(named: Sequence[set[str]]) -> list[str]:
    """Return the factors by falling count, `Others` last."""
    counts = Counter(factor for row in named for factor in row)
    return sorted(counts, key=lambda f: (f == OTHERS, -counts[f], f))


def _frequencies(
    decisions: Sequence[_Decision], named: Mapping[str, Sequence[set[str]]]
) -> list[Row]:
    users = [d.user for d in decisions]
    rows = []
    for stage, own in named.items():
        sizes = np.array([len(row) for row in own], dtype=np.float64)
        for factor in _by_count(own):
            has = _has(own, factor)
            rows.append(
                {
                    "stage": stage,
                    "factor": factor,
                    "mentions": int(has.sum()),
                    **_ratio("share", has, sizes, users),
                    **mean_cells("named", has, users),
                    "users": len({u for u, h in zip(users, has, strict=True) if h}),
                }
            )
    return rows


def _ratio(
    name: str, part: NDArray[np.float64], whole: NDArray[np.float64], users: Sequence[str]
) -> dict[str, float]:
    """Return the cells of a ratio of two sums, its variance by linearisation."""
    value = float(part.sum() / whole.sum())
    clusters = len(set(users))
    if clusters < 2:
        return ends(name, value, np.nan, np.nan)
    residuals = (part - value * whole) / whole.mean()
    error = float(np.sqrt(variance_of_mean(residuals, np.asarray(users))))
    if error < 1e-9:  # every user alike, which does not say that all others are
        return mean_cells(name, np.full(len(part), value), users)
    return ends(name, value, *metrics.interval(value, error, clusters, "share"))


def _accuracies(
    decisions: Sequence[_Decision], named: Mapping[str, Sequence[set[str]]]
) -> list[Row]:
    rows = []
    users = np.array([d.user for d in decisions])
    right = np.array([d.right for d in decisions])
    for stage, own in named.items():
        for factor in _by_count(own):
            has = _has(own, factor)
            on, off = has > 0, has == 0
            row: Row = {
                "stage": stage,
                "factor": factor,
                "decisions": int(on.sum()),
                "users": len(set(users[on])),
                **mean_cells("accuracy", right[on], users[on].tolist()),
                **mean_cells("without", right[off], users[off].tolist()),
            }
            enough = min(len(set(users[on])), len(set(users[off]))) >= LEAST
            if enough and factor != OTHERS:
                row |= _tested("difference", _association(decisions, has))
            rows.append(row)
    return rows


def _association(decisions: Sequence[_Decision], x: NDArray[np.float64]) -> Association | None:
    groups, users = [d.group for d in decisions], [d.user for d in decisions]
    return association(x, [d.right for d in decisions], groups, users)


def _tested(name: str, told: Association | None) -> Row:
    if told is None:
        return {}
    low, high = max(told.low, -1.0), min(told.high, 1.0)
    return {**ends(name, told.slope, low, high), "p": told.p_value}


def _amounts(decisions: Sequence[_Decision]) -> tuple[list[Row], list[Row]]:
    amount, bins = [], []
    users = [d.user for d in decisions]
    enough = len(set(users)) >= LEAST
    for quantity in decisions[0].sizes:
        x = np.array([d.sizes[quantity] for d in decisions])
        deviation = float(x.std())
        row: Row = {
            "quantity": quantity,
            **mean_cells("mean", x, users, "number"),
            "deviation": deviation,
        }
        if deviation > 0 and enough:
            row |= _tested("slope", _association(decisions, x / deviation))
        amount.append(row)
        bins += _fifths(decisions, quantity, x)
    return amount, bins


def _fifths(decisions: Sequence[_Decision], quantity: str, x: NDArray[np.float64]) -> list[Row]:
    """Return the accuracy in parts of about equal size; equal values stay in one part."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, PARTS + 1)[1:-1]))
    number = np.searchsorted(edges, x, side="left")
    rows = []
    for part in np.unique(number):
        own = np.flatnonzero(number == part).tolist()
        users = [decisions[i].user for i in own]
        rows.append(
            {
                "quantity": quantity,
                "low": float(x[own].min()),
                "high": float(x[own].max()),
                "decisions": len(own),
                "users": len(set(users)),
                **mean_cells("accuracy", [decisions[i].right for i in own], users),
            }
        )
    return rows


def _term_rows(
    decisions: Sequence[_Decision], merged: Mapping[str, Mapping[str, Merged]]
) -> list[Row]:
    rows = []
    for stage in STAGES:
        counts = Counter(normal(term) for d in decisions for term in d.terms[stage])
        for term, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            rows.append(
                {
                    "stage": stage,
                    "term": term,
                    "mentions": count,
                    "factor": merged[stage][term].name,
                    "rule": merged[stage][term].rule,
                    "nearest": merged[stage][term].nearest,
                    "similarity": merged[stage][term].similarity,
                }
            )
    return rows


def _printed() -> Table:
    columns = (_STAGE, Column("factor", "as printed"), Column("share", "of mentions", "share"))
    rows = [
        {"stage": stage, "factor": factor, "share": value / 100}
        for stage, shares in published.FIGURE_7.items()
        for factor, value in shares.items()
    ]
    text = "As section D.2 of the paper says it; nothing of it was run here."
    return Table("Figure 7 of the paper", text, columns, rows)

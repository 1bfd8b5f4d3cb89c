"""Every metric of the tasks, once: tasks, groups, results, leaderboard, cards and README read this.

`unit` says how a metric is shown and how its interval is formed (`metrics.interval`):

    share        0 to 1, shown in percent
    difference   of two shares, -1 to 1, shown in points
    bits, number as they are
    exact        known without error: no interval
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["share", "difference", "bits", "number", "exact"]
Group = Literal[
    "headline", "taste", "baseline", "gap", "confidence", "calibration", "form", "position"
]
AT_POSITION = "acc_at_"
#: Gap between the last line of the history and the scene -> its seconds, from and below.
GAPS: dict[str, tuple[float, float]] = {
    "minute": (-float("inf"), 60),
    "hour": (60, 3_600),
    "day": (3_600, 86_400),
    "more": (86_400, float("inf")),
}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: In lm_eval's results.
        title: In tables; of a baseline, what it is called.
        group: Where it stands.
        unit: See the module.
        higher_is_better: None where neither is better.
        text: What it means, for the README.
        pooled: Whether lm_eval's groups form a mean of it.
        sampled: Whether it needs sampled decisions.
    """

    name: str
    title: str
    group: Group
    unit: Unit
    higher_is_better: bool | None
    text: str
    pooled: bool = True
    sampled: bool = False


_BEFORE = {"minute": "less than a minute", "hour": "1 to 60 minutes", "day": "1 to 24 hours"}
_BEFORE["more"] = "a day or more"

_ALL = (
    Metric(
        "acc_over_placebo",
        "Accuracy minus placebo",
        "headline",
        "difference",
        True,
        "`acc` minus `acc_placebo` of the same scene; where there is no placebo, `acc` minus "
        "`acc_chance` (the results say which: `reference`)",
    ),
    Metric(
        "acc",
        "Accuracy",
        "headline",
        "share",
        True,
        "share of the samples with the right behavior; malformed ones are wrong. Direct: the "
        "likeliest label is right",
    ),
    Metric(
        "acc_placebo",
        "Accuracy on the placebo",
        "taste",
        "share",
        None,
        "the same with a target that another user took, and an exposure drawn for it: what can be "
        "found without taste",
    ),
    Metric(
        "acc_loss_no_history",
        "Loss without history",
        "taste",
        "difference",
        True,
        "`acc` minus `acc_no_history`, scene by scene",
    ),
    Metric(
        "acc_loss_swapped",
        "Loss with another's history",
        "taste",
        "difference",
        True,
        "`acc` minus `acc_swapped`, scene by scene",
    ),
    Metric(
        "acc_no_history",
        "Accuracy without history",
        "taste",
        "share",
        None,
        "the history removed; of scenes that have one",
    ),
    Metric(
        "acc_swapped",
        "Accuracy with another's history",
        "taste",
        "share",
        None,
        "the history replaced by that of another user's scene of the same source; profile kept",
    ),
    Metric("acc_chance", "chance", "baseline", "exact", None, "a guess"),
    Metric(
        "acc_no_history_learned",
        "learned, no history",
        "baseline",
        "share",
        None,
        "a ranker trained on train users' scenes without their history, from the release's audit; "
        "only where the scenes are read with their manifest",
        pooled=False,
    ),
    Metric(
        "acc_collaborative",
        "collaborative",
        "baseline",
        "share",
        None,
        "the option that a collaborative filter scores highest for the history",
    ),
    Metric("acc_popular", "most popular", "baseline", "share", None, "the most popular option"),
    Metric(
        "acc_nearest",
        "nearest to history",
        "baseline",
        "share",
        None,
        "the option whose text is nearest to the history; not in the tables of headlines",
    ),
    *(
        Metric(
            f"acc_gap_{name}",
            f"Accuracy, {_BEFORE[name]} after the history",
            "gap",
            "share",
            True,
            f"`acc` where the last line of the history lies {_BEFORE[name]} before the scene",
            pooled=False,
        )
        for name in GAPS
    ),
    Metric(
        "entropy",
        "Entropy given the decision (bits)",
        "confidence",
        "bits",
        False,
        "bits; mean over decisions of H(P(Y \\| X + D)), as Table 12. Direct: H(P(Y \\| X))",
    ),
    Metric(
        "entropy_norm",
        "Entropy, normalised to 0-1",
        "confidence",
        "number",
        False,
        "`entropy` divided by log2 of the number of options",
    ),
    Metric(
        "entropy_total",
        "Total entropy (bits)",
        "confidence",
        "bits",
        False,
        "bits; H of the mean distribution over the decisions (equation 2, left side)",
    ),
    Metric(
        "entropy_is_estimate",
        "Entropies are estimates",
        "confidence",
        "exact",
        None,
        "1 where the model gives no log-probabilities: see below",
        pooled=False,
    ),
    Metric(
        "log_loss",
        "Log-loss (bits)",
        "calibration",
        "bits",
        False,
        "bits; of the mean distribution over the decisions",
    ),
    Metric(
        "brier", "Brier score (0-2)", "calibration", "number", False, "of the same, 0 best, 2 worst"
    ),
    Metric(
        "ece",
        "Expected calibration error",
        "calibration",
        "number",
        False,
        "of the same, over 10 bins of confidence",
        pooled=False,
    ),
    Metric(
        "malformed",
        "Malformed generations",
        "form",
        "share",
        False,
        "share of the samples that do not parse",
        sampled=True,
    ),
    Metric(
        "decision_words",
        "Words per generation",
        "form",
        "number",
        None,
        "words per generation",
        sampled=True,
    ),
    Metric(
        "users",
        "Users",
        "form",
        "exact",
        None,
        "number of users whose scenes were scored: what the intervals rest on",
        pooled=False,
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
#: Metrics that are the accuracy of a baseline on the same scenes -> its name in tables. The first
#: four stand in every table of headlines.
BASELINES = {m.name: m.title for m in _ALL if m.group == "baseline" and m.name != "acc_nearest"}


def lookup(name: str) -> Metric:
    """Return a metric by name; names that are not ours are plain numbers."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith(AT_POSITION):
        label = name.removeprefix(AT_POSITION)
        title = f"Accuracy, real behavior at {label}"
        return Metric(name, title, "position", "share", True, "", pooled=False)
    return Metric(name, name, "form", "number", None, "", pooled=False)


def of_group(*groups: Group) -> tuple[str, ...]:
    """Return the names of the metrics of these groups, in table order."""
    return tuple(metric.name for metric in _ALL if metric.group in groups)


def gap_of(seconds: float | None) -> str:
    """Return the name in `GAPS` of a gap in seconds; "" if it is not known."""
    if seconds is None or math.isnan(seconds):
        return ""
    return next(name for name, (low, high) in GAPS.items() if low <= seconds < high)


def gap_counts(seconds: Iterable[float | None]) -> dict[str, int]:
    """Return how many gaps are of which name in `GAPS`, or `unknown`, of those there are."""
    counts = Counter(gap_of(gap) or "unknown" for gap in seconds)
    return {name: counts[name] for name in (*GAPS, "unknown") if counts[name]}


def tell_gaps(counts: Mapping[str, int]) -> str:
    """Say in words how long after the history scenes lie: `74 % less than a minute, ...`."""
    whole = sum(counts.values()) or 1
    words = {**_BEFORE, "unknown": "without history"}
    return ", ".join(f"{100 * n / whole:.0f} % {words[name]}" for name, n in counts.items())

"""Probabilities that mean what they say: a temperature, and sets that hold the real choice.

Three groups of users who trained nothing: on the first the temperature is fitted, on the second the
sets, on the third both are reported. The sets are split conformal (Vovk et al., 2005): an option is
likely where 1 - P is at most a quantile of what it was for real choices. Scenes of one user are
not exchangeable, users are: every user weighs the same, and one more user, of whom nothing is
known, the same again (Lee, Barber and Willett, "Distribution-free inference with hierarchical
data", 2023). So a new user's scene is covered with the stated probability, however few users there
are and whatever the model's faults.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import read_json
from usermirrorer.builders.decisions.uncertainty import entropy, softmax
from usermirrorer.recipes.simulator.choices import Choice

NAME = "calibration.json"
#: Coverages that sets are kept for.
LEVELS = tuple(round(0.5 + 0.01 * n, 2) for n in range(50))
GROUPS = ("temperature", "sets", "report")
_FEWEST_USERS = 5  # per group
_SCHEMA = 1
_COLDEST, _HOTTEST = 0.02, 50.0
_LEAST = 1e-300


@dataclass(frozen=True)
class Calibration:
    """What `usermirrorer calibrate` keeps beside a model.

    Args:
        temperature: Probabilities become P^(1/temperature), made to add up to 1.
        thresholds: Coverage -> the least calibrated probability of a likely option; 0 where there
            are too few users for that coverage, so that all options are likely.
        mode: How the model was asked.
        samples: Decision processes per question.
        guided: Whether their headings were forced.
        report: What it was before and after, see `fit`.
    """

    temperature: float
    thresholds: Mapping[str, float]
    mode: str
    samples: int
    guided: bool
    report: Mapping[str, Any]

    def check(self, mode: str, samples: int, guided: bool, coverage: float | None) -> None:
        """Refuse to apply it to what was asked otherwise.

        Raises:
            UserError: naming what differs, or if there are no sets of that coverage.
        """
        fitted = {"mode": self.mode, "samples": self.samples, "guided": self.guided}
        asked = {"mode": mode, "samples": samples, "guided": guided}
        if mode == "direct":
            fitted, asked = ({"mode": one["mode"]} for one in (fitted, asked))
        wrong = [f"{name} {fitted[name]}, not {asked[name]}" for name in asked
                 if fitted[name] != asked[name]]  # fmt: skip
        if wrong:
            raise UserError(f"the calibration is of {', '.join(wrong)}", fix="Calibrate for it.")
        if coverage is not None and _key(coverage) not in self.thresholds:
            raise UserError(f"there are no sets of coverage {coverage}", fix="Give 0.5 to 0.99.")

    def applied(self, choice: Choice, coverage: float | None = None) -> Choice:
        """Return a choice with calibrated probabilities, and its likely options where asked for."""
        p = scaled(np.asarray(choice.probabilities), self.temperature)
        likely = None
        if coverage is not None:
            members = likely_options(p, self.thresholds[_key(coverage)])
            likely = tuple(int(k) for k in members)
        return replace(
            choice,
            probabilities=tuple(p.tolist()),
            entropy=float(entropy(p)),
            temperature=self.temperature,
            likely=likely,
            coverage=coverage,
        )

    @property
    def says_nothing(self) -> bool:
        """Whether equal shares would do as well: no temperature was hot enough."""
        return self.temperature > 0.99 * _HOTTEST

    def row(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return {"schema": _SCHEMA, **asdict(self)}


def beside(place: str, wanted: bool | Path | str) -> Calibration:
    """Return the calibration beside a model, or in a file.

    Args:
        place: The model's folder or GGUF file.
        wanted: True, or the file.

    Raises:
        UserError: if there is none, or it is none.
    """
    folder = Path(place).parent if Path(place).is_file() else Path(place)
    path = folder / NAME if isinstance(wanted, bool) else Path(wanted)
    if not path.is_file():
        raise UserError(
            "has no calibration", where=path, fix="Run usermirrorer calibrate --model M SCENES."
        )
    stored = read_json(path)
    try:
        if stored.pop("schema") != _SCHEMA:
            raise ValueError("of another version")
        made = Calibration(**stored)
        numbers = [made.temperature, *made.thresholds.values()]
        if not all(0 <= float(n) < math.inf for n in numbers) or not made.temperature:
            raise ValueError("numbers out of bounds")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"is no calibration ({error})", where=path) from None
    return made


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities [k] at another temperature."""
    return softmax(np.log(np.maximum(probabilities, _LEAST)) / temperature)


def likely_options(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the options that are as probable as `threshold`, likeliest first, one at least."""
    order = np.argsort(-probabilities, kind="stable")
    return order[: max(1, int((probabilities >= threshold).sum()))]


def group_of(user: str) -> str:
    """Return which of `GROUPS` a user is in: the same in every run."""
    digest = hashlib.sha256(f"calibration:{user}".encode()).digest()
    return GROUPS[int.from_bytes(digest[:8], "big") % len(GROUPS)]


def fit(
    probabilities: Sequence[np.ndarray],
    answers: Sequence[int],
    users: Sequence[str],
    *,
    mode: str,
    samples: int,
    guided: bool,
    level: float = 0.9,
) -> Calibration:
    """Fit a temperature and sets, and report both on other users.

    Args:
        probabilities: P(Y | X) of each scene, [k].
        answers: What was really chosen.
        users: Whose scene it is.
        mode: How the model was asked.
        samples: Decision processes per question.
        guided: Whether their headings were forced.
        level: Coverage that the report is about.

    Raises:
        UserError: if there are too few users.
    """
    rows = grouped(users)
    counts = {name: len({users[i] for i in of}) for name, of in rows.items()}
    first = rows["temperature"]
    heat = fit_temperature([probabilities[i] for i in first], [answers[i] for i in first])
    warm = [scaled(p, heat) for p in probabilities]
    second = rows["sets"]
    real = np.array([warm[i][answers[i]] for i in second])
    own = [users[i] for i in second]
    thresholds = {_key(level): fit_threshold(real, own, level) for level in LEVELS}
    third = rows["report"]
    shown = ([answers[i] for i in third], [users[i] for i in third])
    report = {
        "users": counts,
        "scenes": {name: len(of) for name, of in rows.items()},
        "level": level,
        "before": _report([probabilities[i] for i in third], *shown, level, None),
        "after": _report([warm[i] for i in third], *shown, level, thresholds[_key(level)]),
    }
    return Calibration(heat, thresholds, mode, samples, guided, report)


def grouped(users: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the scenes of each of `GROUPS`.

    Args:
        users: Whose scene each is.

    Raises:
        UserError: if a group has too few users.
    """
    groups = np.array([group_of(user) for user in users])
    rows = {name: np.flatnonzero(groups == name).tolist() for name in GROUPS}
    if min(len({users[i] for i in of}) for of in rows.values()) < _FEWEST_USERS:
        raise UserError(
            f"{len(set(users))} users are too few: a third each fits the temperature, fits "
            "the sets and checks both",
            fix=f"Give scenes of {6 * _FEWEST_USERS} users or more.",
        )
    return rows


def fit_temperature(probabilities: Sequence[np.ndarray], answers: Sequence[int]) -> float:
    """Return the temperature of least log-loss."""
    from scipy.optimize import minimize_scalar

    logs = [np.log(np.maximum(p, _LEAST)) for p in probabilities]

    def loss(log_temperature: float) -> float:
        heat = math.exp(log_temperature)
        chosen = (softmax(x / heat)[y] for x, y in zip(logs, answers, strict=True))
        return -float(np.mean([math.log(max(p, _LEAST)) for p in chosen]))

    bounds = (math.log(_COLDEST), math.log(_HOTTEST))
    return float(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def fit_threshold(real: np.ndarray, users: Sequence[str], level: float) -> float:
    """Return the least probability of a likely option; 0 where no other covers so much.

    Args:
        real: Probability of what was really chosen, [scenes].
        users: Whose scene each is.
        level: Coverage.
    """
    names, number, scenes = np.unique(users, return_inverse=True, return_counts=True)
    weights = 1 / (scenes[number] * (len(names) + 1))  # what is missing to 1 is the new user's
    order = np.argsort(-real, kind="stable")
    reached = np.cumsum(weights[order]) >= level - 1e-12
    return float(real[order][reached.argmax()]) if reached.any() else 0.0


def _key(level: float) -> str:
    return f"{level:.2f}" if math.isclose(level, round(level, 2), abs_tol=1e-9) else f"{level}"


def _report(
    probabilities: Sequence[np.ndarray],
    answers: Sequence[int],
    users: Sequence[str],
    level: float,
    threshold: float | None,
) -> dict[str, Any]:
    """Return what probabilities are worth; sets without a threshold are those they add up to."""
    from usermirrorer.eval_harness import metrics

    sets = [
        _adding_up(p, level) if threshold is None else likely_options(p, threshold)
        for p in probabilities
    ]
    hits = [float(y in chosen) for y, chosen in zip(answers, sets, strict=True)]
    covered = metrics.mean(hits, list(users), "share")
    right = [top_choice(p, y) for p, y in zip(probabilities, answers, strict=True)]
    return {
        "ece": metrics.calibration_error([float(p.max()) for p in probabilities], right),
        "log_loss_bits": float(
            np.mean([metrics.log_loss(p, y) for p, y in zip(probabilities, answers, strict=True)])
        ),
        "accuracy": float(np.mean(right)),
        "coverage": covered.value,
        "coverage_stderr": covered.stderr,
        "options_per_set": float(np.mean([len(chosen) for chosen in sets])),
    }


def _adding_up(probabilities: np.ndarray, level: float) -> np.ndarray:
    """Return the likeliest options whose probabilities add up to `level`."""
    order = np.argsort(-probabilities, kind="stable")
    reached = np.cumsum(probabilities[order]) >= level - 1e-12
    return order[: int(reached.argmax()) + 1 if reached.any() else len(order)]

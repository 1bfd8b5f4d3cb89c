"""What a simulator gives back: a choice with its probabilities and decision processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.uncertainty import entropy


@dataclass(frozen=True)
class Decision:
    """One sampled decision process and what follows from it.

    Args:
        text: The generation as it came.
        thought: What it says before its Behavior line.
        behavior: The option that it names itself; None where it is malformed.
        malformed: Why; "" for a well-formed one.
        probabilities: P(Y | X + D), one per option.
        entropy: Of them, in bits.
        tokens_in: Of the prompt.
        tokens_out: Of the generation.
    """

    text: str
    thought: str
    behavior: int | None
    malformed: str
    probabilities: tuple[float, ...]
    entropy: float
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Choice:
    """What a simulated person does with the options before them.

    Args:
        scene_id: Of the question.
        exposure: The options as they were shown.
        behavior: Index of the likeliest option.
        probabilities: P(Y | X), one per option: the mean over the decision processes.
        entropy: Of `probabilities`, in bits: the total uncertainty of equation 2.
        thought: A decision process that leads to `behavior`, if any does; "" without one.
        decisions: All decision processes that were sampled; () when asked directly.
        temperature: What `probabilities` were calibrated by; None where they are the model's own.
        likely: Options among which the real one lies with probability `coverage`, likeliest first;
            None where that was not asked for.
        coverage: Of `likely`, at least.
    """

    scene_id: str
    exposure: tuple[str, ...]
    behavior: int
    probabilities: tuple[float, ...]
    entropy: float
    thought: str = ""
    decisions: tuple[Decision, ...] = ()
    temperature: float | None = None
    likely: tuple[int, ...] | None = None
    coverage: float | None = None

    @property
    def label(self) -> str:
        """The letter under which the chosen option was shown."""
        return LABELS[self.behavior]

    @property
    def text(self) -> str:
        """The chosen option."""
        return self.exposure[self.behavior]

    @property
    def epistemic(self) -> float:
        """E over decision processes of H(P(Y | X + D)), bits (equation 2), before calibration."""
        if not self.decisions:
            return self.entropy
        return float(np.mean([decision.entropy for decision in self.decisions]))

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of an option drawn by its probability."""
        return int(rng.choice(len(self.probabilities), p=normalised(self.probabilities)))

    def row(self, *, decisions: bool = True) -> dict[str, Any]:
        """Return it as JSON can hold it.

        Args:
            decisions: With each decision process, not only with `thought`.
        """
        row: dict[str, Any] = {
            "scene_id": self.scene_id,
            "behavior": self.behavior,
            "label": self.label,
            "text": self.text,
            "probabilities": list(self.probabilities),
            "entropy": self.entropy,
            "thought": self.thought,
        }
        if self.temperature is not None:
            row["temperature"] = self.temperature
        if self.likely is not None:
            row |= {"likely": list(self.likely), "coverage": self.coverage}
        if decisions:
            row["decisions"] = [
                {
                    "thought": one.thought,
                    "behavior": one.behavior,
                    "malformed": one.malformed,
                    "probabilities": list(one.probabilities),
                    "entropy": one.entropy,
                    "tokens_in": one.tokens_in,
                    "tokens_out": one.tokens_out,
                }
                for one in self.decisions
            ]
        return row


def normalised(probabilities: tuple[float, ...]) -> np.ndarray:
    """Return probabilities that add up to 1 to the last digit."""
    p = np.asarray(probabilities, np.float64)
    return p / p.sum()


def choice_of(
    scene_id: str,
    exposure: tuple[str, ...],
    probabilities: np.ndarray,
    decisions: tuple[Decision, ...] = (),
) -> Choice:
    """Return the choice that follows from P(Y | X).

    Args:
        scene_id: Of the question.
        exposure: Its options.
        probabilities: [k].
        decisions: What they are the mean of.
    """
    behavior = int(probabilities.argmax())
    leading = [d for d in decisions if int(np.argmax(d.probabilities)) == behavior and d.thought]
    told = next(iter(leading or decisions), None)
    return Choice(
        scene_id=scene_id,
        exposure=exposure,
        behavior=behavior,
        probabilities=tuple(probabilities.tolist()),
        entropy=float(entropy(probabilities)),
        thought=told.thought if told else "",
        decisions=decisions,
    )

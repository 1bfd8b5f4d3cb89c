"""What is asked of a model for one prompt, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

from usermirrorer.builders.decisions.engines.base import Sampling


@dataclass(frozen=True)
class SceneRequest:
    """A scene's share of an lm_eval request, beside its prompt.

    Args:
        options: Number of options k.
        sampling: How decisions are sampled.
        seed: Of the samples.
    """

    options: int
    sampling: Sampling = field(default_factory=lambda: Sampling(n=5))  # section 4.2
    seed: int = 0

    def stored(self) -> dict[str, Any]:
        """Return the form in which it stands in an lm_eval request."""
        return asdict(self)


def read(stored: Mapping[str, Any]) -> SceneRequest:
    """Return a request from its stored form."""
    return SceneRequest(stored["options"], Sampling(**stored["sampling"]), stored["seed"])


class ModelOutput(TypedDict):
    """What a model gives for one prompt.

    `texts` are the generations ([] if nothing was sampled), `probabilities` the distribution over
    the options given each of them (one row per text; one row in direct mode), None if the model
    gives no log-probabilities.
    """

    texts: list[str]
    probabilities: list[list[float]] | None

"""What is asked of a model for one prompt, and what comes back."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

_BEHAVIOR_LINE = re.compile(r"^[\s\-*]*behavior\**\s*:", re.I | re.M)


@dataclass(frozen=True)
class Sampling:
    """How decisions of one scene are sampled (section 4.2: 5 samples, temperature 1, top-p 0.9)."""

    options: int
    samples: int = 5
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 512
    guided: bool = False
    seed: int = 0

    def request(self) -> dict[str, Any]:
        """Return the form in which it stands in an lm_eval request."""
        return asdict(self)


#: `texts` are the generations ([] if nothing was sampled), `probabilities` the distribution over
#: the options given each of them (one row a text; one row in direct mode), None if the model gives
#: no log-probabilities.
Outcome = dict[str, Any]


def thought_of(text: str) -> str:
    """Return what a generation says before its first Behavior line; all of it if it has none.

    This is what the labels are scored after, for well-formed and malformed generations alike.
    """
    line = _BEHAVIOR_LINE.search(text)
    return (text[: line.start()] if line else text).strip()

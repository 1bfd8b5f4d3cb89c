"""Language models behind one small interface: sample decisions, score options.

`transformers.py` runs a model in this process (CPU or GPU), `vllm.py` by vLLM, `endpoint.py` asks
an OpenAI-compatible server; `loading.py` makes any of them, `ray.py` puts many of them to work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the command line needs no more of this module than the names below
    import numpy as np

    from usermirrorer.builders.decisions.prompts import Message

#: What runs a model: this process, vLLM offline, or a server that speaks OpenAI's protocol.
KINDS = ("transformers", "vllm", "openai")
#: Longest prompt and generation together, in tokens (section "context cap" of the configurations).
CONTEXT = 6144


@dataclass(frozen=True)
class Generation:
    """One sampled assistant turn and the tokens it cost.

    `tokens_in` counts the prompt as a server without prefix caching would; `tokens_out` the
    generated tokens, forced headings included.
    """

    text: str
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Sampling:
    """How decisions are sampled (appendix A.2: n 10, temperature 1.0, top-p 0.9).

    Args:
        n: Samples a scene.
        temperature: 0 takes the likeliest token.
        top_p: Nucleus mass.
        max_tokens: Longest generation; with `guided`, each field may use an equal share.
        guided: Force the headings of the decision format and draw the label from the options, for
            models that cannot follow the format by themselves.
    """

    n: int = 10
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 512
    guided: bool = False


class Engine(Protocol):
    """A model that can sample decisions and score options.

    Results depend on the prompts, the sampling settings and the seeds, not on how scenes are
    batched (up to floating-point rounding).
    """

    name: str
    batch_scenes: int  # scenes worth giving at a time

    @property
    def context(self) -> int:
        """Longest prompt and generation together that the model takes, in tokens."""
        ...

    def count(self, prompt: list[Message]) -> int:
        """Return the number of prompt tokens, chat template included."""
        ...

    def sample(
        self,
        prompts: Sequence[list[Message]],
        options: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Generation]]:
        """Sample `sampling.n` assistant turns for each prompt (one seed a prompt)."""
        ...

    def score(
        self,
        prompts: Sequence[list[Message]],
        thoughts: Sequence[Sequence[str]],
        options: Sequence[int],
    ) -> list[np.ndarray]:
        """Return P(Y | X + D): per prompt float64 [thoughts, options], rows adding up to 1.

        An empty thought scores the behavior directly after the prompt.
        """
        ...

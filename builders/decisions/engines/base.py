"""The interface of engines. To add one, write one file: `engines/<kind>.py`. It holds

1. a class with the members of `Engine`: `name`, `batch_scenes`, `context`, `count`, `sample` and
   `score`. Prompts are message lists; `decisions/chat.py` turns them into text and tokens, and
   nothing else should, so that every engine shows a model the same bytes. Where a prompt opens a
   block of thinking, generations begin with what `chat.opened` says of it;
2. `ENGINE = EngineKind(load=...)`, where `load` makes that class from `EngineSettings`.

The file's name is what `--engine` calls it; the registry finds it by looking into this folder.
Heavy libraries are imported inside `load` where they may be missing; say so by a `UserError`.
Mistakes of users (an unknown model, an address that is none) are `UserError` too, raised by `load`
or by the first call. A failure in the middle of a call may raise anything: the parts that are
finished stay, and the next run goes on. `tests/builders/decisions/test_registry.py` has an engine
of twenty lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the command line needs no more of this module than the names below
    import numpy as np

    from usermirrorer.builders.decisions.prompts import Message


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
        n: Samples per scene.
        temperature: 0 takes the likeliest token.
        top_p: Nucleus mass.
        max_tokens: Longest generation; with `guided`, each field may use an equal share.
        guided: Force the headings of the decision format and draw the label from the options, for
            models that cannot follow the format by themselves.
        think_end_token: What ends a reasoning model's thinking, if it is not one of the usual
            signs of `prompts.THINKING`.
    """

    n: int = 10
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 512
    guided: bool = False
    think_end_token: str = ""


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
        """Sample `sampling.n` assistant turns for each prompt (one seed per prompt)."""
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


@dataclass(frozen=True)
class EngineSettings:
    """Which engine runs which model: enough to make it here or on another machine.

    Args:
        kind: Name of the engine's file in this folder.
        model: Part, folder or Hub id; for a server, what it calls the model.
        dtype: `auto`, `float32` or `bfloat16`.
        tensor_parallel: GPUs that one vLLM engine spreads a model over.
        base_url: Of the server, such as `http://localhost:8000/v1`.
        tokenizer: The served model's (part, folder or Hub id), if the server has its own names.
        concurrency: Most requests in flight at a server.
        name: What stored rows call the model; by default `model`.
        chat_template_kwargs: What the chat template is given beside the chat, a JSON object; see
            `decisions/chat.py`.
    """

    kind: str
    model: str
    dtype: str = "auto"
    tensor_parallel: int = 1
    base_url: str = ""
    tokenizer: str = ""
    concurrency: int = 32
    name: str = ""
    chat_template_kwargs: str = ""


@dataclass(frozen=True)
class EngineKind:
    """What the registry knows of an engine.

    Args:
        load: Makes the engine; raises `UserError` if it cannot.
        options: The fields of `EngineSettings` that it reads beside `model` and `dtype`; others
            are refused on the command line rather than ignored.
        part_scenes: Scenes worth working on together, and the most that a kill can cost.
        remote: Asks a server: the weights are not here, nothing is gained by several processes,
            and sampling and scoring share no computed prompt.
        dtype: What `auto` means here; rows depend on it.
    """

    load: Callable[[EngineSettings], Engine]
    options: tuple[str, ...] = ()
    part_scenes: int = 32
    remote: bool = False
    dtype: Callable[[], str] = lambda: "auto"

"""All that this package knows of lm_eval's inside: requests of its own, and models' private calls.

lm_eval has no public way to add a kind of request, to score given tokens, or to pass a model's own
sampling settings. `tests/test_private_names.py` says which name is gone when an upgrade of lm_eval
changes this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from lm_eval.api.model import LM, TemplateLM


def add_request(name: str, answer: Callable[[Any, list[Any]], list[Any]]) -> None:
    """Let every model answer requests called `name`.

    lm_eval calls a request by looking its name up on the model object; so it goes on the base
    class.
    """
    setattr(LM, name, answer)


def log_likelihoods(
    lm: TemplateLM, rows: Sequence[tuple[tuple[str, str], list[int], list[int]]]
) -> list[float]:
    """Return the log-probability of each row's last tokens after those before them.

    Args:
        lm: A model with a tokenizer on this side.
        rows: What names the row in lm_eval's cache, context tokens, ending tokens.
    """
    if not rows:
        return []
    return [value for value, _ in lm._loglikelihood_tokens(list(rows))]


def tell_in_a_line(kind: type[Exception]) -> None:
    """Let the program end with one line for errors of a kind, where it shows a traceback."""
    usual = sys.excepthook

    def told(of: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, kind):
            print(f"error: {error}", file=sys.stderr)
        else:
            usual(of, error, trace)

    sys.excepthook = told


def is_plain_transformers(lm: LM) -> bool:
    """Say whether a model is lm_eval's own `hf`, in whose calls no subclass meddles."""
    from lm_eval.models.huggingface import HFLM

    return (
        isinstance(lm, HFLM)
        and type(lm)._loglikelihood_tokens is HFLM._loglikelihood_tokens
        and type(lm)._model_call is HFLM._model_call
    )


def vllm_outputs(lm: Any, prompts: Sequence[list[int]], settings: Sequence[Any]) -> list[Any]:
    """Return vLLM's own outputs for prompts of tokens, each with its sampling parameters.

    Through lm_eval's model, which knows how its replicas share the work.
    """
    return lm._model_generate(requests=list(prompts), generate=True, sampling_params=list(settings))

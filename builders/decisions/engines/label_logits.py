"""Logits of labels as half precision does not round them.

A model in bfloat16 returns logits in bfloat16: steps of 0.125 where they lie above 16. Several
labels of a scene then get the very same probability, of which the first would count as the choice,
and entropies move in steps. The state before the head is as fine as half precision allows; only
the products of its few hundred numbers have to be added up, and kept, in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def unrounded(model: Any, ids: torch.Tensor) -> Iterator[None]:
    """Let a model's head give the logits of some tokens in float32 inside this block.

    What the model does to logits afterwards (scales, caps) it does to these. Other heads than a
    plain linear layer in half precision are left alone.

    Args:
        model: A causal model.
        ids: [labels] tokens, one each.
    """
    head = model.get_output_embeddings()
    half = type(head) is torch.nn.Linear and head.weight.dtype in (torch.bfloat16, torch.float16)
    if not half or type(head.weight) is not torch.nn.Parameter:
        yield
        return

    def again(module: torch.nn.Linear, given: tuple[torch.Tensor, ...], output: Any) -> Any:
        state, weight = given[0], module.weight
        if weight.device != state.device:  # moved away again, as accelerate does to save memory
            return output
        bias = None if module.bias is None else module.bias[ids].float()
        exact = torch.nn.functional.linear(state.float(), weight[ids].float(), bias)
        wide = output.float()
        wide[..., ids] = exact
        return wide

    hook = head.register_forward_hook(again)
    try:
        yield
    finally:
        hook.remove()

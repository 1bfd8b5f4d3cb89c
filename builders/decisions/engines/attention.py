"""What makes many branches over one trunk cheap in `transformers`, beside its own attention.

Its masked attention copies the keys and values of each group of heads once per query head, and its
cache copies everything at every token. On a CPU these copies cost more than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from usermirrorer.builders.common.transformers_internals import attention_of

GROUPED = "usermirrorer_grouped"
_SPARE = 256  # columns a layer has in reserve when it grows


def _grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Masked attention in which the query heads of a group share one row of keys, uncopied.

    Shapes: query [b, heads, q, d]; key, value [b, groups, k, d]; mask [b, 1, q, k]. The heads of a
    group become further queries of it, so the result is that of `sdpa`.
    """
    groups, (batch, heads, count, width) = key.shape[1], query.shape
    shared = attention_mask is not None and attention_mask.shape[1] == 1
    if not shared or heads == groups or dropout or more.get("softcap") or more.get("position_bias"):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    assert attention_mask is not None
    each = heads // groups
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, groups, each * count, width),
        key,
        value,
        attn_mask=attention_mask[..., : key.shape[2]].repeat(1, 1, each, 1),
        scale=scaling,
    )
    return output.reshape(batch, heads, count, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, _grouped)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def share_groups(model: Any) -> None:
    """Make a model that uses `sdpa` use the attention above; leave others as they are."""
    if attention_of(model) == "sdpa":
        model.set_attn_implementation(GROUPED)


class _GrowingLayer(DynamicLayer):
    """Keys and values as views of a larger buffer: appending columns copies no old ones."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._grow(key_states, start, end)
        assert self._buffers is not None
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def _grow(self, like: torch.Tensor, start: int, end: int) -> None:
        shape = (*like.shape[:-2], end + max(_SPARE, end // 2), like.shape[-1])
        fresh = (like.new_empty(shape), like.new_empty(shape))
        if start:
            for buffer, old in zip(fresh, (self.keys, self.values), strict=True):
                assert old is not None
                buffer[..., :start, :] = old
        self._buffers = fresh


def growing_cache() -> Cache:
    """Return an empty cache whose layers grow without copying at every token."""
    return Cache(layer_class_to_replicate=_GrowingLayer)

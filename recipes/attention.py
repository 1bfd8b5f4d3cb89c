"""Attention for training where there is no flash attention, that is on a CPU.

`transformers` hides padding, and the other documents of a packed row, by a mask over all pairs of
tokens. Its CPU kernel then computes every pair, the hidden ones included, and copies the keys of
each group of heads. Here no mask is needed: a document attends to itself alone, causally, and what
pads a row on the right comes after all that could attend to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_DOCUMENT = "usermirrorer_by_document"


def _by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each of the documents that `cu_seq_lens_q` [documents + 1] marks.

    Shapes: query [1, heads, tokens, d]; key, value [1, groups, tokens, d]. Batches that are not one
    row of documents, and attention of other kinds, are left to `sdpa` and its mask.
    """
    special = ("sliding_window", "softcap", "position_bias", "cache")
    if cu_seq_lens_q is None or any(more.get(name) is not None for name in special):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    lengths = cu_seq_lens_q.diff().tolist()
    documents = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
    outputs = [
        scaled_dot_product_attention(
            queries, keys, values, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=True
        )
        for queries, keys, values in documents
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _mask(
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **more: Any,
) -> torch.Tensor | None:
    """Return no mask (plain causal attention) where rows are padded on the right, else `sdpa`'s."""
    whole = q_length == kv_length and local_size is None and allow_is_causal_skip
    if whole and attention_mask is not None and _padded_right(attention_mask):
        return None
    return sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **more,
    )


def _padded_right(attention_mask: torch.Tensor) -> bool:
    return not (attention_mask.to(torch.int8).diff(dim=1) > 0).any()


def suits(config: PreTrainedConfig) -> bool:
    """Say whether every layer of a model attends to all earlier tokens of a document."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"]
    return set(kinds) == {"full_attention"}


AttentionInterface.register(BY_DOCUMENT, _by_document)
AttentionMaskInterface.register(BY_DOCUMENT, _mask)

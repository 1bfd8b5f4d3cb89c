"""Sentence embeddings of item texts, for content candidates and the nearest-history baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_BATCH_TOKENS = 8192
_LONGEST = 256


def embed(
    texts: Sequence[str], model: str, progress: Callable[[int], None] = lambda texts: None
) -> np.ndarray:
    """Embed texts by mean pooling of a transformer's last layer.

    Args:
        texts: n texts.
        model: Local folder or Hub id of an encoder.
        progress: Called with the number of texts just embedded.

    Returns:
        float32 [n, d], each row of length 1; equal texts have equal rows.

    Raises:
        UserError: if the model cannot be loaded.
    """
    import torch

    network, tokenizer = _load(model)
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    vectors: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for batch in _batches(unique):
            inputs = tokenizer(
                batch, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
            ).to(network.device)
            hidden = network(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            unit = torch.nn.functional.normalize(mean.float(), dim=1).cpu().numpy()
            vectors.update(zip(batch, unit, strict=True))
            progress(len(batch))
    return np.stack([vectors[text] for text in texts])


def _load(model: str) -> tuple:  # type: ignore[type-arg]
    import torch
    from transformers import AutoModel, AutoTokenizer

    from usermirrorer.builders.common.models import explained

    with explained(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModel.from_pretrained(model)
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _batches(texts: Sequence[str]) -> list[list[str]]:
    """Group texts of similar length, so that little is padding (about 3 characters a token)."""
    batches: list[list[str]] = [[]]
    for text in texts:
        width = min(_LONGEST, len(text) // 3 + 2)
        if batches[-1] and (len(batches[-1]) + 1) * width > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(text)
    return batches if batches[0] else []

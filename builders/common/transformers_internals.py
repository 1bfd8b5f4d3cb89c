"""All that this package knows of the inside of `transformers`' models.

What is asked here has no public name. `tests/test_private_names.py` says which name is gone when an
upgrade of `transformers` changes this.
"""

from __future__ import annotations

from typing import Any


def attention_of(model: Any) -> str | None:
    """Return the name of the attention that a loaded model uses, such as `sdpa`."""
    return model.config._attn_implementation


def is_recurrent(model: Any) -> bool:
    """Say whether a model keeps a state that cannot be split by positions, as Mamba does."""
    return model._is_stateful


def forget_quantization(model: Any) -> None:
    """Let a model whose weights were unpacked to floats be saved as what it is.

    `from_pretrained(gguf_file=...)` unpacks, but leaves the mark of the quantized file.
    """
    vars(model).update(hf_quantizer=None, is_quantized=False)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config

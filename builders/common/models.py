"""Load language models and tokenizers, or say in one line why one cannot be loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from usermirrorer.builders.common.assets import KNOWN
from usermirrorer.builders.common.errors import UserError


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn the library's errors about a model id or folder into one `UserError`, bars off."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; the bars of our stages stay readable
    try:
        yield
    except (OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise UserError(
            f"model cannot be loaded: {first.rstrip('.')}",
            where=model,
            fix=f"Give a local folder, a Hub id, or the name of a part. {KNOWN}",
        ) from error


def load_causal_lm(model: str, dtype: str = "auto") -> tuple[Any, Any]:
    """Return `(model, tokenizer)` in evaluation mode on the GPU if there is one.

    Args:
        model: Local folder or Hub id. Weights must be safetensors; remote code is never run.
        dtype: `float32`, `bfloat16`, or `auto` for the one that is fast here, see `fast_dtype`.

    Raises:
        UserError: if it cannot be loaded or has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM

    cuda = torch.cuda.is_available()
    kind = fast_dtype() if dtype == "auto" else dtype
    tokenizer = load_tokenizer(model)
    with explained(model):
        network: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, kind), use_safetensors=True
        )
    return network.to("cuda" if cuda else "cpu").eval(), tokenizer


def load_tokenizer(model: str, revision: str | None = None, *, chat: bool = True) -> Any:
    """Return a tokenizer.

    Args:
        model: Local folder or Hub id.
        revision: Tag, branch or commit of a Hub id.
        chat: It must have a chat template.

    Raises:
        UserError: if it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    with explained(model):
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    if chat and not tokenizer.chat_template:
        raise UserError(
            "has no chat template", where=model, fix="Use an instruct model, or add a template."
        )
    return tokenizer


def fast_dtype() -> str:
    """Return `bfloat16` where the hardware multiplies in it, otherwise `float32`.

    A CPU without AVX512-BF16 or AMX emulates bfloat16: 9 times slower than float32 in a product of
    [2048, 576] by [576, 1536] on such a CPU. `ATEN_CPU_CAPABILITY=avx2` makes a CPU one of these.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    here = torch.cpu.get_capabilities()
    native = here.get("avx512_bf16") or here.get("amx_bf16")
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"  # the widest that torch may use
    return "bfloat16" if native and used else "float32"

"""Make engines, and say in one line why a model cannot be loaded."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.engines import Engine
from usermirrorer.builders.errors import UserError

if TYPE_CHECKING:
    from usermirrorer.builders.shards import Spread


@dataclasses.dataclass(frozen=True)
class EngineSpec:
    """Which engine runs which model: enough to make it here or on another machine.

    Args:
        kind: One of `KINDS`.
        model: Part, folder or Hub id; for a server, what it calls the model.
        dtype: `auto`, `float32` or `bfloat16`.
        tensor_parallel: GPUs that one vLLM engine spreads a model over.
        base_url: Of the server, such as `http://localhost:8000/v1`.
        tokenizer: The served model's (part, folder or Hub id), if the server has its own names.
        concurrency: Most requests in flight at a server.
    """

    kind: str
    model: str
    dtype: str = "auto"
    tensor_parallel: int = 1
    base_url: str = ""
    tokenizer: str = ""
    concurrency: int = 32

    def load(self) -> Engine:
        """Return the engine.

        Raises:
            UserError: if the model cannot be loaded, or the engine's library is not installed.
        """
        from usermirrorer.builders import fetch

        if self.kind == "openai":
            from usermirrorer.builders.engines.endpoint import EndpointEngine

            tokenizer = load_tokenizer(fetch.resolve_model(self.tokenizer or self.model))
            return EndpointEngine(self.model, tokenizer, self.base_url, self.concurrency)
        folder = fetch.resolve_model(self.model)
        if self.kind == "vllm":
            from usermirrorer.builders.engines.vllm import VllmEngine

            return VllmEngine(folder, self.model, self.dtype, self.tensor_parallel)
        return load_engine(folder, self.dtype, self.model)

    @property
    def part_scenes(self) -> int:
        """Scenes worth working on together, and the most that a kill can cost."""
        return 256 if self.kind == "vllm" else 32

    def spread(self, workers: int) -> Spread | None:
        """Return how parts are spread over `workers` Ray actors; None for this process.

        Raises:
            UserError: if Ray is not installed, or would only multiply requests to one server.
        """
        if not workers:
            return None
        if self.kind == "openai":
            raise UserError(
                "is for engines that compute", where="--workers", fix="Raise --concurrency."
            )
        from usermirrorer.builders.engines.ray import spread_over

        return spread_over(workers, self.tensor_parallel)

    def identity(self) -> dict[str, Any]:
        """Return what rows depend on: engine, model, revision, dtype; not where or how fast."""
        from usermirrorer.builders import fetch

        if self.kind == "openai":
            return {"engine": self.kind, "model": self.model}
        folder = Path(fetch.resolve_model(self.model))
        pinned = folder.parent.name == "snapshots"  # the Hub's cache names the commit
        revision = folder.name if pinned else fetch.model_revision(str(folder))
        dtype = fast_dtype() if (self.kind, self.dtype) == ("transformers", "auto") else self.dtype
        return {"engine": self.kind, "model": self.model, "revision": revision, "dtype": dtype}


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
            fix="Give a local folder, a Hub id, or a name that `usermirrorer fetch` knows.",
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


def load_tokenizer(model: str) -> Any:
    """Return a tokenizer with a chat template.

    Raises:
        UserError: if it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    with explained(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        raise UserError(
            "has no chat template", where=model, fix="Use an instruct model, or add a template."
        )
    return tokenizer


def fast_dtype() -> str:
    """Return `bfloat16` where the hardware multiplies in it, otherwise `float32`.

    A CPU without AVX512-BF16 or AMX emulates bfloat16: 9 times slower than float32 in a product of
    [2048, 576] by [576, 1536] on such a CPU.
    """
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if torch.cuda.is_available() or native else "float32"


def load_engine(model: str, dtype: str, name: str) -> Engine:
    """Load a model (local folder or Hub id) into the embedded engine, called `name` in rows.

    Raises:
        UserError: see `load_causal_lm` and `TransformersEngine`.
    """
    from usermirrorer.builders.engines.transformers import TransformersEngine

    return TransformersEngine(*load_causal_lm(model, dtype), name)

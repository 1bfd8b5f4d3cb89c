"""Which engine runs which model, here or on other machines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.engines.base import Engine

if TYPE_CHECKING:
    from usermirrorer.builders.common.storage import Spread
from usermirrorer.builders.common.models import fast_dtype, load_causal_lm, load_tokenizer


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
        from usermirrorer.builders.common import assets

        if self.kind == "openai":
            from usermirrorer.builders.decisions.engines.endpoint import EndpointEngine

            tokenizer = load_tokenizer(assets.resolve_model(self.tokenizer or self.model))
            return EndpointEngine(self.model, tokenizer, self.base_url, self.concurrency)
        folder = assets.resolve_model(self.model)
        if self.kind == "vllm":
            from usermirrorer.builders.decisions.engines.vllm import VllmEngine

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
        from usermirrorer.builders.decisions.engines.ray import spread_over

        return spread_over(workers, self.tensor_parallel)

    def identity(self) -> dict[str, Any]:
        """Return what rows depend on: engine, model, revision, dtype; not where or how fast."""
        from usermirrorer.builders.common import assets

        if self.kind == "openai":
            return {"engine": self.kind, "model": self.model}
        folder = Path(assets.resolve_model(self.model))
        pinned = folder.parent.name == "snapshots"  # the Hub's cache names the commit
        revision = folder.name if pinned else assets.model_revision(str(folder))
        dtype = fast_dtype() if (self.kind, self.dtype) == ("transformers", "auto") else self.dtype
        return {"engine": self.kind, "model": self.model, "revision": revision, "dtype": dtype}


def load_engine(model: str, dtype: str, name: str) -> Engine:
    """Load a model (local folder or Hub id) into the embedded engine, called `name` in rows.

    Raises:
        UserError: see `load_causal_lm` and `TransformersEngine`.
    """
    from usermirrorer.builders.decisions.engines.transformers import TransformersEngine

    return TransformersEngine(*load_causal_lm(model, dtype), name)

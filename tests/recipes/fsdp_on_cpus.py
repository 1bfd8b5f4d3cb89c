"""Run a recipe as `accelerate launch` does with FSDP, on CPUs.

accelerate offers FSDP on accelerators alone, PyTorch on CPUs as well: here accelerate is told that
its CPU processes are GPUs. What is sharded, gathered and saved is the real thing, over gloo.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from accelerate import DistributedType, PartialState

plain = PartialState.__init__


def init(self: PartialState, *args: Any, **kwargs: Any) -> None:
    plain(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = init  # type: ignore[method-assign]
    importlib.import_module(f"usermirrorer.recipes.{sys.argv[1]}").main(sys.argv[2:])

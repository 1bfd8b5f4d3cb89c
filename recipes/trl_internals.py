"""All that the recipes know of TRL's inside: which positions its language-model head scores.

TRL has no public setting for it. `tests/test_private_names.py` says which name is gone when an
upgrade of TRL changes this.
"""

from __future__ import annotations

import torch
from trl.trainer import utils


def score_answers_only_on_cpu() -> None:
    """Let TRL leave out prompt positions from the language-model head on a CPU, as on a GPU.

    Without Triton it scores every position and masks most of them afterwards, for the sake of
    compilers to which a changing shape is dear. A CPU compiles nothing, and there the head over
    49,152 words of a 600-token prompt takes most of a step. The loss is the same.
    Where an upgrade took the name away, training is slower and as right.
    """
    plain = getattr(utils, "_use_triton", None)
    if plain is not None and not getattr(plain, "answers_only", False):

        def compact(device: torch.device) -> bool:
            return device.type == "cpu" or plain(device)

        compact.answers_only = True  # type: ignore[attr-defined]
        utils._use_triton = compact

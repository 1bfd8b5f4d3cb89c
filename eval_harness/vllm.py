"""`--model vllm`: one forward for all labels of a prompt.

What vLLM does by itself is enough for the rest: its prefix cache computes a prompt once for all the
samples of a scene, and once more only for the last few tokens before a label. lm_eval's own
requests would read the log-probabilities of whole prompts, once per option, without that cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.lm_eval_internals import vllm_outputs
from usermirrorer.eval_harness.metrics import Floats


def supports(lm: LM) -> bool:
    """Say whether `lm` is lm_eval's vLLM model; imports nothing that is not there already."""
    module = sys.modules.get("lm_eval.models.vllm_causallms")
    return module is not None and isinstance(lm, module.VLLM)


def label_scores(lm: Any, rows: Sequence[tuple[list[int], list[list[int]]]]) -> list[Floats]:
    """Return the log-probabilities of each row's k single-token labels after its tokens.

    vLLM is asked for the label tokens by name, so they are exact however unlikely a label is.

    Args:
        lm: lm_eval's `VLLM`.
        rows: Tokens before the label, and k labels of one token each.

    Raises:
        UserError: if this version of vLLM cannot be asked for given tokens, or gives NaN.
    """
    from vllm import SamplingParams

    wanted = [[label[0] for label in labels] for _, labels in rows]
    try:
        settings = [
            SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=ids, detokenize=False)
            for ids in wanted
        ]
    except TypeError as error:
        raise UserError(
            "this version of vLLM cannot score given tokens", fix="Install a newer one (0.32 does)."
        ) from error
    outputs = vllm_outputs(lm, [tokens for tokens, _ in rows], settings)
    scores = []
    for output, ids in zip(outputs, wanted, strict=True):
        given = output.outputs[0].logprobs[0]
        scores.append(np.array([given[token].logprob for token in ids], dtype=np.float64))
    if not all(np.isfinite(row).all() for row in scores):
        raise UserError("the model gives NaN", fix="Try another dtype.")
    return scores

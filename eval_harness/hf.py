"""`--model hf`: one forward for all labels of a prompt, one prompt for all decisions of a scene."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from tqdm import tqdm

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import LABEL_PREFIX, thought_of, without_thinking
from usermirrorer.builders.decisions.uncertainty import softmax
from usermirrorer.eval_harness.lm_eval_internals import is_plain_transformers
from usermirrorer.eval_harness.metrics import Floats
from usermirrorer.eval_harness.requests import ModelOutput, SceneRequest

_log = logging.getLogger(__name__)

#: Largest difference of two probabilities between the two ways of scoring a label: a wrong mask or
#: position shifts them by far more, and half precision rounds all that comes before the logits.
_TOLERANCE, _TOLERANCE_HALF = 0.02, 0.15


def supports(lm: LM) -> bool:
    """Say whether `lm` runs a causal model of `transformers` in the ordinary way."""
    return is_plain_transformers(lm) and getattr(lm, "backend", "") == "causal"


def last_logits(lm: Any, rows: Sequence[tuple[list[int], list[list[int]]]]) -> list[Floats]:
    """Return the logits of each row's k single-token labels after its tokens, one forward per row.

    Args:
        lm: An `HFLM` with a causal model.
        rows: Tokens before the label, and k labels of one token each.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    logits: dict[int, Floats] = {}
    size = lm.batch_size if isinstance(lm.batch_size, int) else 32
    start = 0
    with tqdm(total=len(rows), desc="Scoring labels", disable=len(rows) <= size) as shown:
        while start < len(order):
            batch = order[start : start + size]
            try:
                logits.update(zip(batch, _forward(lm, [rows[i] for i in batch]), strict=True))
            except RuntimeError as error:
                if size == 1 or "out of memory" not in str(error).lower():
                    raise
                size //= 2
                continue
            start += size
            shown.update(len(batch))
    return [logits[i] for i in range(len(rows))]


def _forward(lm: Any, rows: Sequence[tuple[list[int], list[list[int]]]]) -> list[Floats]:
    """One batch, padded on the right: a causal model's earlier positions never see the padding."""
    import torch

    from usermirrorer.builders.decisions.engines.label_logits import unrounded

    lengths = [len(tokens) for tokens, _ in rows]
    inputs = torch.zeros((len(rows), max(lengths)), dtype=torch.long, device=lm.device)
    for i, (tokens, _) in enumerate(rows):
        inputs[i, : len(tokens)] = torch.tensor(tokens)
    ends = sorted({n - 1 for n in lengths})
    keep = "logits_to_keep" in inspect.signature(lm.model.forward).parameters
    extra = {"logits_to_keep": torch.tensor(ends, device=lm.device)} if keep else {}
    every = sorted({ending[0] for _, endings in rows for ending in endings})
    with torch.no_grad(), unrounded(lm.model, torch.tensor(every, device=lm.device)):
        logits = lm.model(inputs, use_cache=False, **extra).logits
    last = []
    for i, (_, endings) in enumerate(rows):
        position = ends.index(lengths[i] - 1) if keep else lengths[i] - 1
        picked = logits[i, position, torch.tensor([e[0] for e in endings], device=lm.device)]
        last.append(picked.double().cpu().numpy())
    return last


def engine_of(lm: Any) -> Any | None:
    """Return the embedded engine around `lm`'s model, or None where it does not apply.

    It does not where labels take several tokens, or where its shared attention does not give the
    probabilities of plain forward passes (found out by trying, once per model).
    """
    if not supports(lm):
        return None
    if not hasattr(lm, "usermirror_engine"):
        lm.usermirror_engine = _make_engine(lm)
    return lm.usermirror_engine


def _make_engine(lm: Any) -> Any | None:
    import torch

    from usermirrorer.builders.decisions.engines.transformers import TransformersEngine

    class TextEngine(TransformersEngine):
        """Takes prompts that lm_eval has rendered, with the start token where it would add one."""

        def text(self, prompt: str) -> str:  # type: ignore[override]
            start = self.tokenizer.bos_token
            if not start or prompt.startswith(start):
                return prompt
            adds = lm.tok_encode(prompt)[:1] == [self.tokenizer.bos_token_id]
            return start + prompt if adds else prompt

    try:
        engine = TextEngine(lm.model, lm.tokenizer)
        difference = _difference(lm, engine)
    except (UserError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        _log.warning("decisions are scored one by one: %s", error)
        return None
    half = lm.model.dtype in (torch.bfloat16, torch.float16)
    if difference > (_TOLERANCE_HALF if half else _TOLERANCE):
        _log.warning("decisions are scored one by one: shared attention is off by %.3g", difference)
        return None
    return engine


def _difference(lm: Any, engine: Any) -> float:
    """Compare the engine's probabilities with those of plain forwards on two short branches."""
    prompt, thoughts = "Which of these would you watch tonight?\n\n", ["I like A.", "It is late."]
    shared = engine.score([prompt], [thoughts], [5])[0]
    rows = []
    for thought in thoughts:
        ids = lm.tok_encode(f"{prompt}{thought}\n{LABEL_PREFIX}")
        rows.append((ids, [[int(i)] for i in engine.label_ids[:5]]))
    plain = np.array([softmax(row) for row in last_logits(lm, rows)])
    return float(np.abs(shared - plain).max())


def decide(
    lm: Any, engine: Any, prompts: Sequence[str], settings: Sequence[SceneRequest]
) -> list[ModelOutput]:
    """Sample decisions and score the labels after each, a prompt's keys and values shared.

    The random numbers of a prompt come from its text and `seed`, so a scene's decisions do not
    depend on which other scenes are run.
    """
    # Ablations have fewer samples: a batch has one setting, so equal ones come in a row.
    order = sorted(range(len(prompts)), key=lambda i: (-settings[i].sampling.n, -len(prompts[i])))
    answers: dict[int, ModelOutput] = {}
    for batch in tqdm(list(_batches(lm, order, settings)), desc="Deciding"):
        texts = [prompts[i] for i in batch]
        options = [settings[i].options for i in batch]
        drawn = engine.sample(
            texts,
            options,
            settings[batch[0]].sampling,
            [_seed(prompts[i], settings[i].seed) for i in batch],
        )
        end = _think_end(lm)
        written = [[_said(generation.text, end) for generation in row] for row in drawn]
        thoughts = [[thought_of(text) for text in row] for row in written]
        scores = engine.score(texts, thoughts, options)
        for i, row, score in zip(batch, written, scores, strict=True):
            answers[i] = {"texts": row, "probabilities": score.tolist()}
    return [answers[i] for i in range(len(prompts))]


def _think_end(lm: Any) -> str:
    """Return what lm_eval was told ends the model's thinking: a text, or the number of a token."""
    end = getattr(lm, "think_end_token", None)
    return lm.tokenizer.decode([end]) if isinstance(end, int) else str(end or "")


def _said(text: str, end: str) -> str:
    """Return a generation without its thinking, as lm_eval's own generations are."""
    said = without_thinking(text, end) if end else text
    return text if said is None else said


def _batches(lm: Any, order: Sequence[int], settings: Sequence[SceneRequest]) -> list[list[int]]:
    """Cut `order` into batches of about `batch_size` decisions of equal settings."""
    batches: list[list[int]] = []
    for i in order:
        size = lm.batch_size if isinstance(lm.batch_size, int) else 32
        first = settings[batches[-1][0]] if batches else None
        same = first and first.sampling == settings[i].sampling
        if same and (len(batches[-1]) + 1) * settings[i].sampling.n <= size:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _seed(prompt: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big")

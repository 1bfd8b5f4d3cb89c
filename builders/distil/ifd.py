"""Instruction-following difficulty of chosen decision processes (Table 2 and appendix C.4).

The perplexity of a response after its prompt over that of the response alone, as in Li et al.,
Superfiltering (2024): near 1 the prompt tells the model little about the response. Both are taken
over the same tokens, all of the response but the first, which has nothing before it when alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.schema import CONTEXT_TOKENS, LABELS
from usermirrorer.builders.decisions import chat
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, answer, fit, prompts_hash
from usermirrorer.builders.distil import candidates

_PART_SCENES = 32
_BATCH_TOKENS = 4096  # columns of a batch, padding included: each may need a row of logits
Tokens = list[int]

#: Losses are means over the scored `tokens`, in nats; `ifd` is exp(with_prompt - alone).
SCORES = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("with_prompt", pa.float64(), nullable=False),
        pa.field("alone", pa.float64(), nullable=False),
        pa.field("ifd", pa.float64(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)


def scores(
    usable: candidates.Candidates,
    model: str,
    output: Path,
    *,
    dtype: str = "auto",
    prompts: Path = DEFAULT_PROMPTS,
    chat_template_kwargs: str = "",
    progress: Callable[[int, bool], None] = lambda scenes, resumed: None,
) -> np.ndarray:
    """Score the chosen decision of every scene that allows a pair; a killed run goes on.

    The texts of these scenes are held in memory, 5 to 10 KB each.

    Args:
        usable: From `candidates.candidates`.
        model: Local folder or Hub id (the paper: the weak model).
        output: Parquet file of schema `SCORES` to make; parts lie beside it until it is whole.
        dtype: See `load_causal_lm`.
        prompts: Folder of prompt templates.
        chat_template_kwargs: JSON object of what the chat template is given, as in `decide`.
        progress: Called with the scenes of each finished part, and whether it was resumed.

    Returns:
        [s] of all scenes of `usable`, NaN where there is no pair.

    Raises:
        UserError: if the model cannot be loaded.
    """
    config = {
        "stage": "ifd",
        "model": model,
        "dtype": dtype,
        "prompts": prompts_hash(prompts),
        "chat": chat.template_settings(chat.read_settings(chat_template_kwargs)),
        **{name: storage.file_hash(path) for name, path in usable.files.items()},
    }
    storage.in_parts(
        output,
        range(len(usable.usable)),
        _Worker(usable, model, dtype, prompts, chat_template_kwargs),
        config=config,
        part_rows=_PART_SCENES,
        on_progress=progress,
    )
    values = np.full(usable.scenes.num_rows, np.nan)
    values[usable.usable] = storage.read_table(output)["ifd"].to_numpy()
    return values


class _Worker:
    """Scores usable scenes by their numbers; loads model and texts when first needed."""

    def __init__(
        self, usable: candidates.Candidates, model: str, dtype: str, prompts: Path, chat: str
    ) -> None:
        self.usable, self.model, self.dtype, self.prompts = usable, model, dtype, prompts
        self.chat = chat
        self.chosen = usable.chosen[usable.usable]

    @functools.cached_property
    def engine(self) -> Any:
        from usermirrorer.builders.decisions.engines.registry import load_engine

        return load_engine(self.model, self.dtype, self.model, chat_template_kwargs=self.chat)

    @functools.cached_property
    def scenes(self) -> pa.Table:
        return candidates.scene_texts(self.usable, self.usable.usable)

    @functools.cached_property
    def thoughts(self) -> pa.ChunkedArray:
        return candidates.thoughts(self.usable, self.chosen)

    def __call__(self, numbers: Sequence[int]) -> pa.Table:
        behaviors = self.usable.decisions.behavior[self.chosen]
        rows = self.scenes.slice(numbers[0], len(numbers)).to_pylist()
        responses = [
            answer(LABELS[behaviors[number]], self.thoughts[number].as_py()) for number in numbers
        ]
        return _score(self.engine, rows, responses, self.prompts)


def _score(
    engine: Any, scenes: Sequence[candidates.Row], responses: Sequence[str], prompts: Path
) -> pa.Table:
    tokenizer = engine.tokenizer
    said = [chat.neutral(tokenizer, text, spoken=True) for text in responses]
    ids = [chat.token_ids(tokenizer, text) for text in said]
    contexts = []
    for scene, own in zip(scenes, ids, strict=True):
        prompt = fit(scene, engine.count, CONTEXT_TOKENS - len(own), prompts)
        contexts.append(chat.token_ids(tokenizer, engine.text(prompt)))
    start = tokenizer("").input_ids  # what the model expects before any text, often nothing
    with_prompt = losses(engine.model, contexts, ids)
    alone = losses(engine.model, [start] * len(ids), ids)
    columns = {
        "scene_id": [scene["scene_id"] for scene in scenes],
        "with_prompt": with_prompt,
        "alone": alone,
        "ifd": np.exp(with_prompt - alone),
        "tokens": [len(own) - 1 for own in ids],
    }
    return pa.table(columns, schema=SCORES)


def losses(model: Any, contexts: Sequence[Tokens], responses: Sequence[Tokens]) -> np.ndarray:
    """Return the mean loss of each response's tokens but the first, after its context, in nats.

    Args:
        model: A causal language model of `transformers`.
        contexts: Tokens before each response; may be empty.
        responses: At least two tokens each.

    Returns:
        float64 [number of responses].
    """
    import torch

    out = np.empty(len(responses))
    with torch.inference_mode():
        for batch in _batches([len(c) + len(r) for c, r in zip(contexts, responses, strict=True)]):
            rows = [torch.tensor(contexts[i] + responses[i]) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
            ids, padding = ids.to(model.device), [ids.shape[1] - len(row) for row in rows]
            place = torch.arange(ids.shape[1], device=model.device).expand_as(ids)
            place = place - torch.tensor(padding, device=model.device)[:, None]
            # The model's own logits: some scale or cap what comes out of their last layer.
            logits = model(
                input_ids=ids,
                attention_mask=place >= 0,
                position_ids=place.clamp(min=0),
                logits_to_keep=max(len(responses[i]) for i in batch),
            ).logits
            for row, i in enumerate(batch):
                length = len(responses[i])
                out[i] = torch.nn.functional.cross_entropy(
                    logits[row, -length:-1].double(), ids[row, 1 - length :]
                ).item()
    return out


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices of like length whose padded batch has at most `_BATCH_TOKENS` columns."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[index] * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

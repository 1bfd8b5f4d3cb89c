"""vLLM offline: for many scenes on one machine with GPUs (it runs on CPUs as well).

All requests of a call are in flight together. Prefix caching computes a prompt once for its n
samples, and once more only for the few tokens of a thought whose options are scored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import explained, load_tokenizer
from usermirrorer.builders.common.schema import CONTEXT_TOKENS, labels
from usermirrorer.builders.decisions.chat import (
    Settings,
    chat_text,
    closed,
    count_tokens,
    label_ids,
    neutral,
    opened,
    read_settings,
    scored_text,
    token_ids,
)
from usermirrorer.builders.decisions.engines.base import (
    EngineKind,
    EngineSettings,
    Generation,
    Sampling,
)
from usermirrorer.builders.decisions.prompts import FIELDS, Message
from usermirrorer.builders.decisions.uncertainty import softmax

#: A thought may be longer in this model's tokens than in those of the model that wrote it.
_SPARE = 1024
_CHARACTERS = 2  # that a guided field may have for each token of its share, so that it fits


class VllmEngine:
    """Runs a causal language model by vLLM in this machine.

    Args:
        folder: Local folder or Hub id; weights must be safetensors, remote code is never run.
        name: How the model is called in stored rows.
        dtype: As vLLM calls it; `auto` is that of the weights.
        tensor_parallel: GPUs to spread the model over. For data parallelism use several engines.
        chat: What the chat template is given beside the chat, see `decisions/chat.py`.

    Raises:
        UserError: if vLLM is not installed, the model cannot be loaded, has no chat template, or an
            option label is not a single token after `Behavior: [`.
    """

    batch_scenes = 256

    def __init__(
        self,
        folder: str,
        name: str = "",
        dtype: str = "auto",
        tensor_parallel: int = 1,
        chat: Settings | None = None,
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"vLLM cannot be imported ({error})",
                where="--engine vllm",
                fix="Install it in an environment of its own: see README, Engines.",
            ) from error
        self.name, self.chat = name or folder, dict(chat or {})
        self.tokenizer = load_tokenizer(folder)
        self.label_ids = label_ids(self.tokenizer, self.name)
        self.context = min(CONTEXT_TOKENS, _longest(folder))
        with explained(folder), _started(self.name, tensor_parallel):
            self._llm = LLM(
                folder,
                dtype=dtype,  # type: ignore[arg-type]
                tensor_parallel_size=tensor_parallel,
                enable_prefix_caching=True,
                max_model_len=min(CONTEXT_TOKENS + _SPARE, _longest(folder)),
                load_format="safetensors",
                trust_remote_code=False,
                seed=0,
            )

    def count(self, prompt: list[Message]) -> int:
        """Return the number of prompt tokens, chat template included."""
        return count_tokens(self.tokenizer, prompt, **self.chat)

    def sample(
        self,
        prompts: Sequence[list[Message]],
        options: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Generation]]:
        """Sample `sampling.n` assistant turns for each prompt; see `Engine.sample`."""
        from vllm import SamplingParams

        n = sampling.n if sampling.temperature else 1  # greedy samples are all the same
        settings = [
            SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed,
                structured_outputs=_guide(sampling, k) if sampling.guided else None,
            )
            for seed, k in zip(seeds, options, strict=True)
        ]
        texts = [chat_text(self.tokenizer, prompt, **self.chat) for prompt in prompts]
        if sampling.guided:
            texts = [closed(text) for text in texts]
        ids = [token_ids(self.tokenizer, text) for text in texts]
        return [
            [
                Generation(
                    opened(text) + one.text, len(output.prompt_token_ids), len(one.token_ids)
                )
                for one in output.outputs
            ]
            * (sampling.n // n)
            for text, output in zip(texts, self._generate(ids, settings), strict=True)
        ]

    def score(
        self,
        prompts: Sequence[list[Message]],
        thoughts: Sequence[Sequence[str]],
        options: Sequence[int],
    ) -> list[np.ndarray]:
        """Score the labels after each thought; see `Engine.score`.

        vLLM is asked for the log-probabilities of the label tokens themselves, so the result is
        exact however unlikely a label is.
        """
        from vllm import SamplingParams

        texts, settings = [], []
        for prompt, row, k in zip(prompts, thoughts, options, strict=True):
            text = chat_text(self.tokenizer, prompt, **self.chat)
            wanted = self.label_ids[: len(labels(k))]
            for thought in row:
                said = neutral(self.tokenizer, thought, spoken=True)
                texts.append(token_ids(self.tokenizer, scored_text(text, said)))
                settings.append(
                    SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=wanted)
                )
        outputs = iter(self._generate(texts, settings))
        return [
            np.stack([self._probabilities(next(outputs), k) for _ in row])
            for row, k in zip(thoughts, options, strict=True)
        ]

    def _probabilities(self, output: Any, options: int) -> np.ndarray:
        given = output.outputs[0].logprobs[0]
        scores = np.array([given[token].logprob for token in self.label_ids[:options]], np.float64)
        if not np.isfinite(scores).all():
            raise UserError("gave NaN logits", where=self.name, fix="Try another dtype.")
        return softmax(scores)

    def _generate(self, texts: Sequence[list[int]], settings: Sequence[Any]) -> list[Any]:
        return self._llm.generate(
            [{"prompt_token_ids": ids} for ids in texts], list(settings), use_tqdm=False
        )


@contextlib.contextmanager
def _started(name: str, tensor_parallel: int) -> Iterator[None]:
    """Say in one line why vLLM's processes did not start; the details are in their own messages."""
    import torch

    there = torch.cuda.device_count()
    if 0 < there < tensor_parallel:
        raise UserError(
            f"asks for {tensor_parallel} GPUs, there are {there}", where="--tensor-parallel"
        )
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise UserError(
            f"vLLM cannot start: {reason}", where=name, fix="Its own messages stand above."
        ) from error


def _longest(folder: str) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config()
    return getattr(config, "max_position_embeddings", None) or 2**31


def _guide(sampling: Sampling, options: int) -> Any:
    """Force the headings of the decision format and a label of the list, by a regular expression.

    A field has at least one word, and its share of the tokens counted as characters.
    """
    from vllm.sampling_params import StructuredOutputsParams

    most = max(1, _CHARACTERS * sampling.max_tokens // len(FIELDS) - 40)
    fields = "".join(rf"{name}: [A-Za-z][^\n]{{0,{most}}}\n" for name in FIELDS)
    choice = "".join(labels(options))
    return StructuredOutputsParams(regex=rf"Thought:\n{fields}Behavior: \[[{choice}]\]")


def _load(settings: EngineSettings) -> VllmEngine:
    folder = assets.resolve_model(settings.model)
    name = settings.name or settings.model
    chat = read_settings(settings.chat_template_kwargs)
    return VllmEngine(folder, name, settings.dtype, settings.tensor_parallel, chat)


ENGINE = EngineKind(load=_load, options=("tensor_parallel",), part_scenes=256)

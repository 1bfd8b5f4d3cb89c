"""Sentence embeddings of item texts, for content candidates.

How the vectors of a text's tokens become one (mean, first or last token) and what is put in front
of the text differ between encoders. A model that was made with sentence-transformers says both in
its folder (`modules.json`, `1_Pooling/config.json`, `config_sentence_transformers.json`), which is
read without that library; an `Encoding` overrides it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.scenes.embed_batches import Kept, batches

Pooling = Literal["own", "mean", "cls", "last"]
Library = Literal["transformers", "sentence-transformers"]
Progress = Callable[..., None]

_LONGEST = 256
_TOKENIZED = 10_000  # texts at once
#: Names of a pooling in sentence-transformers' files, older and newer ones, and ours.
_POOLINGS: Mapping[str, Pooling] = {
    "cls_token": "cls",
    "cls": "cls",
    "mean_tokens": "mean",
    "mean": "mean",
    "lasttoken": "last",
}
#: Modules of sentence-transformers that are computed here: rows are normalised in any case.
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_INSTALL = 'Install it: pip install sentence-transformers, and ask for "sentence-transformers".'


@dataclass(frozen=True)
class Encoding:
    """How texts become vectors.

    Args:
        pooling: `mean` of the tokens, `cls` (first token), `last` token, or `own`: what the
            model's folder says, mean if it says nothing.
        prompt: Put in front of every text. The name of a prompt in the model's folder stands for
            that prompt; None is the folder's default prompt, if it names one.
        library: What computes them; `sentence-transformers` must be installed.
    """

    pooling: Pooling = "own"
    prompt: str | None = None
    library: Library = "transformers"


def resolved(model: str, encoding: Encoding | None = None) -> Encoding:
    """Return the encoding with everything filled in that a local model folder says.

    Args:
        model: Local folder of an encoder.
        encoding: What is asked for; by default all is the model's own.

    Raises:
        UserError: if the folder asks for something that only sentence-transformers computes.
    """
    asked = encoding or Encoding()
    prompt = _prompt(Path(model), asked.prompt)
    if asked.library == "sentence-transformers":
        if asked.pooling != "own":
            raise UserError(
                "sentence-transformers pools as the model says", where=model, fix="Give no pooling."
            )
        return replace(asked, prompt=prompt)
    pooling = _own_pooling(Path(model), prompt) if asked.pooling == "own" else asked.pooling
    return replace(asked, pooling=pooling, prompt=prompt)


def embed(
    texts: Sequence[str],
    model: str,
    progress: Progress = lambda texts, kept=False: None,
    encoding: Encoding | None = None,
    kept: Kept | None = None,
) -> np.ndarray:
    """Embed texts.

    Args:
        texts: n texts.
        model: Local folder of an encoder.
        progress: Called with the number of texts just embedded, and True if they had been kept.
        encoding: How; by default as the model's folder says.
        kept: Vectors of this encoder and encoding from earlier runs; new ones are added.

    Returns:
        float32 [n, d], each row of length 1; equal texts have equal rows.

    Raises:
        UserError: if the model cannot be loaded, or its folder asks for what is not there.
    """
    how = resolved(model, encoding)
    through = _Library if how.library == "sentence-transformers" else _Transformer
    encoder: _Encoder = through(model, how)
    unique = sorted(set(texts))
    vectors: dict[str, np.ndarray] = {}
    for batch in batches(unique, encoder.widths(unique)):
        rows = kept.get(batch) if kept else None
        if rows is not None:
            progress(len(batch), True)
        else:
            rows = encoder.encode(batch)
            progress(len(batch))
            if kept:
                kept.put(batch, rows)
        vectors.update(zip(batch, rows, strict=True))
    return np.stack([vectors[text] for text in texts])


def pooled(hidden: Any, mask: Any, pooling: str) -> Any:
    """Return one vector for each text.

    Args:
        hidden: Tensor [b, tokens, d] of the last layer.
        mask: Tensor [b, tokens], 1 where a token is of the text, 0 where it is padding on either
            side. A text has one token or more.
        pooling: `mean`, `cls` or `last`.

    Returns:
        Tensor float32 [b, d].
    """
    import torch

    if pooling == "mean":
        weight = mask.unsqueeze(-1)
        return (hidden.float() * weight).sum(1) / weight.sum(1)
    first, from_end = mask.argmax(1), mask.flip(1).argmax(1)
    place = first if pooling == "cls" else mask.shape[1] - 1 - from_end
    return hidden[torch.arange(len(hidden), device=hidden.device), place].float()


class _Encoder(Protocol):
    """What embeds a batch; networks are loaded when the first batch comes."""

    def __init__(self, model: str, how: Encoding) -> None: ...

    def widths(self, texts: Sequence[str]) -> list[int]:
        """Return about how many tokens each text has, cut at the longest that is read."""

    def encode(self, batch: list[str]) -> np.ndarray:
        """Return float32 [len(batch), d], rows of length 1."""


class _Transformer:
    def __init__(self, model: str, how: Encoding) -> None:
        from transformers import AutoTokenizer

        from usermirrorer.builders.common.models import explained

        self._model, self._how = model, how
        with explained(model):
            self._tokenizer = AutoTokenizer.from_pretrained(model)
        # Models that count positions from the left need no mending.
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokens = _tokens(Path(model), self._tokenizer)

    def widths(self, texts: Sequence[str]) -> list[int]:
        most = min(_LONGEST, self._tokenizer.model_max_length)
        counts: list[int] = []
        for first in range(0, len(texts), _TOKENIZED):
            part = [self._prompted(text) for text in texts[first : first + _TOKENIZED]]
            rows = self._tokenizer(part, truncation=True, max_length=most)["input_ids"]
            counts += [max(1, len(row)) for row in rows]
        return counts

    def encode(self, batch: list[str]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            inputs = self._tokens([self._prompted(text) for text in batch]).to(self._network.device)
            hidden = self._network(**inputs).last_hidden_state
            vectors = pooled(hidden, inputs["attention_mask"], self._how.pooling)
            unit = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return np.asarray(unit, np.float32)

    def _prompted(self, text: str) -> str:
        return (self._how.prompt or "") + text

    @functools.cached_property
    def _network(self) -> Any:
        import torch
        from transformers import AutoModel

        from usermirrorer.builders.common.models import explained

        with explained(self._model):
            network = AutoModel.from_pretrained(self._model)
        return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _tokens(folder: Path, tokenizer: Any) -> Callable[[list[str]], Any]:
    """Return a function that tokenizes a batch.

    Encoders such as GTE-Qwen2 read a text at its end token, which their tokenizer adds in code of
    its own only; code of a model is never run, but its setting `add_eos_token` is heeded.
    """
    settings = _read(folder / "tokenizer_config.json") or {}
    ends = settings.get("add_eos_token") and tokenizer("a")["input_ids"][-1:] != [
        tokenizer.eos_token_id
    ]
    longest = min(_LONGEST, tokenizer.model_max_length)

    def tokens(batch: list[str]) -> Any:
        inputs = tokenizer(batch, truncation=True, max_length=longest - bool(ends))
        if ends:
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
                ids.append(tokenizer.eos_token_id)
                mask.append(1)
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return tokenizer.pad(inputs, return_tensors="pt")

    return tokens


class _Library:
    """By sentence-transformers."""

    def __init__(self, model: str, how: Encoding) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                "sentence-transformers is not installed",
                fix="Install it: pip install sentence-transformers.",
            ) from error

        from usermirrorer.builders.common.models import explained

        with explained(model):
            network = SentenceTransformer(model, trust_remote_code=False)
        # The library's own limit may be thousands of tokens, many times what an item needs.
        network.max_seq_length = min(network.max_seq_length or _LONGEST, _LONGEST)
        self._network, self._how = network, how

    def widths(self, texts: Sequence[str]) -> list[int]:
        return [min(_LONGEST, len(text) // 4 + 2) for text in texts]

    def encode(self, batch: list[str]) -> np.ndarray:
        vectors = self._network.encode(
            batch,
            prompt=self._how.prompt or None,
            batch_size=len(batch),
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)


def _prompt(folder: Path, asked: str | None) -> str:
    config = _read(folder / "config_sentence_transformers.json") or {}
    prompts = config.get("prompts") or {}
    if asked is None:
        return str(prompts.get(config.get("default_prompt_name"), ""))
    return str(prompts.get(asked, asked))


def _own_pooling(folder: Path, prompt: str) -> Pooling:
    """Return the pooling of sentence-transformers' files, the mean where there are none."""
    modules = _read(folder / "modules.json")
    if modules is None:
        return "mean"
    paths = {str(module["type"]).rpartition(".")[2]: module.get("path", "") for module in modules}
    if unknown := [name for name in paths if name not in _KNOWN_MODULES]:
        raise UserError(f"embeds by a module {unknown[0]}", where=folder, fix=_INSTALL)
    config = _read(folder / paths.get("Pooling", "1_Pooling") / "config.json") or {}
    flags = [
        name.removeprefix("pooling_mode_")
        for name, on in config.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    named = config.get("pooling_mode") or flags or ["mean"]
    names = [named] if isinstance(named, str) else list(named)
    if len(names) != 1 or names[0] not in _POOLINGS:
        raise UserError(f"pools by {', '.join(names)}", where=folder, fix=_INSTALL)
    if prompt and not config.get("include_prompt", True):
        raise UserError("leaves its prompt out of the mean", where=folder, fix=_INSTALL)
    return _POOLINGS[names[0]]


def _read(path: Path) -> Any:
    return storage.read_json(path) if path.is_file() else None

"""Sentence embeddings of item texts, for content candidates.

How the vectors of a text's tokens become one (mean, first or last token) and what is put in front
of the text differ between encoders. A model that was made with sentence-transformers says both in
its folder (`modules.json`, `1_Pooling/config.json`, `config_sentence_transformers.json`), which is
read without that library; an `Encoding` overrides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError

Pooling = Literal["own", "mean", "cls", "last"]
Library = Literal["transformers", "sentence-transformers"]
Progress = Callable[[int], None]

_BATCH_TOKENS = 8192
_LONGEST = 256
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
    progress: Progress = lambda texts: None,
    encoding: Encoding | None = None,
) -> np.ndarray:
    """Embed texts.

    Args:
        texts: n texts.
        model: Local folder of an encoder.
        progress: Called with the number of texts just embedded.
        encoding: How; by default as the model's folder says.

    Returns:
        float32 [n, d], each row of length 1; equal texts have equal rows.

    Raises:
        UserError: if the model cannot be loaded, or its folder asks for what is not there.
    """
    how = resolved(model, encoding)
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    through = _library if how.library == "sentence-transformers" else _transformer
    vectors: dict[str, np.ndarray] = {}
    encode = through(model, how)
    for batch in _batches(unique):
        vectors.update(zip(batch, encode(batch), strict=True))
        progress(len(batch))
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


def _transformer(model: str, how: Encoding) -> Callable[[list[str]], np.ndarray]:
    """Return a function that embeds a batch."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from usermirrorer.builders.common.models import explained

    with explained(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModel.from_pretrained(model)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    tokenizer.padding_side = "right"  # models that count positions from the left need no mending
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokens = _tokens(Path(model), tokenizer)

    @torch.inference_mode()
    def encode(batch: list[str]) -> np.ndarray:
        inputs = tokens([(how.prompt or "") + text for text in batch]).to(network.device)
        hidden = network(**inputs).last_hidden_state
        vectors = pooled(hidden, inputs["attention_mask"], how.pooling)
        return np.asarray(torch.nn.functional.normalize(vectors, dim=1).cpu().numpy(), np.float32)

    return encode


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


def _library(model: str, how: Encoding) -> Callable[[list[str]], np.ndarray]:
    """Return a function that embeds a batch by sentence-transformers."""
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
    # The library's own limit may be thousands of tokens, many times what an item's text needs.
    network.max_seq_length = min(network.max_seq_length or _LONGEST, _LONGEST)

    def encode(batch: list[str]) -> np.ndarray:
        vectors = network.encode(
            batch,
            prompt=how.prompt or None,
            batch_size=len(batch),
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)

    return encode


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


def _batches(texts: Sequence[str]) -> list[list[str]]:
    """Group texts of similar length, so that little is padding (about 3 characters per token)."""
    batches: list[list[str]] = [[]]
    for text in texts:
        width = min(_LONGEST, len(text) // 3 + 2)
        if batches[-1] and (len(batches[-1]) + 1) * width > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(text)
    return batches if batches[0] else []

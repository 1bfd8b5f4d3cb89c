"""The embedded engine: n branches over one prompt, its keys and values computed once.

Sampling n decisions for a scene, or scoring n of them, is attention over a tree: the trunk is the
prompt, each sample a branch. All branches advance in one forward pass as columns of the same row,
under a mask that lets each see the trunk and itself alone. So the prompt is neither recomputed nor
copied n times, and the system prompt, shared by all scenes, is computed once per engine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from usermirrorer.builders.engines import Generation, Sampling
from usermirrorer.builders.engines.attention import growing_cache, share_groups
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.prompts import FIELDS, LABEL_PREFIX, Message
from usermirrorer.builders.schema import LABELS, labels

_NUCLEUS = 512  # likeliest tokens looked at before falling back to a full sort


@dataclass
class _Trunk:
    """Keys and values of a batch of prompts.

    `ids` are the prompts' tokens, `valid` [b, p] marks the columns that are not padding, `lengths`
    [b] the number of prompt tokens, `logits` [b, vocabulary] those after the last one.
    """

    ids: list[list[int]]
    cache: Cache
    valid: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor

    @property
    def width(self) -> int:
        return self.valid.shape[1]


@dataclass
class _Branch:
    """One sample on its way: what it has, what is forced next, where in the format it is."""

    uniforms: np.ndarray
    options: int
    cap: int
    queue: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    heading: int = 0
    in_field: int = 0
    drawn: int = 0
    finished: bool = False

    def uniform(self) -> float:
        value = float(self.uniforms[self.drawn])
        self.drawn += 1
        return value


class TransformersEngine:
    """Runs a causal language model of the `transformers` library in this process.

    Args:
        model: A loaded model in evaluation mode.
        tokenizer: Its tokenizer, with a chat template.
        name: How the model is called in stored rows.

    Raises:
        UserError: if an option label is not a single token after `Behavior: [`.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        self.model, self.tokenizer = model, tokenizer
        share_groups(model)
        self.name = name or model.config._name_or_path
        self.label_ids = torch.tensor(_label_ids(tokenizer, self.name), device=model.device)
        self._stop = _stop_ids(model, tokenizer)
        self._system: tuple[list[int], Cache] | None = None
        self._last: tuple[Any, _Trunk] | None = None
        self.batch_scenes = 8

    def count(self, prompt: list[Message]) -> int:
        """Return the number of prompt tokens, chat template included."""
        return len(self._ids(self.text(prompt)))

    def text(self, prompt: list[Message]) -> str:
        """Return the prompt as the model reads it, up to the start of the assistant's turn."""
        return self.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    # -- sampling -----------------------------------------------------------------------------

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[list[Message]],
        options: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Generation]]:
        """Sample `sampling.n` assistant turns for each prompt; see `Engine.sample`."""
        texts = [self.text(prompt) for prompt in prompts]
        trunk = self._trunk(texts)
        rows = [
            [
                self._branch(sampling, options[row], seeds[row], number)
                for number in range(sampling.n)
            ]
            for row in range(len(prompts))
        ]
        if sampling.guided:
            for branch in (branch for row in rows for branch in row):
                self._open_field(branch)
        self._grow(trunk, rows, sampling)
        return [
            [
                Generation(
                    branch.text or self.tokenizer.decode(branch.tokens), length, len(branch.tokens)
                )
                for branch in row
            ]
            for row, length in zip(rows, trunk.lengths.tolist(), strict=True)
        ]

    def _branch(self, sampling: Sampling, options: int, seed: int, number: int) -> _Branch:
        generator = np.random.Generator(np.random.Philox(key=[seed, number]))
        cap = sampling.max_tokens // len(FIELDS) if sampling.guided else sampling.max_tokens
        return _Branch(generator.random(sampling.max_tokens + len(FIELDS) + 1), options, cap)

    def _grow(self, trunk: _Trunk, rows: list[list[_Branch]], sampling: Sampling) -> None:
        """Advance all branches a token at a time until each is finished."""
        device = self.model.device
        owner = torch.empty(len(rows), 0, dtype=torch.long, device=device)
        for row, logits in zip(rows, trunk.logits, strict=True):
            self._advance(row, logits.expand(len(row), -1), sampling)
        while any(not branch.finished for row in rows for branch in row):
            active = [[i for i, b in enumerate(row) if not b.finished] for row in rows]
            width = max(len(indices) for indices in active)
            ids = torch.full((len(rows), width), self._stop[0], device=device)
            who = torch.full((len(rows), width), -1, device=device)
            place = torch.zeros((len(rows), width), dtype=torch.long, device=device)
            for r, indices in enumerate(active):
                for column, i in enumerate(indices):
                    ids[r, column], who[r, column] = rows[r][i].tokens[-1], i
                    place[r, column] = int(trunk.lengths[r]) + len(rows[r][i].tokens) - 1
            owner = torch.cat([owner, who], dim=1)
            logits = self._forward(trunk, ids, place, _tree_mask(trunk.valid, owner, who))
            for r, indices in enumerate(active):
                self._advance([rows[r][i] for i in indices], logits[r, : len(indices)], sampling)
        self._crop(trunk)

    def _advance(self, branches: list[_Branch], logits: torch.Tensor, sampling: Sampling) -> None:
        """Append the next token of each branch: the forced one, or one drawn from `logits`."""
        if torch.isnan(logits).any():
            raise UserError("gave NaN logits", where=self.name, fix="Try another dtype.")
        drawn: dict[int, int] = {}
        labels_due = [i for i, b in enumerate(branches) if self._label_due(b, sampling)]
        free = [i for i, b in enumerate(branches) if not b.queue and i not in labels_due]
        if free:
            uniforms = [branches[i].uniform() for i in free]
            weights = logits[free]
            if sampling.guided:  # a field holds at least one word
                fresh = [j for j, i in enumerate(free) if branches[i].in_field == 0]
                weights[fresh] = weights[fresh].masked_fill(self._blank_tokens, -torch.inf)
            drawn.update(zip(free, draw(weights, uniforms, sampling), strict=True))
        for i in labels_due:
            ids = self.label_ids[: branches[i].options]
            choice = draw(logits[i : i + 1, ids], [branches[i].uniform()], sampling)[0]
            self._finish_guided(branches[i], choice, int(ids[choice]))
        for i, branch in enumerate(branches):
            if i not in labels_due:
                self._append(branch, drawn.get(i), sampling)

    def _label_due(self, branch: _Branch, sampling: Sampling) -> bool:
        return sampling.guided and branch.heading > len(FIELDS) and not branch.queue

    def _append(self, branch: _Branch, token: int | None, sampling: Sampling) -> None:
        if token is None:
            branch.tokens.append(branch.queue.pop(0))
            return
        if sampling.guided:
            if token in self._breaks or branch.in_field >= branch.cap:
                self._close_field(branch)
            else:
                branch.tokens.append(token)
                branch.in_field += 1
            return
        if token in self._stop:
            branch.finished = True
            return
        branch.tokens.append(token)
        branch.finished = len(branch.tokens) >= branch.cap

    def _open_field(self, branch: _Branch) -> None:
        """Force the next heading, or the Behavior line after the last field."""
        lead = "Thought:" if branch.heading == 0 else ""
        name = FIELDS[branch.heading] + ":" if branch.heading < len(FIELDS) else LABEL_PREFIX
        branch.queue = self._ids(f"{lead}\n{name}" if branch.heading or lead else name)
        branch.heading += 1
        branch.in_field = 0

    def _close_field(self, branch: _Branch) -> None:
        self._open_field(branch)
        branch.tokens.append(branch.queue.pop(0))

    def _finish_guided(self, branch: _Branch, choice: int, token: int) -> None:
        branch.text = self.tokenizer.decode(branch.tokens) + f"{LABELS[choice]}]"
        branch.tokens.append(token)
        branch.finished = True

    @functools.cached_property
    def _breaks(self) -> set[int]:
        """Tokens that end a field: end of turn, and all with a line break."""
        return {i for i, piece in enumerate(self._pieces) if "\n" in piece} | set(self._stop)

    @functools.cached_property
    def _blank_tokens(self) -> torch.Tensor:
        """Mask [vocabulary] of tokens that a field cannot begin with."""
        size = self.model.get_output_embeddings().weight.shape[0]
        blank = torch.ones(size, dtype=torch.bool)
        for i, piece in enumerate(self._pieces[:size]):
            blank[i] = not piece.strip() or i in self._breaks
        return blank.to(self.model.device)

    @functools.cached_property
    def _pieces(self) -> list[str]:
        return self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])

    # -- scoring ------------------------------------------------------------------------------

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[list[Message]],
        thoughts: Sequence[Sequence[str]],
        options: Sequence[int],
    ) -> list[np.ndarray]:
        """Score the labels after each thought in one short forward; see `Engine.score`."""
        texts = [self.text(prompt) for prompt in prompts]
        trunk = self._trunk(texts)
        tails = [
            [self._tail(trunk.ids[r], texts[r], thought) for thought in row]
            for r, row in enumerate(thoughts)
        ]
        logits = self._forward_tails(trunk, tails)
        self._crop(trunk)
        results = []
        for row, k in zip(logits, options, strict=True):
            of_labels = row[:, self.label_ids[: len(labels(k))]].double()
            if torch.isnan(of_labels).any():
                raise UserError("gave NaN logits", where=self.name, fix="Try another dtype.")
            results.append(torch.softmax(of_labels, dim=-1).cpu().numpy())
        return results

    def _tail(self, prompt: list[int], text: str, thought: str) -> tuple[int, list[int]]:
        """Tokens after the prompt, and how many prompt tokens stay valid before them.

        The text is tokenised as a whole, as a plain reader of it would do; where that merges over
        the prompt's end, the merged prompt tokens are left out of the branch's view.
        """
        ending = f"{thought.rstrip()}\n{LABEL_PREFIX}" if thought else LABEL_PREFIX
        whole = self._ids(text + ending)
        shared = 0
        for a, b in zip(prompt, whole, strict=False):
            if a != b:
                break
            shared += 1
        return shared, whole[shared:]

    def _forward_tails(
        self, trunk: _Trunk, tails: list[list[tuple[int, list[int]]]]
    ) -> list[torch.Tensor]:
        device = self.model.device
        width = max(sum(len(ids) for _, ids in row) for row in tails)
        ids = torch.full((len(tails), width), self._stop[0], device=device)
        place = torch.zeros((len(tails), width), dtype=torch.long, device=device)
        who = torch.full((len(tails), width), -1, device=device)
        visible = torch.zeros((len(tails), width), dtype=torch.long, device=device)
        ends: list[list[int]] = []
        for r, row in enumerate(tails):
            column, ends_of_row = 0, []
            for branch, (shared, tail) in enumerate(row):
                span = slice(column, column + len(tail))
                ids[r, span] = torch.tensor(tail, device=device)
                place[r, span] = torch.arange(shared, shared + len(tail), device=device)
                who[r, span], visible[r, span] = branch, shared
                column += len(tail)
                ends_of_row.append(column - 1)
            ends.append(ends_of_row)
        mask = _tree_mask(trunk.valid, who, who)
        mask[:, 0, :, trunk.width :] &= torch.ones(width, width, device=device).tril().bool()
        # Columns of the trunk that a branch re-tokenised are hidden from it.
        position = trunk.valid.cumsum(1) - 1
        mask[:, 0, :, : trunk.width] &= position[:, None, :] < visible[:, :, None]
        hidden = self._forward(trunk, ids, place, mask, hidden=True)
        return [self._head(hidden[r, ends_of_row]) for r, ends_of_row in enumerate(ends)]

    # -- the model ----------------------------------------------------------------------------

    def _trunk(self, texts: list[str]) -> _Trunk:
        """Compute, or take from the call before, the keys and values of a batch of prompts."""
        key = tuple(texts)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = (key, self._prefill([self._ids(text) for text in texts]))
        return self._last[1]

    def _prefill(self, ids: list[list[int]]) -> _Trunk:
        device = self.model.device
        prefix = self._shared_prefix(ids)
        start = len(prefix)
        rest = max(len(row) for row in ids) - start
        tokens = torch.full((len(ids), rest), self._stop[0], device=device)
        valid = torch.zeros((len(ids), start + rest), dtype=torch.bool, device=device)
        valid[:, :start] = True
        for r, row in enumerate(ids):
            tokens[r, rest - (len(row) - start) :] = torch.tensor(row[start:], device=device)
            valid[r, start + rest - (len(row) - start) :] = True
        place = (valid.cumsum(1) - 1).clamp(min=0)[:, start:]
        causal = torch.ones(rest, start + rest, device=device).tril(diagonal=start).bool()
        mask = (causal[None] & valid[:, None, :])[:, None]
        # A padding column must see something, or its softmax is NaN.
        mask |= torch.eye(start + rest, device=device, dtype=torch.bool)[start:][None, None]
        cache = self._copy_prefix(prefix, len(ids))
        output = self.model(
            input_ids=tokens,
            attention_mask=self._additive(mask),
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        lengths = torch.tensor([len(row) for row in ids])
        return _Trunk(ids, cache, valid, lengths, output.logits[:, -1].float())

    def _shared_prefix(self, ids: list[list[int]]) -> list[int]:
        """Tokens that all prompts start with, at least one short of the shortest prompt."""
        known = self._system[0] if self._system else None
        shortest = min(len(row) for row in ids)
        if known and len(known) < shortest and all(row[: len(known)] == known for row in ids):
            return known
        length = 0
        if len(ids) > 1:
            while length < shortest - 1 and len({row[length] for row in ids}) == 1:
                length += 1
        return ids[0][:length]

    def _copy_prefix(self, prefix: list[int], rows: int) -> Cache:
        cache = growing_cache()
        if not prefix:
            return cache
        if self._system is None or self._system[0] != prefix:
            fresh = growing_cache()
            ids = torch.tensor([prefix], device=self.model.device)
            self.model(input_ids=ids, past_key_values=fresh, use_cache=True, logits_to_keep=1)
            self._system = (prefix, fresh)
        layers: list[Any] = self._system[1].layers
        for number, layer in enumerate(layers):
            cache.update(
                layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number
            )
        return cache

    def _forward(
        self,
        trunk: _Trunk,
        ids: torch.Tensor,
        place: torch.Tensor,
        mask: torch.Tensor,
        hidden: bool = False,
    ) -> torch.Tensor:
        body = self.model.base_model if hidden else self.model
        output = body(
            input_ids=ids,
            attention_mask=self._additive(mask),
            position_ids=place,
            past_key_values=trunk.cache,
            use_cache=True,
        )
        return output.last_hidden_state if hidden else output.logits.float()

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.get_output_embeddings()(hidden).float()

    def _additive(self, mask: torch.Tensor) -> torch.Tensor:
        """Turn a bool mask [b, 1, q, k] into the additive form that every attention accepts."""
        kind = self.model.dtype
        zero = torch.zeros((), dtype=kind, device=mask.device)
        return torch.where(mask, zero, torch.finfo(kind).min)

    def _crop(self, trunk: _Trunk) -> None:
        extra = trunk.cache.get_seq_length() - trunk.width
        if extra > 0:
            trunk.cache.crop(-extra)


def draw(logits: torch.Tensor, uniforms: Sequence[float], sampling: Sampling) -> list[int]:
    """Draw one index a row by temperature and top-p with given uniforms: exact and reproducible.

    Args:
        logits: [rows, vocabulary].
        uniforms: One number in [0, 1) a row; the draw is their inverse CDF over the nucleus,
            likeliest first.
        sampling: Temperature and top-p.

    Returns:
        One vocabulary index a row.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    scaled = logits.float() / sampling.temperature
    total = scaled.logsumexp(-1, keepdim=True)
    count = min(_NUCLEUS, logits.shape[-1])
    values, indices = scaled.topk(count, dim=-1)
    if count < logits.shape[-1] and ((values - total).exp().sum(-1) < sampling.top_p).any():
        values, indices = scaled.sort(dim=-1, descending=True)
    cumulative = (values - total).exp().double().cumsum(-1)
    inside = (cumulative < sampling.top_p).sum(-1).clamp(max=cumulative.shape[-1] - 1)
    mass = cumulative.gather(-1, inside[:, None])
    point = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * mass
    chosen = (cumulative <= point).sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
    return indices.gather(-1, chosen).squeeze(-1).tolist()


def _tree_mask(valid: torch.Tensor, owner: torch.Tensor, who: torch.Tensor) -> torch.Tensor:
    """Mask [b, 1, q, p + t]: a query sees the valid trunk and the columns of its own branch.

    Args:
        valid: [b, p] of bool.
        owner: [b, t], branch of each column after the trunk.
        who: [b, q], branch of each query; -1 is padding.
    """
    trunk = valid[:, None, :].expand(-1, who.shape[1], -1)
    own = owner[:, None, :] == who[:, :, None]
    return torch.cat([trunk, own], dim=2)[:, None]


def _label_ids(tokenizer: Any, name: str) -> list[int]:
    base = tokenizer(LABEL_PREFIX, add_special_tokens=False).input_ids
    found = []
    for label in LABELS:
        ids = tokenizer(LABEL_PREFIX + label, add_special_tokens=False).input_ids
        if ids[: len(base)] != base or len(ids) != len(base) + 1:
            raise UserError(
                f"does not write label {label!r} as one token after {LABEL_PREFIX!r}",
                where=name,
                fix="Options are scored by one token: choose a model with another tokenizer.",
            )
        found.append(ids[-1])
    return found


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    stop = [ids] if isinstance(ids, int) else list(ids or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stop:
        stop.append(tokenizer.eos_token_id)
    if not stop:
        raise UserError("has no end-of-turn token", where=str(model.config._name_or_path))
    return stop

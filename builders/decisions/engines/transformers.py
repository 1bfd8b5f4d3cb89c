"""The embedded engine: n branches over one prompt, its keys and values computed once.

Sampling n decisions for a scene, or scoring n of them, is attention over a tree: the trunk is the
prompt, each sample a branch. All branches advance in one forward pass as columns of the same row,
under a mask that lets each see the trunk and itself alone. So the prompt is neither recomputed nor
copied n times, and the system prompt, shared by all scenes, is computed once per engine.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from transformers.cache_utils import Cache

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import fast_dtype, load_causal_lm
from usermirrorer.builders.common.schema import LABELS, labels
from usermirrorer.builders.common.transformers_internals import is_recurrent
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
from usermirrorer.builders.decisions.engines.attention import growing_cache, share_groups
from usermirrorer.builders.decisions.engines.base import (
    EngineKind,
    EngineSettings,
    Generation,
    Sampling,
)
from usermirrorer.builders.decisions.engines.label_logits import unrounded
from usermirrorer.builders.decisions.prompts import FIELDS, LABEL_PREFIX, Message
from usermirrorer.builders.decisions.uncertainty import softmax

_NUCLEUS = 512  # likeliest tokens looked at before falling back to a full sort
#: What the allocators of torch and of the system say when there is no more memory.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
_T = TypeVar("_T")


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

    @property
    def places(self) -> torch.Tensor:
        return _places(self.valid)


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
        batch_scenes: Scenes at a time; halved for good when the memory does not suffice.
        chat: What the chat template is given beside the chat, see `decisions/chat.py`.

    Raises:
        UserError: if an option label is not a single token after `Behavior: [`, or if the model has
            layers that cannot look at a tree of tokens.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "",
        batch_scenes: int = 8,
        chat: Settings | None = None,
    ) -> None:
        self.model, self.tokenizer, self.chat = model, tokenizer, dict(chat or {})
        share_groups(model)
        self.name = name or model.config.name_or_path
        self.batch_scenes = batch_scenes
        self.label_ids = torch.tensor(label_ids(tokenizer, self.name), device=model.device)
        self._stop = _stop_ids(model, tokenizer)
        self._kinds, self._window = _layer_kinds(model, self.name)
        #: Told, after every token, what each sample of each prompt says so far.
        self.watch: Callable[[list[list[str]]], None] | None = None
        self._system: tuple[list[int], Cache] | None = None
        self._last: tuple[Any, _Trunk] | None = None

    @property
    def context(self) -> int:
        """Longest text in tokens that the model was made for."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or 2**31

    def count(self, prompt: list[Message]) -> int:
        """Return the number of prompt tokens, chat template included."""
        return count_tokens(self.tokenizer, prompt, **self.chat)

    def text(self, prompt: list[Message]) -> str:
        """Return the prompt as the model reads it, up to the start of the assistant's turn."""
        return chat_text(self.tokenizer, prompt, **self.chat)

    def _ids(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text)

    def _halving(self, work: Callable[[slice], list[_T]], scenes: int) -> list[_T]:
        """Run `work` on all scenes; where the memory does not suffice, on half as many at a time.

        Raises:
            UserError: if it does not suffice for a single scene.
        """
        done: list[_T] = []
        size = scenes
        while len(done) < scenes:
            try:
                done += work(slice(len(done), len(done) + size))
                continue
            except (MemoryError, RuntimeError) as error:
                if not _no_memory(error):
                    raise
                if size == 1:
                    raise UserError(
                        "the memory does not suffice for one scene",
                        where=self.name,
                        fix="Lower --samples or --max-tokens, or take a smaller model or dtype.",
                    ) from error
            # Only here, with the error and its frames gone, are the tensors of the attempt free.
            self._last = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size = (size + 1) // 2
            self.batch_scenes = min(self.batch_scenes, size)
        return done

    # -- sampling -----------------------------------------------------------------------------

    def sample(
        self,
        prompts: Sequence[list[Message]],
        options: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Generation]]:
        """Sample `sampling.n` assistant turns for each prompt; see `Engine.sample`."""
        texts = [self.text(prompt) for prompt in prompts]
        if sampling.guided:
            texts = [closed(text) for text in texts]
        return self._halving(
            lambda part: self._sample(texts[part], options[part], sampling, seeds[part]), len(texts)
        )

    @torch.inference_mode()
    def _sample(
        self, texts: list[str], options: Sequence[int], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        trunk = self._trunk(texts)
        rows = [
            [self._branch(sampling, k, seed, number) for number in range(sampling.n)]
            for k, seed in zip(options, seeds, strict=True)
        ]
        if sampling.guided:
            for branch in (branch for row in rows for branch in row):
                self._open_field(branch)
        self._grow(trunk, rows, sampling)
        return [
            [
                Generation(
                    opened(text) + (branch.text or self.tokenizer.decode(branch.tokens)),
                    length,
                    len(branch.tokens),
                )
                for branch in row
            ]
            for text, row, length in zip(texts, rows, trunk.lengths.tolist(), strict=True)
        ]

    def _branch(self, sampling: Sampling, options: int, seed: int, number: int) -> _Branch:
        generator = np.random.Generator(np.random.Philox(key=[seed, number]))
        cap = sampling.max_tokens // len(FIELDS) if sampling.guided else sampling.max_tokens
        return _Branch(generator.random(sampling.max_tokens + len(FIELDS) + 1), options, cap)

    def _grow(self, trunk: _Trunk, rows: list[list[_Branch]], sampling: Sampling) -> None:
        """Advance all branches a token at a time until each is finished."""
        device = self.model.device
        owner = torch.empty(len(rows), 0, dtype=torch.long, device=device)
        places = owner
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
            places = torch.cat([places, place], dim=1)
            mask = _tree_mask(trunk.valid, owner, who)
            logits = self._forward(trunk, ids, place, places, mask)
            for r, indices in enumerate(active):
                self._advance([rows[r][i] for i in indices], logits[r, : len(indices)], sampling)
            if self.watch is not None:
                self.watch([[b.text or self.tokenizer.decode(b.tokens) for b in r] for r in rows])

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

    def score(
        self,
        prompts: Sequence[list[Message]],
        thoughts: Sequence[Sequence[str]],
        options: Sequence[int],
    ) -> list[np.ndarray]:
        """Score the labels after each thought in one short forward; see `Engine.score`."""
        texts = [self.text(prompt) for prompt in prompts]
        return self._halving(
            lambda part: self._score(texts[part], thoughts[part], options[part]), len(texts)
        )

    @torch.inference_mode()
    def _score(
        self, texts: list[str], thoughts: Sequence[Sequence[str]], options: Sequence[int]
    ) -> list[np.ndarray]:
        trunk = self._trunk(texts)
        tails = [
            [self._tail(trunk.ids[r], texts[r], thought) for thought in row]
            for r, row in enumerate(thoughts)
        ]
        with unrounded(self.model, self.label_ids):
            logits = self._forward_tails(trunk, tails)
        results = []
        for row, k in zip(logits, options, strict=True):
            of_labels = row[:, self.label_ids[: len(labels(k))]].double()
            if torch.isnan(of_labels).any():
                raise UserError("gave NaN logits", where=self.name, fix="Try another dtype.")
            results.append(softmax(of_labels.cpu().numpy()))
        return results

    def _tail(self, prompt: list[int], text: str, thought: str) -> tuple[int, list[int]]:
        """Tokens after the prompt, and how many prompt tokens stay valid before them.

        The text is tokenised as a whole, as a plain reader of it would do; where that merges over
        the prompt's end, the merged prompt tokens are left out of the branch's view.
        """
        whole = self._ids(scored_text(text, neutral(self.tokenizer, thought, spoken=True)))
        shared = 0
        for a, b in zip(prompt, whole, strict=False):
            if a != b:
                break
            shared += 1
        return shared, whole[shared:]

    def _forward_tails(
        self, trunk: _Trunk, tails: list[list[tuple[int, list[int]]]]
    ) -> list[torch.Tensor]:
        """Return the logits after each tail, [tails of the row, vocabulary] per row.

        The last tokens of all tails stand in the last columns, so that the model's own head (with
        whatever it scales or caps) is computed there alone.
        """
        device = self.model.device
        count = max(len(row) for row in tails)
        bodies = max(sum(len(ids) - 1 for _, ids in row) for row in tails)
        width = bodies + count
        ids = torch.full((len(tails), width), self._stop[0], device=device)
        place = torch.zeros((len(tails), width), dtype=torch.long, device=device)
        who = torch.full((len(tails), width), -1, device=device)
        visible = torch.zeros((len(tails), width), dtype=torch.long, device=device)
        for r, row in enumerate(tails):
            column = 0
            for branch, (shared, tail) in enumerate(row):
                columns = [*range(column, column + len(tail) - 1), bodies + branch]
                ids[r, columns] = torch.tensor(tail, device=device)
                place[r, columns] = torch.arange(shared, shared + len(tail), device=device)
                who[r, columns], visible[r, columns] = branch, shared
                column += len(tail) - 1
        mask = _tree_mask(trunk.valid, who, who)
        mask[:, 0, :, trunk.width :] &= torch.ones(width, width, device=device).tril().bool()
        # Columns of the trunk that a branch re-tokenised are hidden from it.
        mask[:, 0, :, : trunk.width] &= trunk.places[:, None, :] < visible[:, :, None]
        logits = self._forward(trunk, ids, place, place, mask, keep=count)
        return [logits[r, : len(row)] for r, row in enumerate(tails)]

    # -- the model ----------------------------------------------------------------------------

    def _trunk(self, texts: list[str]) -> _Trunk:
        """Compute, or take from the call before, the keys and values of a batch of prompts."""
        key = tuple(texts)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = (key, self._prefill([self._ids(text) for text in texts]))
        trunk = self._last[1]
        branches = trunk.cache.get_seq_length() - trunk.width  # of the call before
        if branches:
            trunk.cache.crop(-branches)
        return trunk

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
        place = _places(valid)[:, start:]
        causal = torch.ones(rest, start + rest, device=device).tril(diagonal=start).bool()
        mask = (causal[None] & valid[:, None, :])[:, None]
        # A padding column must see something, or its softmax is NaN.
        mask |= torch.eye(start + rest, device=device, dtype=torch.bool)[start:][None, None]
        cache = self._copy_prefix(prefix, len(ids))
        output = self.model(
            input_ids=tokens,
            attention_mask=self._masks(mask, place, _places(valid)),
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
        places: torch.Tensor,
        mask: torch.Tensor,
        keep: int = 0,
    ) -> torch.Tensor:
        """Return the logits of new columns (of the last `keep` alone, unless it is 0).

        Args:
            trunk: What they follow; its cache grows by them.
            ids: [b, q] tokens of the new columns.
            place: [b, q] their positions in the text.
            places: [b, t] positions of all columns after the trunk.
            mask: [b, 1, q, p + t], what each may see.
            keep: Number of last columns.
        """
        columns = torch.cat([trunk.places, places], dim=1)
        return self.model(
            input_ids=ids,
            attention_mask=self._masks(mask, place, columns),
            position_ids=place,
            past_key_values=trunk.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits.float()

    def _masks(self, mask: torch.Tensor, place: torch.Tensor, columns: torch.Tensor) -> Any:
        """Return the attention mask in the form the model takes, sliding windows cut out.

        Args:
            mask: Bool [b, 1, q, k].
            place: [b, q] positions of the queries.
            columns: [b, k] positions of the keys.
        """
        full = self._additive(mask)
        if self._window is None or int(place.max()) < self._window:
            return full
        near = place[:, None, :, None] - columns[:, None, None, :] < self._window
        near = self._additive(mask & near)
        return {"full_attention": full, "sliding_attention": near} if len(self._kinds) > 1 else near

    def _additive(self, mask: torch.Tensor) -> torch.Tensor:
        """Turn a bool mask [b, 1, q, k] into the additive form that every attention accepts."""
        kind = self.model.dtype
        zero = torch.zeros((), dtype=kind, device=mask.device)
        return torch.where(mask, zero, torch.finfo(kind).min)


def draw(logits: torch.Tensor, uniforms: Sequence[float], sampling: Sampling) -> list[int]:
    """Draw one index per row by temperature and top-p with given uniforms: exact and reproducible.

    Args:
        logits: [rows, vocabulary].
        uniforms: One number in [0, 1) per row; the draw is their inverse CDF over the nucleus,
            likeliest first.
        sampling: Temperature and top-p.

    Returns:
        One vocabulary index per row.
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


def _places(valid: torch.Tensor) -> torch.Tensor:
    """Return the position in its text of each column, [b, p], from the mask of columns in use."""
    return (valid.cumsum(1) - 1).clamp(min=0)


def _no_memory(error: BaseException) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def _layer_kinds(model: Any, name: str) -> tuple[set[str], int | None]:
    """Return the kinds of a model's layers, and its sliding window where it has one."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    alone = "sliding_attention" if window else "full_attention"
    kinds = set(getattr(config, "layer_types", None) or [alone])
    other = sorted(kinds - {"full_attention", "sliding_attention"})
    if other or is_recurrent(model):
        raise UserError(
            f"has layers that branches over one prompt cannot share ({other or 'recurrent'})",
            where=name,
            fix="Use --engine vllm or an endpoint.",
        )
    return kinds, window if "sliding_attention" in kinds else None


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    stop = [ids] if isinstance(ids, int) else list(ids or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stop:
        stop.append(tokenizer.eos_token_id)
    if not stop:
        raise UserError("has no end-of-turn token", where=str(model.config.name_or_path))
    return stop


def _load(settings: EngineSettings) -> TransformersEngine:
    folder = assets.resolve_model(settings.model)
    return TransformersEngine(
        *load_causal_lm(folder, settings.dtype),
        settings.name or settings.model,
        chat=read_settings(settings.chat_template_kwargs),
    )


ENGINE = EngineKind(load=_load, dtype=fast_dtype)

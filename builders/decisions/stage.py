"""Scenes to decision processes with option probabilities (sections 3.2 and A.2).

    sample: n generations per scene by one model -> parsed, malformed ones counted by reason
    judge:  P(Y | X + D) of each well-formed one by the weak model, from its label logits

Both write Parquet parts (see `storage.py`): a killed run goes on with the first missing part.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import CONTEXT_TOKENS, DECISION
from usermirrorer.builders.decisions import chat
from usermirrorer.builders.decisions.cost import DecisionMeter
from usermirrorer.builders.decisions.engines.base import Engine, Generation, Sampling
from usermirrorer.builders.decisions.prompts import (
    DEFAULT_PROMPTS,
    Message,
    fit,
    parse,
    prompts_hash,
)
from usermirrorer.builders.decisions.uncertainty import entropy

_PART_SCENES = 32


Row = dict[str, Any]


Progress = Callable[[int, bool], None]


Load = Callable[[], Engine]


_T = TypeVar("_T")


def run(
    scenes: Sequence[Row],
    engine: Engine | Load,
    output: Path,
    *,
    model: str,
    sampling: Sampling,
    seed: int,
    judge: bool,
    prompts: Path = DEFAULT_PROMPTS,
    identity: Mapping[str, Any] | None = None,
    part_scenes: int | None = None,
    spread: storage.Spread | None = None,
    meter: DecisionMeter | None = None,
    progress: Progress = lambda scenes, resumed: None,
) -> int:
    """Sample decisions for `scenes` into a Parquet file of schema `DECISION`.

    Args:
        scenes: Rows of schema `SCENE`.
        engine: The model, or a function that loads it, called only if there is work to do.
        output: File to make; parts lie beside it until it is whole.
        model: Name stored with each row.
        sampling: n, temperature, top-p, lengths.
        seed: With the scene's id it fixes every draw.
        judge: Also score with this same model (it is the weak one); otherwise see `judged`.
        prompts: Folder of prompt templates.
        identity: What else of the engine the rows depend on, see `EngineSpec.identity`.
        part_scenes: Scenes a part; what a kill can cost.
        spread: Works on the parts elsewhere (see `engines/ray.py`); `engine` must then load it.
        meter: Counts tokens and seconds.
        progress: Called with the scenes of each finished part, and whether it was resumed.

    Returns:
        The number of scenes that an earlier run had already done.
    """
    config = {
        "stage": "decisions",
        "model": model,
        "engine": dict(identity or {}),
        "scenes": scenes_hash(scenes),
        "sampling": asdict(sampling),
        "seed": seed,
        "judge": judge,
        "prompts": prompts_hash(prompts),
        "chat": _template_settings(engine),
    }
    settings: dict[str, Any] = {"model": model, "sampling": sampling, "seed": seed}
    work = _Worker(engine, functools.partial(_decide, prompts=prompts, judge=judge, **settings))
    return _stage(output, scenes, work, config, part_scenes, spread, progress, meter)


def judged(
    scenes: Sequence[Row],
    decisions: Path,
    engine: Engine | Load,
    output: Path,
    *,
    prompts: Path = DEFAULT_PROMPTS,
    max_tokens: int,
    identity: Mapping[str, Any] | None = None,
    part_scenes: int | None = None,
    spread: storage.Spread | None = None,
    progress: Progress = lambda scenes, resumed: None,
) -> int:
    """Fill `probabilities` and `entropy` of another model's decisions by the judge (weak model).

    Args:
        scenes: The scenes that `decisions` was sampled for.
        decisions: File of schema `DECISION`.
        engine: The judge, or a function that loads it.
        output: File to make.
        prompts: Folder of prompt templates.
        max_tokens: As in the sampling, so that both see the same prompts.
        identity: As in `run`, of the judge.
        part_scenes: As in `run`.
        spread: As in `run`.
        progress: As in `run`.

    Returns:
        The number of scenes that an earlier run had already done.
    """
    config = {
        "stage": "judged",
        "decisions": storage.file_hash(decisions),
        "engine": dict(identity or {}),
        "scenes": scenes_hash(scenes),
        "max_tokens": max_tokens,
        "prompts": prompts_hash(prompts),
        "chat": _template_settings(engine),
    }
    work = _Worker(engine, functools.partial(_judge_all, max_tokens=max_tokens, prompts=prompts))
    rows = _with_decisions(scenes, decisions)
    sampled = storage.read_record(decisions)
    return _stage(output, rows, work, config, part_scenes, spread, progress, sampled=sampled)


def _template_settings(engine: Engine | Load) -> dict[str, Any]:
    """Return what the chat template is given; the identity tells it of engines not yet loaded."""
    return chat.template_settings(getattr(engine, "chat", None))


class _Worker:
    """Works on scenes with an engine that it loads when first needed, wherever it was sent."""

    def __init__(
        self, engine: Engine | Load, job: Callable[[Engine, Sequence[Any]], pa.Table]
    ) -> None:
        self.engine, self.job = engine, job

    def __call__(self, rows: Sequence[Any]) -> pa.Table:
        if callable(self.engine):
            self.engine = self.engine()
        return self.job(self.engine, rows)


def _stage(
    output: Path,
    rows: Sequence[Any],
    work: _Worker,
    config: dict[str, Any],
    part_scenes: int | None,
    spread: storage.Spread | None,
    progress: Progress,
    meter: DecisionMeter | None = None,
    sampled: Mapping[str, Any] | None = None,
) -> int:
    if meter:
        spread = _metered(spread or storage.one_by_one, meter)
        meter.start(len(rows), config)
    return storage.in_parts(
        output,
        rows,
        work,
        config=config,
        part_rows=part_scenes or _PART_SCENES,
        record=_record(config, sampled),
        on_progress=progress,
        spread=spread,
    )[1]


def _record(config: Mapping[str, Any], sampled: Mapping[str, Any] | None) -> Row:
    """Return what decisions say that they were made from: nothing that names a maker or a path.

    Args:
        config: What the rows depend on.
        sampled: Of judged decisions, the record of how they were sampled: it stays, and what the
            judge was asked stands beside it.
    """
    kept = ("stage", "scenes", "sampling", "seed", "prompts", "chat")
    engine = {name: value for name, value in config["engine"].items() if name != "model"}
    own = {name: config[name] for name in kept if name in config} | {"engine": engine}
    if sampled is None:
        return own
    judge = {name: own[name] for name in ("prompts", "chat", "engine")}
    return {**sampled, "stage": own["stage"], "scenes": own["scenes"], "judge": judge}


def _metered(spread: storage.Spread, meter: DecisionMeter) -> storage.Spread:
    def counting(
        work: storage.Work, missing: Sequence[tuple[int, Sequence[Any]]]
    ) -> Iterator[tuple[int, pa.Table]]:
        sizes = {number: len(rows) for number, rows in missing}
        for number, table in spread(work, missing):
            meter.add(sizes[number], table)
            yield number, table

    return counting


def _decide(
    engine: Engine,
    scenes: Sequence[Row],
    *,
    model: str,
    sampling: Sampling,
    seed: int,
    judge: bool,
    prompts: Path,
) -> pa.Table:
    done: list[Row] = []
    for batch in _batches(scenes, engine):
        texts = [
            fit(scene, engine.count, room(engine, sampling.max_tokens), prompts) for scene in batch
        ]
        options = [len(scene["exposure"]) for scene in batch]
        seeds = [scene_seed(seed, scene["scene_id"]) for scene in batch]
        sampled = engine.sample(texts, options, sampling, seeds)
        rows = [
            [
                _row(scene, model, i, generation, sampling.think_end_token)
                for i, generation in enumerate(generations)
            ]
            for scene, generations in zip(batch, sampled, strict=True)
        ]
        done += (
            _judge(batch, texts, rows, engine) if judge else [row for own in rows for row in own]
        )
    return pa.Table.from_pylist(done, schema=DECISION)


def _judge_all(
    engine: Engine, rows: Sequence[tuple[Row, pa.Table]], *, max_tokens: int, prompts: Path
) -> pa.Table:
    done: list[Row] = []
    for batch in _batches(rows, engine):
        scenes = [scene for scene, _ in batch]
        texts = [fit(scene, engine.count, room(engine, max_tokens), prompts) for scene in scenes]
        done += _judge(scenes, texts, [own.to_pylist() for _, own in batch], engine)
    return pa.Table.from_pylist(done, schema=DECISION)


def _with_decisions(scenes: Sequence[Row], decisions: Path) -> list[tuple[Row, pa.Table]]:
    """Return each scene with its rows of a decision file, as slices of it.

    Raises:
        UserError: if the rows of a scene do not stand together, or if a scene has none.
    """
    table = storage.read_table(decisions, expected=DECISION)
    ids = table["scene_id"].to_pylist()
    starts = [i for i, name in enumerate(ids) if not i or name != ids[i - 1]]
    places = {
        ids[start]: slice(start, stop)
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)
    }
    if len(places) < len(starts) or any(scene["scene_id"] not in places for scene in scenes):
        raise UserError("does not hold the decisions of these scenes in order", where=decisions)
    return [(scene, table[places[scene["scene_id"]]]) for scene in scenes]


def room(engine: Engine, max_tokens: int) -> int:
    """Return the most tokens that a prompt may have before `max_tokens` more."""
    return min(CONTEXT_TOKENS, engine.context) - max_tokens


def _batches(rows: Sequence[_T], engine: Engine, times: int = 1) -> Iterator[Sequence[_T]]:
    """Cut rows into batches of the engine's size, which may shrink on the way."""
    start = 0
    while start < len(rows):
        size = times * engine.batch_scenes
        yield rows[start : start + size]
        start += size


def _row(scene: Row, model: str, sample: int, generation: Generation, think_end: str) -> Row:
    decision = parse(generation.text, len(scene["exposure"]), think_end=think_end)
    return {
        "scene_id": scene["scene_id"],
        "model": model,
        "sample": sample,
        "text": generation.text,
        "thought": decision.thought,
        "behavior": decision.behavior,
        "malformed": decision.malformed,
        "probabilities": None,
        "entropy": None,
        "tokens_in": generation.tokens_in,
        "tokens_out": generation.tokens_out,
    }


def _judge(
    scenes: Sequence[Row], texts: list[list[Message]], rows: list[list[Row]], engine: Engine
) -> list[Row]:
    """Score the well-formed decisions of some scenes; malformed ones keep null probabilities."""
    work = [
        (scene, text, [row for row in own if not row["malformed"]])
        for scene, text, own in zip(scenes, texts, rows, strict=True)
    ]
    work = [item for item in work if item[2]]
    if work:
        scored = engine.score(
            [text for _, text, _ in work],
            [[row["thought"] for row in own] for _, _, own in work],
            [len(scene["exposure"]) for scene, _, _ in work],
        )
        for (_, _, own), probabilities in zip(work, scored, strict=True):
            for row, p, h in zip(own, probabilities, entropy(probabilities), strict=True):
                row["probabilities"], row["entropy"] = p.tolist(), float(h)
    return [row for own in rows for row in own]


def direct(
    scenes: Sequence[Row],
    engine: Engine,
    prompts: Path = DEFAULT_PROMPTS,
    progress: Callable[[int], None] = lambda scenes: None,
) -> list[np.ndarray]:
    """Return P(Y | X) of each scene without a decision process (section 3.1), [k] each."""
    probabilities: list[np.ndarray] = []
    for batch in _batches(scenes, engine, times=2):
        texts = [fit(scene, engine.count, room(engine, 0), prompts, "direct") for scene in batch]
        options = [len(scene["exposure"]) for scene in batch]
        probabilities += [p[0] for p in engine.score(texts, [[""]] * len(batch), options)]
        progress(len(batch))
    return probabilities


def summary(table: pa.Table) -> dict[str, Any]:
    """Return counts, malformed rows by reason, and tokens (as in Table 5) of a decision file."""
    rows = table.num_rows
    reasons = Counter(reason for reason in table["malformed"].to_pylist() if reason)
    return {
        "decisions": rows,
        "scenes": len(set(table["scene_id"].to_pylist())),
        "malformed": sum(reasons.values()),
        "malformed_by_reason": dict(reasons.most_common()),
        "tokens_in": int(np.sum(table["tokens_in"].to_numpy())),
        "tokens_out": int(np.sum(table["tokens_out"].to_numpy())),
    }


def scene_seed(seed: int, scene_id: str) -> int:
    """Return a 63-bit seed that depends on the run's seed and the scene alone."""
    digest = hashlib.blake2b(f"{seed}/{scene_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def scenes_hash(scenes: Sequence[Row]) -> str:
    """Return a fingerprint of what prompts show of scenes, and of their order."""
    digest = hashlib.sha256()
    for scene in scenes:
        shown = [scene[name] for name in ("scene_id", "profile", "history", "exposure")]
        digest.update(json.dumps(shown, ensure_ascii=False).encode())
    return digest.hexdigest()[:16]

"""Scenes to decision processes with option probabilities (sections 3.2 and A.2).

    sample: n generations a scene by one model -> parsed, malformed ones counted by reason
    judge:  P(Y | X + D) of each well-formed one by the weak model, from its label logits

Both write Parquet parts (see `shards.py`): a killed run goes on with the first missing part.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from usermirrorer.builders import shards
from usermirrorer.builders.engines import Engine, Generation, Sampling
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.prompts import DEFAULT_PROMPTS, Message, messages, parse
from usermirrorer.builders.schema import DECISION
from usermirrorer.builders.uncertainty import entropy

#: Longest prompt and generation together (section "context cap" of the configurations).
CONTEXT = 6144
_PART_SCENES = 32
Row = dict[str, Any]
Progress = Callable[[int, bool], None]


def fit(scene: Row, engine: Engine, room: int, prompts: Path = DEFAULT_PROMPTS) -> list[Message]:
    """Return the decision prompt of a scene, leaving out oldest history until it fits.

    The exposure is never cut.

    Args:
        scene: Row of schema `SCENE`.
        engine: Counts the tokens.
        room: Most tokens the prompt may have.
        prompts: Folder of prompt templates.

    Raises:
        UserError: if the prompt is too long even without history.
    """
    history = list(scene["history"])
    while True:
        prompt = messages({**scene, "history": history}, "decision", prompts)
        if engine.count(prompt) <= room:
            return prompt
        if not history:
            raise UserError(
                f"the prompt does not fit into {room} tokens even without history",
                where=f"scene {scene['scene_id']}",
            )
        history = history[1:]


def run(
    scenes: Sequence[Row],
    engine: Engine | Callable[[], Engine],
    output: Path,
    *,
    model: str,
    sampling: Sampling,
    seed: int,
    judge: bool,
    prompts: Path = DEFAULT_PROMPTS,
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
        progress: Called with the scenes of each finished part, and whether it was resumed.

    Returns:
        The number of scenes that an earlier run had already done.
    """
    get = _once(engine)
    config = {
        "stage": "decisions",
        "model": model,
        "scenes": shards.fingerprint([scene["scene_id"] for scene in scenes]),
        "sampling": asdict(sampling),
        "seed": seed,
        "judge": judge,
        "prompts": prompts_hash(prompts),
    }

    def work(rows: Sequence[Row]) -> pa.Table:
        return pa.Table.from_pylist(
            _decide(rows, get(), model, sampling, seed, judge, prompts), schema=DECISION
        )

    return shards.in_parts(
        output, scenes, work, config=config, part_rows=_PART_SCENES, on_progress=progress
    )[1]


def judged(
    scenes: Sequence[Row],
    decisions: Path,
    engine: Engine | Callable[[], Engine],
    output: Path,
    *,
    prompts: Path = DEFAULT_PROMPTS,
    max_tokens: int,
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
        progress: As in `run`.

    Returns:
        The number of scenes that an earlier run had already done.
    """
    get = _once(engine)
    by_scene: dict[str, list[Row]] = {}
    for row in shards.read_table(decisions).to_pylist():
        by_scene.setdefault(row["scene_id"], []).append(row)
    config = {"stage": "judged", "decisions": shards.file_hash(decisions)}

    def work(rows: Sequence[Row]) -> pa.Table:
        engine = get()
        done: list[Row] = []
        for batch in _batches(rows, engine.batch_scenes):
            texts = [fit(scene, engine, CONTEXT - max_tokens, prompts) for scene in batch]
            own = [by_scene.get(scene["scene_id"], []) for scene in batch]
            done += _judge(batch, texts, own, engine)
        return pa.Table.from_pylist(done, schema=DECISION)

    return shards.in_parts(
        output, scenes, work, config=config, part_rows=_PART_SCENES, on_progress=progress
    )[1]


def _decide(
    scenes: Sequence[Row],
    engine: Engine,
    model: str,
    sampling: Sampling,
    seed: int,
    judge: bool,
    prompts: Path,
) -> list[Row]:
    done: list[Row] = []
    for batch in _batches(scenes, engine.batch_scenes):
        texts = [fit(scene, engine, CONTEXT - sampling.max_tokens, prompts) for scene in batch]
        options = [len(scene["exposure"]) for scene in batch]
        seeds = [scene_seed(seed, scene["scene_id"]) for scene in batch]
        sampled = engine.sample(texts, options, sampling, seeds)
        rows = [
            [_row(scene, model, i, generation) for i, generation in enumerate(generations)]
            for scene, generations in zip(batch, sampled, strict=True)
        ]
        done += (
            _judge(batch, texts, rows, engine) if judge else [row for own in rows for row in own]
        )
    return done


def _batches(scenes: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [scenes[start : start + size] for start in range(0, len(scenes), size)]


def _row(scene: Row, model: str, sample: int, generation: Generation) -> Row:
    decision = parse(generation.text, len(scene["exposure"]))
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
    found: list[np.ndarray] = []
    for batch in _batches(scenes, 2 * engine.batch_scenes):
        texts = [messages(scene, "direct", prompts) for scene in batch]
        options = [len(scene["exposure"]) for scene in batch]
        found += [p[0] for p in engine.score(texts, [[""]] * len(batch), options)]
        progress(len(batch))
    return found


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


def prompts_hash(folder: Path) -> str:
    """Return a fingerprint of the prompt templates in a folder."""
    files = sorted(Path(folder).glob("*.jinja"))
    return shards.fingerprint({path.name: shards.file_hash(path) for path in files})


def _once(engine: Engine | Callable[[], Engine]) -> Callable[[], Engine]:
    loaded: list[Engine] = [] if callable(engine) else [engine]

    def get() -> Engine:
        if not loaded:
            assert callable(engine)
            loaded.append(engine())
        return loaded[0]

    return get

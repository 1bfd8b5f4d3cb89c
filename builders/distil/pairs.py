"""The best-ranked candidates to preference pairs (section 3.2, appendix B.2).

rank by a strategy -> so many pairs, in proportion to (source, number of options)
-> chosen and rejected: the most confident decision on either side
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import CONTEXT_TOKENS, LABELS, PREFERENCE
from usermirrorer.builders.decisions.prompts import (
    DEFAULT_PROMPTS,
    Count,
    Message,
    Mode,
    answer,
    fit,
    parse,
    prompts_hash,
)
from usermirrorer.builders.decisions.uncertainty import delta
from usermirrorer.builders.distil.candidates import (
    BLOCK_ROWS,
    Candidates,
    Row,
    scene_texts,
    thoughts,
)
from usermirrorer.builders.distil.strategies import get_strategy


def make_pairs(
    candidates: Candidates,
    pairs: int,
    *,
    strategy: str = "delta_eu",
    exact: bool = True,
    seed: int = 0,
    prompts: Path = DEFAULT_PROMPTS,
    count: Count = lambda prompt: 0,
    room: int = CONTEXT_TOKENS,
) -> tuple[pa.Table, dict[str, int]]:
    """Select scenes and form preference pairs.

    Args:
        candidates: From `candidates.candidates`.
        pairs: How many pairs to make.
        strategy: A key of `STRATEGIES`.
        exact: Fail if there are fewer; otherwise make as many as there are.
        seed: For the random strategies.
        prompts: Folder of prompt templates.
        count: Counts the tokens of a prompt, if any may be too long.
        room: Most tokens a prompt may have; oldest history is left out, see `prompts.fit`.

    Returns:
        A table of schema `PREFERENCE` in descending order of rank, with the record of what it was
        made from (`storage.read_record`), and counts of scenes by what
        became of them.

    Raises:
        UserError: if the strategy is unknown, too few scenes survive, or a stored decision process
            does not end in its one behavior.
    """
    chosen = get_strategy(strategy)
    assert_enough(candidates, pairs if exact else 1)
    counts, usable = candidates.counts, candidates.usable
    taken = _allocate(candidates, usable, chosen.rank(candidates, seed), min(pairs, len(usable)))
    show = functools.partial(fit, count=count, room=room, prompts=prompts, mode=chosen.mode)
    table = _pairs(candidates, taken, chosen.mode, show)
    made_from = {"strategy": strategy, "seed": seed, "prompts": prompts_hash(prompts)}
    table = storage.with_record(table, {**made_from, **_files(candidates)})
    return table, {**counts, "pairs": len(taken)}


def _files(candidates: Candidates) -> Row:
    """Return the hash of each file that pairs are made of, and how its decisions were made.

    What is a name or path of the maker's is left out: releases publish this.
    """
    record: Row = {"stage": "pairs", "code": version("usermirrorer"), "decisions": {}}
    for name, path in candidates.files.items():
        record[name] = storage.file_hash(path)
        if name != "scenes":
            own = storage.read_record(path)
            kept = {key: own[key] for key in ("sampling", "seed", "chat", "prompts") if key in own}
            record["decisions"][name] = kept
    return record


def assert_enough(candidates: Candidates, pairs: int) -> None:
    """Raise UserError, telling what became of the scenes, unless `pairs` of them allow a pair."""
    counts = candidates.counts
    if len(candidates.usable) < pairs:
        raise UserError(
            f"{pairs} pairs wanted, but only {len(candidates.usable)} of {counts['scenes']} scenes "
            f"allow one ({_reasons(counts)})",
            fix="Ask for fewer pairs or with --at-most, or build more scenes or decisions.",
        )


def _reasons(counts: Mapping[str, int]) -> str:
    others = {k: v for k, v in counts.items() if k not in ("scenes", "candidates")}
    return ", ".join(f"{count} {reason}" for reason, count in others.items()) or "no other scenes"


def _allocate(
    candidates: Candidates, usable: np.ndarray, rank: np.ndarray, pairs: int
) -> np.ndarray:
    """Take the best-ranked scenes, in proportion to (source, number of options).

    Returns:
        Indices of `pairs` scenes, best first; ties go by scene id.
    """
    names, sources, options = (
        candidates.scenes[column].to_pylist() for column in ("scene_id", "source", "options")
    )
    value = np.nan_to_num(rank, nan=-np.inf)
    best = sorted(usable.tolist(), key=lambda i: (-value[i], names[i]))
    left = quotas(Counter((sources[i], options[i]) for i in best), pairs)
    taken = []
    for i in best:
        if left[sources[i], options[i]]:
            left[sources[i], options[i]] -= 1
            taken.append(i)
    return np.array(taken, dtype=np.int64)


def quotas(sizes: Mapping[Any, int], total: int) -> dict[Any, int]:
    """Share `total` among cells in proportion to their sizes, by largest remainder.

    No cell gets more than its size, and the shares add up to `total` exactly (`total` must not
    exceed the sum of the sizes). Ties go to the cell that comes first in sorted order.
    """
    everything = sum(sizes.values())
    exact = {cell: total * size / everything for cell, size in sizes.items()}
    shares = {cell: int(value) for cell, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda cell: (shares[cell] - exact[cell], cell))
    for cell in by_remainder[: total - sum(shares.values())]:
        shares[cell] += 1
    return shares


def _pairs(
    candidates: Candidates, taken: np.ndarray, mode: Mode, show: Callable[[Row], list[Message]]
) -> pa.Table:
    """Return the preference pairs of the scenes `taken`, in that order; `show` is their prompt."""
    sides = {"chosen": candidates.chosen[taken], "rejected": candidates.rejected[taken]}
    texts = {name: thoughts(candidates, side) for name, side in sides.items()}
    scenes = scene_texts(candidates, taken)
    blocks = []
    for start in range(0, len(taken), BLOCK_ROWS):
        rows = [
            {
                **_numbers(candidates, taken[i], {name: side[i] for name, side in sides.items()}),
                "prompt": show(scene),
                **{
                    name: _turn(candidates, side[i], texts[name][i].as_py(), scene, mode)
                    for name, side in sides.items()
                },
            }
            for i, scene in enumerate(scenes.slice(start, BLOCK_ROWS).to_pylist(), start)
        ]
        blocks.append(pa.Table.from_pylist(rows, schema=PREFERENCE))
    return pa.concat_tables(blocks)


def _numbers(candidates: Candidates, index: int, sides: Mapping[str, int]) -> Row:
    """Return what a pair says beside its texts."""
    scene = {
        name: candidates.scenes[name][int(index)].as_py() for name in candidates.scenes.column_names
    }
    row = {name: scene[name] for name in ("scene_id", "domain", "source", "options")}
    for name, decision in sides.items():
        row[f"{name}_behavior"] = LABELS[candidates.decisions.behavior[decision]]
        row[f"{name}_model"] = candidates.decisions.names[candidates.decisions.model[decision]]
        row[f"{name}_entropy"] = float(candidates.decisions.entropy[decision])
    both = (candidates.weak_uncertainty, candidates.strong_uncertainty)
    weak, strong = (uncertainty.epistemic[index] for uncertainty in both)
    return {
        **row,
        "epistemic_weak": float(weak),
        "epistemic_strong": float(strong),
        "epistemic_delta": float(delta(weak, strong)),
    }


def _turn(
    candidates: Candidates, decision: int, thought: str, scene: Row, mode: Mode
) -> list[dict[str, str]]:
    """Return the assistant's turn of a decision.

    Raises:
        UserError: if its text does not read as one decision for the stored behavior.
    """
    behavior = int(candidates.decisions.behavior[decision])
    text = answer(LABELS[behavior], thought if mode == "decision" else "")
    read = parse(text, len(scene["exposure"]), mode)
    if read.behavior != behavior:
        raise UserError(
            f"decision process does not end in its one behavior: {read.malformed}",
            where=f"scene {scene['scene_id']}, sample {candidates.decisions.sample[decision]}",
            fix="Sample the decisions again.",
        )
    return [{"role": "assistant", "content": text}]


#: Training views, in TRL's conversational forms: name -> columns of a pair they are made of.
VIEWS = {
    "sft": {"prompt": "prompt", "completion": "chosen"},
    "preference": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "grpo": {"prompt": "prompt", "answer": "chosen_behavior", "options": "options"},
}


def view(pairs: pa.Table, name: str) -> pa.Table:
    """Return a table of schema `PREFERENCE` as the view `name` of `VIEWS`."""
    return pa.table({column: pairs[origin] for column, origin in VIEWS[name].items()})

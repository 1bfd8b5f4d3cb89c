"""Decisions of a weak and a strong model to preference pairs (section 3.2, appendix B.2).

scenes with both models' decisions
  -> behavior rejection: drop scenes the strong model never gets right, or with nothing to reject
  -> rank by a selection strategy (the paper's: difference of epistemic uncertainty)
  -> take the asked number, in proportion to (source, number of options)
  -> chosen and rejected: the most confident decision on either side
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from usermirrorer.builders.errors import UserError
from usermirrorer.builders.prompts import DEFAULT_PROMPTS, answer, messages
from usermirrorer.builders.schema import DECISION, LABELS, PREFERENCE, assert_schema
from usermirrorer.builders.uncertainty import Uncertainty, decompose, delta, stack

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidates:
    """Scenes with their decisions and what strategies rank them by; arrays are [s].

    Accuracies are shares of well-formed decisions that match the real behavior.
    """

    scenes: list[Row]
    weak: list[list[Row]]
    strong: list[list[Row]]
    weak_uncertainty: Uncertainty
    strong_uncertainty: Uncertainty
    weak_accuracy: np.ndarray
    strong_accuracy: np.ndarray

    @property
    def delta(self) -> np.ndarray:
        """Equation 3: epistemic uncertainty of the weak minus the strong model, bits."""
        return delta(self.weak_uncertainty.epistemic, self.strong_uncertainty.epistemic)


Strategy = Callable[[Candidates, int], np.ndarray]


def _random(candidates: Candidates, seed: int) -> np.ndarray:
    keys = [f"{seed}/{scene['scene_id']}".encode() for scene in candidates.scenes]
    digests = [hashlib.blake2b(key, digest_size=8).digest() for key in keys]
    return np.array([int.from_bytes(digest) / 2**64 for digest in digests])


#: name -> (higher is taken first, where it comes from).
STRATEGIES: dict[str, tuple[Strategy, str]] = {
    "delta_eu": (
        lambda c, _: c.delta,
        "equation 3: largest epistemic uncertainty of the weak minus that of the strong model",
    ),
    "random": (_random, "Table 2, Random (w/ Decisions): scenes at random"),
    "high_accuracy": (
        lambda c, _: c.strong_accuracy,
        "Table 2, High Accuracy: the strong model is right most often",
    ),
    "low_accuracy": (
        lambda c, _: -c.strong_accuracy,
        "Table 2, Low Accuracy: the strong model is right least often",
    ),
    "difference_accuracy": (
        lambda c, _: c.strong_accuracy - c.weak_accuracy,
        "Table 2, Diff. Accuracy: the strong model is right more often than the weak one",
    ),
}


def candidates(scenes: Sequence[Row], weak: pa.Table, strong: pa.Table) -> Candidates:
    """Join scenes with the decisions of both models, judged by the weak one.

    Raises:
        UserError: if a decision table breaks its schema or was not judged.
    """
    by_scene = [_by_scene(table, role) for table, role in ((weak, "weak"), (strong, "strong"))]
    kept = [scene for scene in scenes if all(scene["scene_id"] in found for found in by_scene)]
    of_weak, of_strong = ([found[s["scene_id"]] for s in kept] for found in by_scene)
    return Candidates(
        kept,
        of_weak,
        of_strong,
        _uncertainty(of_weak),
        _uncertainty(of_strong),
        _accuracy(kept, of_weak),
        _accuracy(kept, of_strong),
    )


def _by_scene(table: pa.Table, role: str) -> dict[str, list[Row]]:
    try:
        assert_schema(table.schema, DECISION)
    except ValueError as error:
        raise UserError(str(error), where=f"decisions of the {role} model") from error
    found: dict[str, list[Row]] = {}
    for row in table.to_pylist():
        if not row["malformed"] and row["probabilities"] is None:
            raise UserError(
                "were not scored by the judge",
                where=f"decisions of the {role} model",
                fix="Run the judging step first.",
            )
        found.setdefault(row["scene_id"], []).append(row)
    return found


def _uncertainty(decisions: list[list[Row]]) -> Uncertainty:
    return decompose(stack([[row["probabilities"] for row in rows] for rows in decisions]))


def _accuracy(scenes: list[Row], decisions: list[list[Row]]) -> np.ndarray:
    out = np.full(len(scenes), np.nan)
    for s, (scene, rows) in enumerate(zip(scenes, decisions, strict=True)):
        formed = [row["behavior"] == scene["answer"] for row in rows if not row["malformed"]]
        if formed:
            out[s] = np.mean(formed)
    return out


def distill(
    found: Candidates,
    pairs: int,
    *,
    strategy: str = "delta_eu",
    exact: bool = True,
    seed: int = 0,
    prompts: Path = DEFAULT_PROMPTS,
) -> tuple[pa.Table, dict[str, int]]:
    """Select scenes and form preference pairs.

    Args:
        found: From `candidates`.
        pairs: How many pairs to make.
        strategy: A key of `STRATEGIES`.
        exact: Fail if there are fewer; otherwise make as many as there are.
        seed: For the random strategy.
        prompts: Folder of prompt templates.

    Returns:
        A table of schema `PREFERENCE` in descending order of rank, and counts of scenes by what
        became of them.

    Raises:
        UserError: if the strategy is unknown or too few scenes survive.
    """
    if strategy not in STRATEGIES:
        raise UserError(
            f"no strategy is called {strategy!r}", fix=f"Choose from {', '.join(STRATEGIES)}."
        )
    made: dict[int, Row] = {}
    fate: Counter[str] = Counter({"scenes": len(found.scenes)})
    for index in range(len(found.scenes)):
        pair = _pair(found, index, prompts)
        if isinstance(pair, str):
            fate[pair] += 1
        else:
            made[index] = pair
    fate["candidates"] = len(made)
    if not made or (exact and len(made) < pairs):
        raise UserError(
            f"{pairs} pairs asked for, but only {len(made)} of {len(found.scenes)} scenes allow "
            f"one ({_story(fate)})",
            fix="Ask for fewer pairs, or build more scenes or decisions.",
        )
    rank = STRATEGIES[strategy][0](found, seed)
    taken = _allocate(found, list(made), rank, min(pairs, len(made)))
    fate["pairs"] = len(taken)
    rows = [made[index] for index in taken]
    return pa.Table.from_pylist(rows, schema=PREFERENCE), dict(fate)


def _story(fate: Mapping[str, int]) -> str:
    told = {k: v for k, v in fate.items() if k not in ("scenes", "candidates", "pairs")}
    return ", ".join(f"{count} {reason}" for reason, count in told.items()) or "no other scenes"


def _pair(found: Candidates, index: int, prompts: Path) -> Row | str:
    """Return the preference pair of a scene, or why there is none."""
    scene = found.scenes[index]
    strong = [row for row in found.strong[index] if not row["malformed"]]
    weak = [row for row in found.weak[index] if not row["malformed"]]
    if not strong or not weak:
        return "without a well-formed decision of both models"
    right = [row for row in strong if row["behavior"] == scene["answer"]]
    wrong = [row for row in (*strong, *weak) if row["behavior"] != scene["answer"]]
    if not right:
        return "never matched by the strong model (likely noise)"
    if not wrong:
        return "always matched: nothing to reject"
    chosen, rejected = (min(rows, key=_confidence) for rows in (right, wrong))
    return {
        "prompt": messages(scene, "decision", prompts),
        "chosen": _turn(chosen),
        "rejected": _turn(rejected),
        "scene_id": scene["scene_id"],
        "domain": scene["domain"],
        "source": scene["source"],
        "options": len(scene["exposure"]),
        "chosen_behavior": LABELS[chosen["behavior"]],
        "rejected_behavior": LABELS[rejected["behavior"]],
        "chosen_model": chosen["model"],
        "rejected_model": rejected["model"],
        "chosen_entropy": chosen["entropy"],
        "rejected_entropy": rejected["entropy"],
        "epistemic_weak": float(found.weak_uncertainty.epistemic[index]),
        "epistemic_strong": float(found.strong_uncertainty.epistemic[index]),
        "epistemic_delta": float(found.delta[index]),
    }


def _confidence(row: Row) -> tuple[float, str, int]:
    """Lowest entropy first; ties by model and sample, so that the choice is always the same."""
    return row["entropy"], row["model"], row["sample"]


def _turn(row: Row) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer(LABELS[row["behavior"]], row["thought"])}]


def _allocate(found: Candidates, usable: list[int], rank: np.ndarray, pairs: int) -> list[int]:
    """Take the best-ranked scenes, in proportion to (source, number of options)."""
    cells: dict[tuple[str, int], list[int]] = {}
    for index in usable:
        scene = found.scenes[index]
        cells.setdefault((scene["source"], len(scene["exposure"])), []).append(index)
    quota = quotas({cell: len(members) for cell, members in cells.items()}, pairs)

    def order(i: int) -> tuple[float, str]:
        return -float(np.nan_to_num(rank[i], nan=-np.inf)), found.scenes[i]["scene_id"]

    taken = [
        i for cell, members in cells.items() for i in sorted(members, key=order)[: quota[cell]]
    ]
    return sorted(taken, key=order)


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

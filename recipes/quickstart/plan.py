"""What a run of the main job is to make."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usermirrorer.recipes.job import RECIPES

REPO = "usermirrorer/mixed"
#: Configurations and prompts that a 135M model learns from on two CPU cores.
SMALL = RECIPES / "smollm2-135m-instruct"
PROMPTS = SMALL / "direct_compact" / "prompts"
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What the run is to make; together with the code's version it decides every byte."""

    raw: str
    source: str
    weak: str
    strong: str
    embedder: str
    engine: str
    train_scenes: int
    simulator_scenes: int
    trained_layers: int
    decision_scenes: int
    check_scenes: int
    test_scenes: int
    test_users: float
    every_order: bool
    history: tuple[int, int]
    decision_test_scenes: int
    samples: int
    thought_tokens: int
    pairs: int
    sft_steps: int
    dpo_steps: int
    guided: bool
    dtype: str
    version: str
    seed: int


def only(plan: Plan, *names: str) -> Row:
    """Return some settings of a plan: what a step depends on."""
    return {name: value for name, value in asdict(plan).items() if name in names}


def public(value: Any) -> Any:
    """Return the last part of a path of this machine: the rest is nobody else's business."""
    return Path(value).name if isinstance(value, str) and Path(value).is_dir() else value

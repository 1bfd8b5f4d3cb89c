"""Rewards of the GRPO recipe: TRL reward functions over parsed completions.

The paper's reward is 1 where the predicted behavior is the real one, else 0 (section 4.1). A
completion is read strictly by the parser of `builders/decisions/prompts.py`, so that nothing is
earned by hedging: two Behavior lines, a label outside the list, a label inside the thought only,
text after the Behavior line or (in decision mode) a missing field all count as malformed. So does
a last line that is not `Behavior: [X]` to the letter: evaluation, which scores the token after
`Behavior: [`, would read another answer there than the one that was rewarded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import Decision, Mode, parse

Completion = str | Sequence[dict[str, str]]
Reward = Callable[..., list[float]]


def behavior_reward(mode: Mode) -> Reward:
    """Return a reward of 1.0 for a well-formed completion with the real behavior, else 0.0."""

    def behavior(
        completions: Sequence[Completion],
        answer: Sequence[str],
        options: Sequence[int],
        **kwargs: Any,
    ) -> list[float]:
        decisions = _decisions(completions, options, mode)
        return [
            float(decision.behavior is not None and LABELS[decision.behavior] == label)
            for decision, label in zip(decisions, answer, strict=True)
        ]

    return behavior


def format_reward(mode: Mode) -> Reward:
    """Return a reward of 1.0 for any well-formed completion, else 0.0."""

    def well_formed(
        completions: Sequence[Completion], options: Sequence[int], **kwargs: Any
    ) -> list[float]:
        return [
            float(not decision.malformed) for decision in _decisions(completions, options, mode)
        ]

    return well_formed


def length_guard(longest: int, margin: int) -> Reward:
    """Return a reward of 0.0 that falls to -1.0 over the last `margin` tokens before `longest`.

    Args:
        longest: The trainer's maximum completion length in tokens.
        margin: Tokens over which the reward falls.
    """
    from trl.rewards import get_soft_overlong_punishment

    punish = get_soft_overlong_punishment(max_completion_len=longest, soft_punish_cache=margin)

    def length(completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[float]:
        return punish(completion_ids=completion_ids)

    return length


def rewards(
    mode: Mode, *, format_weight: float, guard_margin: int, longest: int
) -> tuple[list[Reward], list[float]]:
    """Return the reward functions and their weights.

    Args:
        mode: What the completions are: decisions or labels.
        format_weight: Weight of the format reward; 0 leaves it out.
        guard_margin: Margin of the length guard in tokens; 0 leaves it out.
        longest: Maximum completion length in tokens.
    """
    functions, weights = [behavior_reward(mode)], [1.0]
    if format_weight:
        functions.append(format_reward(mode))
        weights.append(format_weight)
    if guard_margin:
        functions.append(length_guard(longest, guard_margin))
        weights.append(1.0)
    return functions, weights


def _decisions(
    completions: Sequence[Completion], options: Sequence[int], mode: Mode
) -> list[Decision]:
    return [
        parse(_text(completion), count, mode, strict=True)
        for completion, count in zip(completions, options, strict=True)
    ]


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]

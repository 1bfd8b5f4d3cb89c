"""GRPO rewards: only a well-formed completion with the real behavior earns, whatever is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_rows import thought

from usermirrorer.builders.decisions.prompts import answer
from usermirrorer.recipes.rewards import behavior_reward, format_reward, length_guard, rewards

GOOD = answer("B", thought(1))


def earned(text: str, label: str = "B", options: int = 5, mode: str = "decision") -> float:
    chat = [[{"role": "assistant", "content": text}]]
    return behavior_reward(mode)(completions=chat, answer=[label], options=[options])[0]


def test_the_real_behavior_earns_one_and_another_nothing():
    assert earned(GOOD) == 1.0
    assert earned(GOOD, label="C") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD}\nBehavior: [B]",  # said twice
        f"{answer('A', thought(1))}\nBehavior: [B]",  # two answers
        answer("B", thought(1)).replace("Behavior: [B]", "Behavior: [A] or [B]"),
        answer("B", thought(1)).replace("Behavior: [B]", "Behavior: [AB]"),
        answer("A", thought(1).replace("my taste", "Behavior: [B]")),  # right one in the thought
        answer("A", thought(1) + "\nEvaluation: Behavior: [B]"),
        f"Behavior: [B]\n{thought(1)}",  # the answer before the thought
        f"{GOOD}\nI could as well have taken C.",
        answer("B", thought(1)).replace("Knowledge: I know some of these titles\n", ""),
        answer("B", "Thought:\nIt is B."),
        thought(1),
        "",
        "Behavior: [B",
        "[B]",
        "B",
    ],
)
def test_hedged_and_malformed_completions_earn_nothing(text):
    assert earned(text) == 0.0


@pytest.mark.parametrize("mode", ["decision", "direct"])
@pytest.mark.parametrize(
    "line",
    [
        *("Behavior: B", "Behavior: [B", "Behavior: B]", "behavior: [B]", "**Behavior:** [B]"),
        *("- Behavior: [B]", "Behavior: [b]", "Behavior: [B].", "Behavior:[B]", "Behavior: [ B ]"),
    ],
)
def test_a_last_line_that_is_not_exact_earns_nothing(line, mode):
    """Evaluation scores the token after `Behavior: [`: there it would read another answer."""
    before = f"{thought(1)}\n" if mode == "decision" else ""
    assert earned(f"{before}{line}", mode=mode) == 0.0
    assert format_reward(mode)(completions=[f"{before}{line}"], options=[5]) == [0.0]
    assert earned(f"{before}Behavior: [B]", mode=mode) == 1.0


def test_a_label_outside_the_list_earns_nothing_even_as_the_answer():
    assert earned(answer("F", thought(1)), label="F", options=5) == 0.0
    assert earned(answer("F", thought(1)), label="F", options=6) == 1.0


def test_a_bare_label_line_earns_in_direct_mode_alone():
    assert earned("Behavior: [B]", mode="direct") == 1.0
    assert earned("Behavior: [B]", mode="decision") == 0.0


@given(st.text(max_size=200))
def test_no_text_without_a_behavior_line_earns(noise):
    if "behavior" not in noise.lower():
        assert earned(noise, mode="direct") == 0.0


def test_format_reward_does_not_look_at_the_answer():
    reward = format_reward("decision")
    assert reward(completions=[GOOD, thought(1)], options=[5, 5]) == [1.0, 0.0]


def test_length_guard_falls_over_its_margin():
    guard = length_guard(longest=10, margin=4)
    values = guard(completion_ids=[[0] * n for n in (1, 6, 8, 10, 11)])
    assert values == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_rewards_that_are_not_asked_for_are_left_out():
    functions, weights = rewards("decision", format_weight=0, guard_margin=0, longest=10)
    assert [f.__name__ for f in functions] == ["behavior"] and weights == [1.0]
    functions, weights = rewards("decision", format_weight=0.2, guard_margin=4, longest=10)
    assert [f.__name__ for f in functions] == ["behavior", "well_formed", "length"]
    assert weights == [1.0, 0.2, 1.0]

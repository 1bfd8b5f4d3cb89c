"""What a simulator adds to a baseline is what it alone knows, on users that fitted nothing."""

from __future__ import annotations

import numpy as np
import pytest

from usermirrorer.eval_harness.added import added

USERS, EACH = 60, 5


def scenes(seed: int, sizes: tuple[int, int] = (5, 5)) -> dict:
    """People choose by two tastes; each is a number per option."""
    draw = np.random.default_rng(seed)
    made: dict = {"first": [], "second": [], "noise": [], "answers": [], "users": []}
    for number in range(USERS * EACH):
        k = int(draw.integers(sizes[0], sizes[1] + 1))
        first, second, noise = draw.normal(size=(3, k))
        likely = softmax(first + second)
        made["first"].append(first)
        made["second"].append(softmax(second))
        made["noise"].append(softmax(noise))
        made["answers"].append(int(draw.choice(k, p=likely)))
        made["users"].append(f"u{number // EACH}")
    return made


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def test_what_only_the_simulator_knows_is_added():
    world = scenes(0)
    got = added(world["first"], world["second"], world["answers"], world["users"])
    assert got.bits.low > 0.1 and got.points.low > 0
    assert got.alone - got.together == pytest.approx(got.bits.difference)
    assert got.bits.n == USERS * EACH


def test_lists_of_several_lengths_are_read_as_they_are():
    world = scenes(1, sizes=(2, 9))
    got = added(world["first"], world["second"], world["answers"], world["users"])
    assert got.bits.low > 0.1
    short = [n for n, row in enumerate(world["first"]) if len(row) == 2]
    assert short, "no scene of two options was drawn"


def test_a_simulator_that_repeats_the_baseline_adds_nothing():
    world = scenes(2)
    same = [softmax(2 * row) for row in world["first"]]
    got = added(world["first"], same, world["answers"], world["users"])
    assert abs(got.bits.difference) < 0.01
    assert got.points.low <= 0 <= got.points.high


def test_noise_adds_nothing_since_weights_are_of_other_users():
    """Weights that were fitted on the scenes they are judged on would lose on no draw."""
    gains = []
    for seed in range(12):
        world = scenes(seed)
        got = added(world["first"], world["noise"], world["answers"], world["users"])
        gains.append(got.bits.difference)
        assert got.bits.low <= 0
    assert sum(gain < 0 for gain in gains) >= 4


def test_no_scene_is_judged_by_weights_that_its_own_user_fitted():
    """Of two people a simulator is right of one and wrong of the other: each refutes the other."""
    world = scenes(6)
    half = len(world["users"]) // 2
    wrong = [1 / row / (1 / row).sum() for row in world["second"][half:]]
    world["second"][half:] = wrong
    users = ["right"] * half + ["wrong"] * (len(world["users"]) - half)
    got = added(world["first"], world["second"], world["answers"], users)
    assert got.bits.difference < -0.2


def test_a_baseline_without_scores_shows_all_that_the_simulator_knows():
    world = scenes(3)
    chance = [np.zeros(5) for _ in world["first"]]
    got = added(chance, world["second"], world["answers"], world["users"])
    assert got.alone == pytest.approx(np.log2(5)) and got.bits.low > 0.1


def test_a_probability_of_zero_is_no_infinite_loss():
    world = scenes(4)
    sure = [np.eye(5)[int(np.argmax(row))] for row in world["second"]]
    got = added(world["first"], sure, world["answers"], world["users"])
    assert np.isfinite([got.alone, got.together, got.bits.low, got.bits.high]).all()


@pytest.mark.parametrize(("what", "said"), [("users", "one user"), ("answers", "same scenes")])
def test_what_cannot_be_compared_is_refused(what, said):
    world = scenes(5)
    if what == "users":
        world["users"] = ["u"] * len(world["users"])
    else:
        world["answers"] = world["answers"][:-1]
    with pytest.raises(ValueError, match=said):
        added(world["first"], world["second"], world["answers"], world["users"])

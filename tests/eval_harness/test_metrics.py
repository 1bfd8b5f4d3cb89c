"""Metrics: values computed by hand, and intervals that cover what they claim."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from usermirrorer.builders.audit.lists import make_lists
from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.decisions.uncertainty import softmax
from usermirrorer.eval_harness import metrics

from .fixtures import make_scenes


def test_entropy_is_in_bits():
    assert metrics.entropy([0.5, 0.25, 0.25]) == pytest.approx(1.5)
    assert metrics.entropy([1.0, 0.0]) == 0
    assert metrics.normalised_entropy([0.25] * 4) == pytest.approx(1)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=13), st.floats(-100, 100))
def test_softmax_sums_to_one_and_ignores_a_constant(logits, shift):
    p = softmax(logits)
    assert p.sum() == pytest.approx(1)
    assert np.allclose(p, softmax(np.array(logits) + shift))
    assert -1e-9 <= metrics.entropy(p) <= math.log2(len(logits)) + 1e-9


def test_log_loss_and_brier_by_hand():
    p = [0.5, 0.25, 0.25]
    assert metrics.log_loss(p, 1) == 2
    assert metrics.brier(p, 0) == pytest.approx(0.25 + 2 * 0.0625)
    assert metrics.log_loss([1.0, 0.0], 1) == math.inf


def test_top_choice_shares_ties_and_never_picks_missing_scores():
    assert top_choice([1, 3, 3], 1) == 0.5
    assert top_choice([math.nan, 0.1], 0) == 0
    assert top_choice([math.nan, math.nan], 0) == 0.5
    assert top_choice([None, 2.0], 1) == 1
    assert top_choice(None, 1, options=4) == top_choice([], 1, options=4) == 0.25


def test_the_audit_breaks_ties_as_the_tasks_do():
    """One rule in two forms: for one scene, and for the columns of many."""
    rows = make_scenes(60)
    for number, row in enumerate(rows):
        row["exposure_popularity"] = [n % (1 + number % 4) for n in row["exposure_popularity"]]
    table = pa.Table.from_pylist(rows, schema=SCENE)
    lists = make_lists(table)
    found = lists.hits(lists.numbers["exposure_popularity"])
    assert found == pytest.approx(
        [top_choice(row["exposure_popularity"], row["answer"]) for row in rows]
    )


def test_calibration_error_by_hand():
    # bin 0.9-1.0: confidence .95, accuracy .5; bin 0.2-0.3: confidence .25, accuracy 1
    assert metrics.calibration_error([0.95, 0.95, 0.25, 0.25], [1, 0, 1, 1]) == pytest.approx(
        0.5 * 0.45 + 0.5 * 0.75
    )


def test_sampled_distribution_spreads_malformed_samples():
    assert metrics.frequencies([0, 0, None], 2) == pytest.approx([3 / 4, 1 / 4])
    assert metrics.sampled_entropy([1, 1, 1, None], 4) == 0
    assert metrics.sampled_entropy([None], 4) == 2
    assert metrics.sampled_entropy([0, 1], 2) == 1  # corrected above 1, then capped at log2 k


def test_bootstrap_agrees_with_the_closed_form():
    x = np.random.default_rng(1).normal(size=400)
    closed, drawn = metrics.mean(x), metrics.bootstrap(np.mean, x)
    assert drawn.value == closed.value
    assert drawn.stderr == pytest.approx(closed.stderr, rel=0.1)


def test_paired_test_of_accuracies_is_mcnemars():
    a = np.array([1] * 3 + [0] * 9 + [1] * 20)
    b = np.array([0] * 3 + [1] * 9 + [1] * 20)
    found = metrics.paired_test(a, b)
    assert found.difference == pytest.approx(6 / 32)
    assert found.p_value == pytest.approx(binomtest(3, 12).pvalue)
    assert found.low < found.difference < found.high


def test_paired_test_of_many_scenes_and_of_no_difference():
    draw = np.random.default_rng(0)
    a, noise = draw.random(500), draw.normal(size=500)
    assert metrics.paired_test(a, a).p_value == 1
    assert metrics.paired_test(a, a + 0.2 + 0.1 * noise).p_value < 0.001
    assert metrics.paired_test(a, a + noise - noise.mean()).p_value > 0.9
    with pytest.raises(ValueError, match="cannot be paired"):
        metrics.paired_test([1], [1, 0])


def test_paired_test_flips_the_scenes_of_a_user_together():
    """One user's twenty gains are one piece of evidence, twenty users' are twenty."""
    a, b = np.zeros(20), np.ones(20)
    assert metrics.paired_test(a, b).p_value < 1e-3
    assert metrics.paired_test(a, b, ["u"] * 20).p_value == 1
    two = metrics.paired_test(a, b, ["u"] * 10 + ["v"] * 10)
    assert two.p_value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="cannot be paired"):
        metrics.paired_test(a, b, ["u"])


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def test_clustered_error_by_hand():
    """Two users with scenes 1, 1 and 0, 0, 0: sums about the mean of 0.4 are 1.2 and -1.2."""
    found = metrics.mean([1, 1, 0, 0, 0], ["a", "a", "b", "b", "b"])
    assert found.value == pytest.approx(0.4)
    assert found.stderr == pytest.approx(math.sqrt(2 * (1.2**2 + 1.2**2)) / 5)
    alone = metrics.mean([1, 1, 0], ["a", "a", "a"])
    assert math.isnan(alone.stderr) and math.isnan(alone.low)


def coverage(users, scenes, share, within, unit="share", draws=1500):
    """How often the 95 % interval holds the truth; `within` correlates the scenes of a user."""
    draw = np.random.default_rng(0)
    names = np.repeat(np.arange(users), scenes).tolist()
    held = 0
    for _ in range(draws):
        own = np.full(users, share)
        if within:
            scale = 1 / within - 1
            own = draw.beta(share * scale, (1 - share) * scale, users)
        hits = (draw.random((users, scenes)) < own[:, None]).ravel()
        truth, values = share, hits.astype(float)
        if unit == "difference":  # of two models: the other is right at random
            truth, values = share - 0.2, values - (draw.random(len(hits)) < 0.2)
        found = metrics.mean(values, names, unit)
        held += found.low <= truth <= found.high
    return held / draws


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.5, 0.9])
def test_intervals_of_twelve_scenes_cover_what_they_claim(share):
    assert 0.94 <= coverage(12, 1, share, 0) <= 0.995


@pytest.mark.parametrize(("users", "scenes", "within"), [(6, 5, 0.2), (12, 10, 0.3), (94, 42, 0.1)])
def test_intervals_cover_what_they_claim_where_scenes_of_a_user_are_alike(users, scenes, within):
    assert 0.93 <= coverage(users, scenes, 0.3, within, draws=800) <= 0.985


@pytest.mark.parametrize(("users", "share"), [(12, 0.2), (12, 0.5), (40, 0.25)])
def test_intervals_of_differences_cover_what_they_claim(users, share):
    assert 0.93 <= coverage(users, 1, share, 0, "difference") <= 0.985


def test_none_of_twelve_is_not_certainly_none():
    found = metrics.mean(np.zeros(12), list(range(12)), "share")
    assert found.low == 0 and 0.2 < found.high < 0.35
    assert found.stderr > 0.05
    alike = metrics.mean(np.zeros(12), list(range(12)), "difference")
    assert alike.low < -0.2 and alike.high > 0.2


def test_the_interval_is_known_from_value_error_and_users_alone():
    """As results hold them: what a table shows is what the task knew."""
    draw = np.random.default_rng(3)
    users = (np.arange(60) // 3).tolist()
    for unit, values in (
        ("share", draw.integers(0, 2, 60)),
        ("share", np.ones(60)),
        ("difference", draw.integers(-1, 2, 60)),
        ("bits", draw.random(60)),
    ):
        found = metrics.mean(values, users, unit)
        again = metrics.interval(found.value, found.stderr, 20, unit)
        assert again == pytest.approx((found.low, found.high))

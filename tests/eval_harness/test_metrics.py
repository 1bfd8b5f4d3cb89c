"""Metrics: values computed by hand, and intervals that cover what they claim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from usermirrorer.eval_harness import metrics


def test_entropy_is_in_bits():
    assert metrics.entropy([0.5, 0.25, 0.25]) == pytest.approx(1.5)
    assert metrics.entropy([1.0, 0.0]) == 0
    assert metrics.normalised_entropy([0.25] * 4) == pytest.approx(1)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=13), st.floats(-100, 100))
def test_softmax_sums_to_one_and_ignores_a_constant(logits, shift):
    p = metrics.softmax(logits)
    assert p.sum() == pytest.approx(1)
    assert np.allclose(p, metrics.softmax(np.array(logits) + shift))
    assert -1e-9 <= metrics.entropy(p) <= math.log2(len(logits)) + 1e-9


def test_log_loss_and_brier_by_hand():
    p = [0.5, 0.25, 0.25]
    assert metrics.log_loss(p, 1) == 2
    assert metrics.brier(p, 0) == pytest.approx(0.25 + 2 * 0.0625)
    assert metrics.log_loss([1.0, 0.0], 1) == math.inf


def test_top_choice_shares_ties_and_never_picks_missing_scores():
    assert metrics.top_choice([1, 3, 3], 1) == 0.5
    assert metrics.top_choice([math.nan, 0.1], 0) == 0
    assert metrics.top_choice([math.nan, math.nan], 0) == 0.5


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

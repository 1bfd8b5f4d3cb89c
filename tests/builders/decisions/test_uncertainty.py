"""Uncertainty decomposition: units, hand-computed values, invariants (equations 2 and 3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from usermirrorer.builders.decisions import uncertainty
from usermirrorer.builders.decisions.uncertainty import decompose, delta, entropy

NONE = np.nan


def test_entropy_is_in_bits():
    assert entropy(np.array([0.5, 0.5])) == 1.0
    assert entropy(np.array([0.25] * 4)) == 2.0
    assert entropy(np.array([1.0, 0.0])) == 0.0


def test_hand_computed_decomposition():
    """Two sure but opposite decisions: all of the one bit is mutual information."""
    opposite, undecided = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]
    mixed = [[0.9, 0.1], [0.5, 0.5]]
    rows = np.array([*opposite, *undecided, *mixed])
    found = decompose(rows, np.array([0, 0, 1, 1, 2, 2]), 3)
    np.testing.assert_allclose(found.total, [1.0, 1.0, 0.8812908992], atol=1e-9)
    np.testing.assert_allclose(found.epistemic, [0.0, 1.0, 0.7344977967], atol=1e-9)
    np.testing.assert_allclose(found.mutual, [1.0, 0.0, 0.1467931025], atol=1e-9)


def test_equation_3_is_weak_minus_strong():
    """The scene on which the weak model is unsure and the strong one sure comes first."""
    weak, strong = np.array([2.0, 0.1]), np.array([0.5, 1.5])
    assert delta(weak, strong).argmax() == 0
    np.testing.assert_allclose(delta(weak, strong), [1.5, -1.4])


def test_scenes_of_other_lengths_in_any_order_do_not_mix():
    """Three options, two options, and a scene without a decision."""
    rows = np.array([[0.2, 0.3, 0.5], [0.5, 0.5, NONE], [1.0, 0.0, NONE]])
    found = decompose(rows, np.array([1, 0, 0]), 3)
    np.testing.assert_allclose(found.epistemic[:2], [0.5, 1.4854752972], atol=1e-9)
    np.testing.assert_allclose(found.total[:2], [0.8112781245, 1.4854752972], atol=1e-9)
    assert all(np.isnan(part[2]) for part in found)


def probabilities(draw, decisions, options):
    weights = draw(arrays(np.float64, (decisions, options), elements=st.floats(1e-6, 1.0)))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@given(st.data(), st.integers(1, 30), st.integers(2, 13))
def test_bounds_hold_for_stored_probabilities(data, decisions, options):
    """0 <= mutual, 0 <= epistemic, total = mutual + epistemic <= log2 k, from float32 rows."""
    rows = probabilities(data.draw, decisions, options)
    scene = np.array(data.draw(st.lists(st.integers(0, 3), min_size=decisions, max_size=decisions)))
    found = decompose(rows, scene, 4)
    there = np.isin(np.arange(4), scene)
    assert (np.isfinite(found.total) == there).all()
    assert (found.mutual[there] >= 0).all() and (found.epistemic[there] >= 0).all()
    assert (found.total[there] <= np.log2(options) + 1e-12).all()
    np.testing.assert_allclose(found.total, found.mutual + found.epistemic)


@given(st.data(), st.integers(2, 13))
def test_equal_decisions_carry_no_mutual_information(data, options):
    rows = np.repeat(probabilities(data.draw, 1, options), 5, axis=0)
    found = decompose(rows, np.zeros(5, dtype=int), 1)
    assert found.mutual[0] == pytest.approx(0, abs=1e-9)


def test_blocks_give_what_one_pass_gives(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(5), 100).astype(np.float32)
    scene = rng.integers(0, 9, 100)
    whole = decompose(rows, scene, 9)
    monkeypatch.setattr(uncertainty, "_BLOCK", 7)
    for part, other in zip(whole, decompose(rows, scene, 9), strict=True):
        np.testing.assert_allclose(part, other, atol=1e-12)

"""Uncertainty decomposition: units, hand-computed values, invariants (equations 2 and 3)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from usermirrorer.builders.uncertainty import decompose, delta, entropy, stack


def test_entropy_is_in_bits():
    assert entropy(np.array([0.5, 0.5])) == 1.0
    assert entropy(np.array([0.25] * 4)) == 2.0
    assert entropy(np.array([1.0, 0.0])) == 0.0


def test_hand_computed_decomposition():
    """Two sure but opposite decisions: all of the one bit is mutual information."""
    opposite, undecided = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]
    mixed = [[0.9, 0.1], [0.5, 0.5]]
    found = decompose(np.array([opposite, undecided, mixed]))
    np.testing.assert_allclose(found.total, [1.0, 1.0, 0.8812908992], atol=1e-9)
    np.testing.assert_allclose(found.epistemic, [0.0, 1.0, 0.7344977967], atol=1e-9)
    np.testing.assert_allclose(found.mutual, [1.0, 0.0, 0.1467931025], atol=1e-9)


def test_equation_3_is_weak_minus_strong():
    """The scene on which the weak model is unsure and the strong one sure comes first."""
    weak, strong = np.array([2.0, 0.1]), np.array([0.5, 1.5])
    assert delta(weak, strong).argmax() == 0
    np.testing.assert_allclose(delta(weak, strong), [1.5, -1.4])


def test_ragged_scenes_and_malformed_decisions_are_left_out_of_the_means():
    rows = [[[0.5, 0.5], None], [[0.2, 0.3, 0.5]], [None]]
    found = decompose(stack(rows))
    np.testing.assert_allclose(found.epistemic[0], 1.0)
    np.testing.assert_allclose(found.epistemic[1], 1.4854752972, atol=1e-9)
    assert np.isnan(found.epistemic[2]) and np.isnan(found.total[2])


@given(arrays(np.float64, (3, 4, 5), elements=st.floats(1e-6, 1.0)))
def test_mutual_information_and_entropies_stay_in_their_bounds(weights):
    found = decompose(weights / weights.sum(-1, keepdims=True))
    assert (found.mutual >= 0).all()
    assert (found.epistemic >= 0).all()
    assert (found.total <= np.log2(5) + 1e-9).all()
    np.testing.assert_allclose(found.total, found.mutual + found.epistemic)

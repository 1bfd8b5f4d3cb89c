"""Item-item neighbours are learned from the scenes alone, and never from the user who is asked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests import exposures
from usermirrorer.builders.audit import neighbours
from usermirrorer.builders.audit.lists import make_lists


def scenes(*rows: tuple[str, list[str], list[str], int], split: str = "test") -> pa.Table:
    """Return scenes of (user, history, exposure, answer), all options of equal number."""
    table = exposures.scenes(len(rows), users=len(rows), split=split, options=(2, 2))
    users, histories, options, answers = zip(*rows, strict=True)
    targets = [shown[answer] for shown, answer in zip(options, answers, strict=True)]
    new = {
        "user_id": list(users),
        "item_id": targets,
        "history_item_ids": list(histories),
        "exposure_item_ids": list(options),
        "answer": list(answers),
    }
    for name, values in new.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(index, field, pa.array(values, field.type))
    return table


TRAIN = [
    ("u1", ["a"], ["b", "z"], 0),  # u1 took a, b
    ("u2", ["a", "b"], ["c", "z"], 0),  # u2 took a, b, c
    ("u3", ["z"], ["c", "a"], 0),  # u3 took z, c
]


def test_an_option_scores_the_sum_of_its_cosines_to_the_history():
    train = make_lists(scenes(*TRAIN, split="train"))
    test = make_lists(scenes(("new", ["a", "z"], ["b", "c"], 0)))
    cosine = {
        ("a", "b"): 2 / np.sqrt(2 * 2),  # both of u1, u2
        ("z", "b"): 0.0,
        ("a", "c"): 1 / np.sqrt(2 * 2),  # u2
        ("z", "c"): 1 / np.sqrt(1 * 2),  # u3
    }
    expected = [
        cosine["a", "b"] + cosine["z", "b"],
        cosine["a", "c"] + cosine["z", "c"],
    ]
    np.testing.assert_allclose(neighbours.scores(train, test), expected)


def test_what_nobody_took_scores_nothing():
    train = make_lists(scenes(*TRAIN, split="train"))
    test = make_lists(scenes(("new", ["never"], ["b", "unheard of"], 0)))
    np.testing.assert_array_equal(neighbours.scores(train, test), [0.0, 0.0])


def test_a_users_own_choices_tell_nothing_of_that_user():
    # The target is in what its user took: counted, every scene would be solved by itself.
    table = scenes(("u1", ["a"], ["b", "c"], 0), ("u2", ["a"], ["d", "c"], 1))
    alone = neighbours.scores(None, make_lists(table))
    np.testing.assert_allclose(alone, [0.0, 1 / np.sqrt(2), 0.0, 0.0])


@pytest.mark.parametrize("placebo", [False, True])
def test_neighbours_find_taste_where_there_is_some_and_none_in_placebos(placebo):
    train = exposures.scenes(3000, users=300, split="train", placebo=placebo)
    test = make_lists(exposures.scenes(1500, users=60, placebo=placebo))
    right = test.hits(neighbours.scores(make_lists(train), test)).mean()
    assert right < 0.24 if placebo else right > 0.27

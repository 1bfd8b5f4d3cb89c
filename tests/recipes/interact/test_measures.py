"""Measures are those of RecBole, intervals are paired, and facts of a log say what they claim."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from usermirrorer.recipes.interact import exposures, measures, pipeline, published, splits


def _top(*items: int) -> pl.DataFrame:
    return pl.DataFrame({"user": [0] * len(items), "rank": range(len(items)), "item": items})


def test_recall_ndcg_and_mrr_of_a_list_by_hand() -> None:
    test = pl.DataFrame({"user": [0, 0, 0], "item": [7, 8, 99]})
    (got,) = measures.per_user(_top(1, 7, 2, 3, 4, 5, 8, 6, 9, 10), test, 1)
    second, seventh = 1 / np.log2(3), 1 / np.log2(8)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    expected = [1 / 3, 2 / 3, second / ideal, (second + seventh) / ideal, 1 / 2, 1 / 2]
    assert got == pytest.approx(expected)


def test_a_person_whose_items_are_not_listed_counts_as_nothing() -> None:
    test = pl.DataFrame({"user": [0, 1], "item": [50, 1]})
    assert measures.per_user(_top(*range(10)), test, 2) == pytest.approx(np.zeros((2, 6)))


def test_an_interval_is_of_the_paired_difference() -> None:
    people = np.random.default_rng(0).normal(size=200)
    mean, low, high = measures.difference(people + 0.1, people)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))


def test_an_order_agrees_with_itself_and_not_with_its_reverse() -> None:
    real = np.tile([0.1, 0.2, 0.3, 0.4], (30, 1))
    same, turned = measures.order_agreement(real, real), measures.order_agreement(-real, real)
    assert same and turned
    assert (same["tau"], turned["tau"]) == (1, -1)
    assert measures.order_agreement(real[:, :2], real[:, :2]) is None


def test_lift_coverage_and_diversity_by_hand() -> None:
    taken = np.array([10, 1, 1, 0])
    facts = measures.log_facts(np.array([0, 0]), taken, np.array([1, 2]))
    assert facts == {"lift": 10, "coverage": 0.25, "diversity": 0}
    facts = measures.log_facts(np.array([1, 2]), taken, np.array([1, 2]))
    assert facts == {"lift": 1, "coverage": 0.5, "diversity": 1}


@pytest.mark.parametrize(
    ("source", "name", "column", "printed"),
    [
        ("movielens", "LightGCN", 0, "17.6%"),
        ("movielens", "NARM", 5, "18.5%"),
        ("movielens", "SASRec", 1, "9.5%"),
        ("steam", "DiffRec", 4, "32.9%"),
        ("steam", "NeuMF", 0, "-0.9%"),
        ("steam", "SimpleX", 5, "23.2%"),
    ],
)
def test_printed_rows_give_the_printed_improvement(
    source: str, name: str, column: int, printed: str
) -> None:
    rows = published.PRINTED[source][name]
    gain = measures.improvement(rows["SFT+DPO"][column], rows["Backbone"][column])
    assert gain is not None
    # The paper rounds from numbers that it does not print.
    assert 100 * gain == pytest.approx(float(printed.rstrip("%")), abs=0.11)


def test_an_order_with_one_pair_turned_agrees_in_four_of_six_more() -> None:
    """Of six pairs of four recommenders five agree and one does not: tau is (5 - 1) / 6."""
    real = np.tile([0.1, 0.2, 0.3, 0.4], (30, 1))
    turned = measures.order_agreement(np.tile([0.2, 0.1, 0.3, 0.4], (30, 1)), real)
    assert turned == pytest.approx({"tau": 4 / 6, "low": 4 / 6, "high": 4 / 6})
    mixed = real.copy()
    mixed[:12, :2] = mixed[:12, 1::-1]  # two people in five see the first pair the other way round
    some = measures.order_agreement(mixed, real)
    assert some is not None
    assert (some["tau"], some["high"]) == (1, 1)
    assert some["low"] == pytest.approx(4 / 6)  # in more than one draw in forty they are the most


def test_diversity_counts_pairs_of_people_and_lift_what_they_really_took() -> None:
    taken = np.array([8, 2, 0, 0])
    facts = measures.log_facts(np.array([0, 0, 1]), taken, np.array([1, 1, 2]))
    # Two of the six ordered pairs have the same item; (8 + 8 + 2) / 3 over (2 + 2 + 0) / 3.
    assert facts == pytest.approx({"lift": 18 / 4, "coverage": 2 / 4, "diversity": 1 - 2 / 6})


def test_a_simulator_s_view_of_a_list_is_the_gain_expected_over_its_choice() -> None:
    names = ("BPR", "NeuMF", "NGCF")
    # Two people take item 0 later; it stands first, second and last of the three lists.
    places = dict(zip(names, (0, 1, 9), strict=True))
    log = pl.DataFrame({"user": [0, 1], "item": [0, 0], "part": ["test", "test"]})
    lists, by_rank = {}, {}
    for name, place in places.items():
        ranked = np.tile(np.insert(np.arange(1, 10), place, 0), (2, 1))
        lists[name, 0] = exposures.Shown(ranked, np.tile(np.arange(10), (2, 1)))
        p = np.zeros((2, 10))
        p[:, place], p[:, 5] = 0.75, 0.25
        by_rank[name, 0] = p
    plan = pipeline.Plan(names, {"tuned": "m"}, seeds=1)
    split = splits.Split(log, ["a", "b"], np.arange(10), 0, 0)
    world: Any = SimpleNamespace(plan=plan, split=split)
    told = pipeline._fidelity(world, lists, {"tuned": {"by_rank": by_rank}})
    gain = [1 / np.log2(2 + place) for place in (0, 1, 9)]
    assert list(told["people"].values()) == pytest.approx(gain)
    sixth = 1 / np.log2(7)
    views = [0.75 * g + 0.25 * sixth for g in gain]
    assert list(told["tuned"]["gain"].values()) == pytest.approx(views)
    assert told["tuned"]["agreement"] == {"tau": 1, "low": 1, "high": 1}


def test_what_is_said_of_labels_is_told_of_the_ranks_behind_them() -> None:
    order = np.array([[2, 0, 1], [1, 2, 0]])  # the rank of the item under A, B and C
    shown = exposures.Shown(np.zeros((2, 3), int), order)
    labels, likely = np.array([0, 2]), np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    ranks, by_rank = exposures.by_rank(shown, labels, likely)
    assert ranks.tolist() == [2, 0]
    assert by_rank.tolist() == [[0.3, 0.2, 0.5], [0.7, 0.1, 0.2]]

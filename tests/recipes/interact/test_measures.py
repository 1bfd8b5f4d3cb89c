"""Measures are those of RecBole, intervals are paired, and facts of a log say what they claim."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from usermirrorer.recipes.interact import measures, published


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

"""Selection and rejection sampling on decisions whose outcome is known by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usermirrorer.builders import distill
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.prompts import parse
from usermirrorer.builders.schema import DECISION, PREFERENCE

THOUGHT = (
    "Thought:\nStimulus: {0}\nStimulus Factors: b\nKnowledge: c\nKnowledge Factors: d\n"
    "Evaluation: e\nEvaluation Style: Logical"
)


def scene(name, answer=0, options=4, source="movielens"):
    return {
        "scene_id": name,
        "domain": source,
        "source": source,
        "profile": "p",
        "history": ["h"],
        "exposure": [f"film {i}" for i in range(options)],
        "answer": answer,
        "timestamp": datetime(2020, 1, 1, tzinfo=UTC),
    }


def decision(name, model, sample, behavior, entropy, malformed=""):
    p = [0.7, 0.1, 0.1, 0.1] if entropy < 1.5 else [0.25] * 4
    return {
        "scene_id": name,
        "model": model,
        "sample": sample,
        "text": "t",
        "thought": "" if malformed else THOUGHT.format(f"{model} {sample}"),
        "behavior": None if malformed else behavior,
        "malformed": malformed,
        "probabilities": None if malformed else p,
        "entropy": None if malformed else entropy,
        "tokens_in": 10,
        "tokens_out": 5,
    }


def found(scenes, weak, strong):
    tables = [pa.Table.from_pylist(rows, schema=DECISION) for rows in (weak, strong)]
    return distill.candidates(scenes, *tables)


@pytest.fixture
def three():
    """Scene s0 allows a pair, s1 is never matched by the strong model, s2 is always matched."""
    scenes = [scene("s0"), scene("s1"), scene("s2")]
    weak = [decision(s, "weak", 0, 0 if s == "s2" else 1, 1.9) for s in ("s0", "s1", "s2")]
    strong = [
        decision("s0", "strong", 0, 0, 1.4),
        decision("s0", "strong", 1, 0, 0.9),
        decision("s0", "strong", 2, 2, 1.1),
        decision("s1", "strong", 0, 3, 0.9),
        decision("s2", "strong", 0, 0, 0.9),
    ]
    return found(scenes, weak, strong)


def test_chosen_and_rejected_are_the_most_confident_on_their_side(three):
    table, fate = distill.distill(three, 1)
    (pair,) = table.to_pylist()
    assert table.schema.equals(PREFERENCE)
    assert pair["scene_id"] == "s0"
    assert "strong 1" in pair["chosen"][0]["content"]
    assert "strong 2" in pair["rejected"][0]["content"]
    assert pair["chosen_entropy"] == pytest.approx(0.9)
    assert fate["never matched by the strong model (likely noise)"] == 1
    assert fate["always matched: nothing to reject"] == 1


def test_both_texts_end_with_their_own_behavior(three):
    (pair,) = distill.distill(three, 1)[0].to_pylist()
    for side, behavior in (("chosen", "A"), ("rejected", "C")):
        content = pair[side][0]["content"]
        assert content.endswith(f"\nBehavior: [{behavior}]")
        assert parse(content, pair["options"]).malformed == ""
        assert pair[f"{side}_behavior"] == behavior


def test_a_correct_decision_of_the_weak_model_does_not_save_a_scene():
    """Appendix B.2: a scene counts as noise when all behaviors of the stronger model miss."""
    weak = [decision("s", "weak", 0, 0, 0.9)]
    strong = [decision("s", "strong", 0, 1, 0.9)]
    with pytest.raises(UserError, match="never matched"):
        distill.distill(found([scene("s")], weak, strong), 1)


def many(count=12):
    """Scenes with growing uncertainty of the weak model, in two sources of unequal size."""
    scenes, weak, strong = [], [], []
    for i in range(count):
        name = f"s{i:02d}"
        scenes.append(scene(name, source="steam" if i % 3 == 0 else "movielens"))
        weak.append(decision(name, "weak", 0, 1, 1.9 if i >= count // 2 else 1.0))
        strong += [decision(name, "strong", 0, 0, 1.0), decision(name, "strong", 1, 2, 1.0)]
    return found(scenes, weak, strong)


def test_largest_difference_weak_minus_strong_is_kept():
    """A planted sign error would keep the scenes on which the weak model is as sure."""
    table = distill.distill(many(), 6)[0]
    assert min(table["epistemic_delta"].to_pylist()) > 0.3
    assert all(row >= "s06" for row in table["scene_id"].to_pylist())


def test_pairs_are_shared_by_source_in_proportion():
    sources = distill.distill(many(), 6)[0]["source"].to_pylist()
    assert sources.count("steam") == 2 and sources.count("movielens") == 4


@pytest.mark.parametrize("strategy", sorted(distill.STRATEGIES))
def test_every_strategy_gives_the_asked_number_from_the_same_candidates(strategy):
    table = distill.distill(many(), 5, strategy=strategy)[0]
    assert table.num_rows == 5 == len(set(table["scene_id"].to_pylist()))


def test_too_few_scenes_are_a_clear_error_and_fewer_pairs_on_request(three):
    with pytest.raises(UserError, match="only 1 of 3 scenes"):
        distill.distill(three, 2)
    assert distill.distill(three, 2, exact=False)[0].num_rows == 1


def test_malformed_decisions_are_neither_chosen_nor_rejected():
    weak = [decision("s", "weak", 0, 1, 0.8)]
    strong = [decision("s", "strong", 0, 0, 0.9), decision("s", "strong", 1, 2, 0.1, "no behavior")]
    (pair,) = distill.distill(found([scene("s")], weak, strong), 1)[0].to_pylist()
    assert pair["rejected_model"] == "weak"


def test_unjudged_decisions_are_a_clear_error():
    bare = {**decision("s", "strong", 0, 0, 1.0), "probabilities": None, "entropy": None}
    with pytest.raises(UserError, match="not scored by the judge"):
        found([scene("s")], [decision("s", "weak", 0, 1, 1.0)], [bare])


@given(st.dictionaries(st.integers(), st.integers(1, 50), min_size=1), st.data())
def test_quotas_add_up_and_fit(sizes, data):
    total = data.draw(st.integers(0, sum(sizes.values())))
    shares = distill.quotas(sizes, total)
    assert sum(shares.values()) == total
    assert all(0 <= shares[cell] <= sizes[cell] for cell in sizes)

"""Selection and rejection sampling on decisions whose outcome is known by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders.distil.distil_rows import decision, many, scene, write
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import PREFERENCE
from usermirrorer.builders.decisions.prompts import messages, parse
from usermirrorer.builders.distil import candidates, pairs, strategies


@pytest.fixture
def found(tmp_path):
    """Return a function that writes the three files and reads them as candidates."""
    return lambda *rows, **more: candidates.candidates(*write(tmp_path, *rows, **more))


@pytest.fixture
def three(found):
    """Scene s0 allows a pair, s1 is never matched by the strong model, s2 is always matched."""
    scenes = [scene("s0"), scene("s1"), scene("s2")]
    weak = [decision(s, "weak", 0, 0 if s == "s2" else 1, 1.9) for s in ("s0", "s1", "s2")]
    strong = [
        decision("s0", "strong", 0, 0, 1.4),
        decision("s0", "strong", 1, 0, 0.9, own=0.8),
        decision("s0", "strong", 2, 2, 1.1),
        decision("s1", "strong", 0, 3, 0.9),
        decision("s2", "strong", 0, 0, 0.9),
    ]
    return found(scenes, weak, strong)


def test_chosen_and_rejected_are_the_most_confident_on_their_side(three):
    table, counts = pairs.make_pairs(three, 1)
    (pair,) = table.to_pylist()
    assert table.schema.equals(PREFERENCE)
    assert pair["scene_id"] == "s0"
    assert "strong 1" in pair["chosen"][0]["content"]
    assert "strong 2" in pair["rejected"][0]["content"]
    assert pair["chosen_entropy"] == pytest.approx(0.9)
    assert counts == {
        "scenes": 3,
        candidates.NEVER: 1,
        candidates.ALWAYS: 1,
        "candidates": 1,
        "pairs": 1,
    }


def test_a_judge_sure_of_another_option_makes_no_decision_confident(found):
    """Sample 0 has the lower entropy, for the judge is sure that its behavior is not taken."""
    strong = [
        decision("s", "strong", 0, 0, 0.2, own=0.01),
        decision("s", "strong", 1, 0, 1.4, own=0.6),
        decision("s", "strong", 2, 1, 0.1, own=0.02),
        decision("s", "strong", 3, 2, 1.3, own=0.5),
    ]
    weak = [decision("s", "weak", 0, 3, 0.1, own=0.01)]
    (pair,) = pairs.make_pairs(found([scene("s")], weak, strong), 1)[0].to_pylist()
    assert "strong 1" in pair["chosen"][0]["content"]
    assert "strong 3" in pair["rejected"][0]["content"]
    assert (pair["chosen_behavior"], pair["rejected_behavior"]) == ("A", "C")


def test_equally_confident_decisions_go_by_sample(found):
    strong = [decision("s", "strong", n, b, 1.0) for n, b in ((5, 0), (2, 0), (3, 1))]
    weak = [decision("s", "weak", n, 2, 0.5) for n in (4, 1)]
    (pair,) = pairs.make_pairs(found([scene("s")], weak, strong), 1)[0].to_pylist()
    assert "strong 2" in pair["chosen"][0]["content"]
    assert "weak 1" in pair["rejected"][0]["content"]


def test_both_texts_end_with_their_own_behavior(three):
    (pair,) = pairs.make_pairs(three, 1)[0].to_pylist()
    for side, behavior in (("chosen", "A"), ("rejected", "C")):
        content = pair[side][0]["content"]
        assert content.endswith(f"\nBehavior: [{behavior}]")
        assert parse(content, pair["options"]).malformed == ""
        assert pair[f"{side}_behavior"] == behavior


def test_a_correct_decision_of_the_weak_model_does_not_save_a_scene(found):
    """Appendix B.2: a scene counts as noise when all behaviors of the stronger model miss."""
    weak = [decision("s", "weak", 0, 0, 0.9)]
    strong = [decision("s", "strong", 0, 1, 0.9)]
    with pytest.raises(UserError, match="never matched"):
        pairs.make_pairs(found([scene("s")], weak, strong), 1)


def test_largest_difference_weak_minus_strong_is_kept(found):
    """A planted sign error would keep the scenes on which the weak model is as sure."""
    table = pairs.make_pairs(found(*many()), 6)[0]
    assert min(table["epistemic_delta"].to_pylist()) > 0.3
    assert all(row >= "s06" for row in table["scene_id"].to_pylist())


def test_every_cell_of_source_and_number_of_options_has_its_share(found):
    """24 scenes in cells of 12, 8 and 4: half of them are 6, 4 and 2, whatever the ranking."""
    cells = [("steam", 4)] * 12 + [("steam", 3)] * 8 + [("mind", 4)] * 4
    scenes = [scene(f"s{i:02d}", 0, k, source) for i, (source, k) in enumerate(cells)]
    weak = [decision(s["scene_id"], "weak", 0, 1, 1.9, k=len(s["exposure"])) for s in scenes]
    strong = [decision(s["scene_id"], "strong", 0, 0, 1.0, k=len(s["exposure"])) for s in scenes]
    candidates = found(scenes, weak, strong)
    for strategy in ("delta_eu", "random"):
        made = pairs.make_pairs(candidates, 12, strategy=strategy)[0].to_pylist()
        taken = Counter((pair["source"], pair["options"]) for pair in made)
        assert taken == {("steam", 4): 6, ("steam", 3): 4, ("mind", 4): 2}


@pytest.mark.parametrize("strategy", sorted(strategies.STRATEGIES))
def test_every_strategy_gives_the_asked_number_from_the_same_candidates(found, strategy):
    candidates = found(*many())
    candidates = replace(candidates, ifd=np.linspace(0.5, 0.9, 12))
    table, counts = pairs.make_pairs(candidates, 5, strategy=strategy)
    assert table.schema.equals(PREFERENCE)
    assert table.num_rows == 5 == len(set(table["scene_id"].to_pylist())) == counts["pairs"]
    assert counts["candidates"] == 12


def accuracies(found):
    """The strong model is right once, twice and three times of four, the weak one never or once."""
    scenes = [scene(f"s{i}") for i in range(3)]
    right = {"weak": (0, 0, 2), "strong": (1, 2, 3)}
    rows = {
        model: [
            decision(f"s{i}", model, n, 0 if n < matched else 1, 1.0)
            for i, matched in enumerate(counts)
            for n in range(4)
        ]
        for model, counts in right.items()
    }
    return found(scenes, rows["weak"], rows["strong"])


@pytest.mark.parametrize(
    ("strategy", "first"),
    [("high_accuracy", "s2"), ("low_accuracy", "s0"), ("difference_accuracy", "s1")],
)
def test_accuracy_strategies_take_the_scene_they_name(found, strategy, first):
    made = pairs.make_pairs(accuracies(found), 1, strategy=strategy)[0]
    assert made["scene_id"].to_pylist() == [first]


def test_hard_responses_come_first_and_those_the_prompt_does_not_help_last(found):
    candidates = replace(accuracies(found), ifd=np.array([1.2, 0.9, 0.4]))
    made = pairs.make_pairs(candidates, 3, strategy="ifd")[0]
    assert made["scene_id"].to_pylist() == ["s1", "s2", "s0"]


@pytest.mark.parametrize("strategy", ["delta_eu", "random_direct"])
def test_prompts_keep_to_the_room_by_leaving_out_oldest_history(found, strategy):
    """Counted in characters; without a count prompts are whole."""
    scenes, weak, strong = many()
    scenes = [{**s, "history": [f"film {i:02d}" for i in range(20)]} for s in scenes]
    candidates = found(scenes, weak, strong)
    whole = pairs.make_pairs(candidates, 4, strategy=strategy)[0]["prompt"].to_pylist()
    room = len(whole[0][0]["content"]) + len(whole[0][1]["content"]) - 60

    def characters(prompt):
        return sum(len(message["content"]) for message in prompt)

    cut = pairs.make_pairs(candidates, 4, strategy=strategy, count=characters, room=room)[0]
    for before, pair in zip(whole, cut.to_pylist(), strict=True):
        text = pair["prompt"][1]["content"]
        assert room - 60 < characters(pair["prompt"]) <= room < characters(before)
        assert "film 00" not in text and "film 19" in text
        exposed = next(s["exposure"] for s in scenes if s["scene_id"] == pair["scene_id"])
        assert all(option in text for option in exposed)


def test_random_without_decisions_has_the_scenes_of_random_and_behaviors_alone(found):
    scenes, weak, strong = many()
    candidates = found(scenes, weak, strong)
    with_, without = (
        pairs.make_pairs(candidates, 5, strategy=name, seed=7)[0].to_pylist()
        for name in ("random", "random_direct")
    )
    prompts = {s["scene_id"]: messages(s, "direct") for s in scenes}
    for one, other in zip(with_, without, strict=True):
        assert one["scene_id"] == other["scene_id"]
        assert other["prompt"] == prompts[other["scene_id"]] != one["prompt"]
        for side in ("chosen", "rejected"):
            behavior = one[f"{side}_behavior"]
            assert other[side] == [{"role": "assistant", "content": f"Behavior: [{behavior}]"}]


def test_another_seed_draws_other_scenes(found):
    candidates = found(*many())
    drawn = {
        tuple(pairs.make_pairs(candidates, 5, strategy="random", seed=seed)[0]["scene_id"])
        for seed in range(4)
    }
    assert len(drawn) == 4


def test_too_few_scenes_are_a_clear_error_and_fewer_pairs_on_request(three):
    with pytest.raises(UserError, match=r"2 pairs wanted, but only 1 of 3 .*1 never matched"):
        pairs.make_pairs(three, 2)
    assert pairs.make_pairs(three, 2, exact=False)[0].num_rows == 1


def test_malformed_decisions_are_neither_chosen_nor_rejected(found):
    weak = [decision("s", "weak", 0, 1, 0.8)]
    strong = [decision("s", "strong", 0, 0, 0.9), decision("s", "strong", 1, 2, 0.1, "no behavior")]
    (pair,) = pairs.make_pairs(found([scene("s")], weak, strong), 1)[0].to_pylist()
    assert pair["rejected_model"] == "weak"


def test_scenes_that_one_model_did_not_decide_on_are_left_out(found):
    scenes, weak, strong = many()
    candidates = found(scenes, weak[1:], strong)
    assert candidates.counts["scenes"] == 11
    assert pairs.make_pairs(candidates, 11)[1]["pairs"] == 11


def changed(rows, **more):
    return [{**rows[0], **more}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: changed(r, probabilities=None, entropy=None), "not scored by the judge"),
        (lambda r: changed(r, probabilities=[0.5, 0.5]), "do not fit their scene's options"),
        (lambda r: changed(r, probabilities=[0.5, 0.9, 0.1, 0.1]), "do not fit"),
        (lambda r: changed(r, probabilities=[float("nan"), 0.4, 0.3, 0.3]), "do not fit"),
        (lambda r: changed(r, behavior=4), "behavior that is not among"),
        (lambda r: [*r, r[0]], "are there twice"),
        (lambda r: changed(r, thought=r[0]["thought"] + "\nBehavior: [B]"), "several behaviors"),
        (lambda r: changed(r, thought=""), "missing stimulus"),
    ],
)
def test_a_planted_fault_in_the_decisions_is_one_clear_line(found, change, told):
    weak = [decision("s", "weak", 0, 1, 1.9)]
    strong = [decision("s", "strong", 0, 0, 0.9)]
    pairs.make_pairs(found([scene("s")], weak, strong), 1)
    with pytest.raises(UserError, match=told):
        pairs.make_pairs(found([scene("s")], weak, change(strong)), 1)


def test_files_of_other_scenes_or_of_another_kind_are_one_clear_line(tmp_path, found):
    with pytest.raises(UserError, match="no scene of this file was decided on"):
        found([scene("other")], [decision("s", "w", 0, 1, 1.9)], [decision("s", "s", 0, 0, 0.9)])
    scenes, weak, strong = write(tmp_path, *many())
    with pytest.raises(UserError, match="column 'model' is missing"):
        candidates.candidates(scenes, scenes, strong)
    with pytest.raises(UserError, match="does not exist"):
        candidates.candidates(scenes, weak, tmp_path / "none.parquet")


def test_nothing_depends_on_the_order_or_grouping_of_rows(tmp_path, monkeypatch):
    """Shuffled rows in many row groups, read in small blocks, give the same pairs."""
    rng = np.random.default_rng(0)
    scenes, weak, strong = many(40)
    plain = pairs.make_pairs(candidates.candidates(*write(tmp_path, scenes, weak, strong)), 20)[0]
    mixed = [[rows[i] for i in rng.permutation(len(rows))] for rows in (scenes, weak, strong)]
    monkeypatch.setattr(candidates, "BLOCK_ROWS", 3)
    other = candidates.candidates(*write(tmp_path, *mixed, row_group_size=7))
    assert pairs.make_pairs(other, 20)[0].equals(plain)


def test_texts_of_scenes_that_are_not_taken_are_not_looked_at(found):
    scenes, weak, strong = many()
    ruined = [row | ({"thought": ""} if row["scene_id"] < "s06" else {}) for row in strong]
    assert pairs.make_pairs(found(scenes, weak, ruined), 6)[0].num_rows == 6


def reference(answer, weak, strong):
    """Chosen and rejected of one scene, by the words of the paper."""
    right = [row for row in strong if row["behavior"] == answer and not row["malformed"]]
    wrong = [r for r in strong + weak if r["behavior"] not in (answer, None)]
    return [
        min(
            rows,
            key=lambda r: (-r["probabilities"][r["behavior"]], r["sample"], r["model"]),
            default=None,
        )
        for rows in (right, wrong)
    ]


OWN = (0.1, 0.3, 0.7)


def test_columns_choose_what_a_plain_loop_chooses(found):
    """300 scenes of random decisions, ties and malformed ones among them."""
    rng = np.random.default_rng(1)
    names = [f"s{i:03d}" for i in range(300)]
    rows = {
        model: [
            decision(s, model, n, int(rng.integers(4)), bits, bad, own=float(rng.choice(OWN)))
            for s, n in itertools.product(names, range(3))
            for bad in [str(rng.choice(["", "", "", "no behavior"]))]
            for bits in [float(rng.integers(1, 4)) / 2]
        ]
        for model in ("weak", "strong")
    }
    scenes = [scene(s, int(rng.integers(4))) for s in names]
    candidates = found(scenes, rows["weak"], rows["strong"])
    for i, there in enumerate(scenes):
        own = [[r for r in rows[m] if r["scene_id"] == there["scene_id"]] for m in rows]
        for side, best in zip(
            (candidates.chosen, candidates.rejected), reference(there["answer"], *own), strict=True
        ):
            assert (side[i] >= 0) == (best is not None)
            if best is not None:
                d = candidates.decisions
                assert d.names[d.model[side[i]]] == best["model"]
                assert d.sample[side[i]] == best["sample"]
    assert 50 < len(candidates.usable) < 300


@given(st.dictionaries(st.integers(), st.integers(1, 50), min_size=1), st.data())
def test_quotas_add_up_and_are_within_one_of_the_exact_share(sizes, data):
    total = data.draw(st.integers(0, sum(sizes.values())))
    shares = pairs.quotas(sizes, total)
    assert sum(shares.values()) == total
    for cell, size in sizes.items():
        assert 0 <= shares[cell] <= size
        assert abs(shares[cell] - total * size / sum(sizes.values())) < 1


def test_views_have_the_columns_and_values_of_their_stage(found):
    made = pairs.make_pairs(found(*many()), 4)[0]
    (first, *_) = made.to_pylist()
    sft, preference, grpo = (pairs.view(made, name).to_pylist()[0] for name in pairs.VIEWS)
    assert sft == {"prompt": first["prompt"], "completion": first["chosen"]}
    assert preference == {name: first[name] for name in ("prompt", "chosen", "rejected")}
    assert grpo == {"prompt": first["prompt"], "answer": "A", "options": 4}


def test_only_the_taken_rows_come_back_in_the_asked_order(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [str(i) for i in range(50)]}), path, row_group_size=8)
    rows = np.array([49, 3, 16, 15, 3])
    assert candidates._take(path, ["a"], rows)["a"].to_pylist() == [str(i) for i in rows]

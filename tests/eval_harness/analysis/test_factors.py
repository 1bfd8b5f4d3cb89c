"""Factors are merged by the stated rules; what is tied to accuracy is found, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.eval_harness.analysis import planted
from tests.eval_harness.analysis.planted import one, said, table
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS
from usermirrorer.eval_harness.analysis.factors import analyse
from usermirrorer.eval_harness.analysis.inference import association
from usermirrorer.eval_harness.analysis.labels import OTHERS, Merging

MERGING = Merging.of()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("Curiosity, Emotional State", ["Curiosity", "Emotional State"]),
        ("[curiosity; BOREDOM]", ["Curiosity", "Boredom"]),
        (
            "Internal States (Boredom, Curiosity), External Cues (Time of Day)",
            ["Boredom", "Curiosity", "Time of Day"],
        ),
        ("**Internal States**: Fatigue/Restlessness", ["Fatigue/Restlessness"]),
        (
            "Product/Service Attributes (Quality, Personal Relevance (Functional, Thematic), Risk)",
            ["Quality", "Personal Relevance", "Risk"],
        ),
        ("Price (it is low), Rating Score/Distribution", ["Price", "Rating Score/Distribution"]),
        ("Boredom and Curiosity", ["Boredom", "Curiosity"]),
        ("genre preferences, word of mouth", ["Thematic Preferences", "Social Proof"]),
        ("the phase of the moon", [OTHERS]),
        ("Curiosity, curiosity, curious", ["Curiosity", "Curiosity"]),
        ("((((((((", []),
        ("", []),
    ],
)
def test_a_line_of_factors_becomes_names(line, names):
    terms = MERGING.terms(line)
    assert [row.name for row in MERGING.merge(terms, "factors").values()] == names


def test_every_factor_and_style_of_the_prompt_has_its_name():
    """The vocabulary that models are given merges to itself: the table covers the interface."""
    prompt = (DEFAULT_PROMPTS / "decision_system.jinja").read_text(encoding="utf-8")
    for line, kind, least in (
        ("Stimulus Factors", "factors", 18),
        ("Knowledge Factors", "factors", 17),
        ("Evaluation Style", "styles", 4),
    ):
        vocabulary = prompt.split(f"{line}: [")[1].split("]\n")[0].split("of: ")[1]
        pieces = vocabulary.replace("(Functional, Thematic, Identity-Based)", "")
        merged = MERGING.merge(_all_terms(pieces), kind)
        assert len(merged) >= least
        assert all(row.rule == "name" for row in merged.values()), merged


def _all_terms(vocabulary: str) -> list[str]:
    return [term for part in vocabulary.split("), ") for term in MERGING.terms(part)]


def test_a_synonym_table_that_contradicts_itself_is_one_error(tmp_path):
    file = tmp_path / "own.yaml"
    for text, told in (
        ("factors: {A: [x], B: [X!]}\nstyles: {C: []}", "'X!' stands for 'A' and 'B'"),
        ("factors: {A: x}\nstyles: {C: }", "has no list of texts"),
        ("factors: []\nstyles: {C: }", "no table of names"),
        ("- 1", "is no table"),
        ("a: [", "is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            Merging.of(file)
    with pytest.raises(UserError, match="does not exist"):
        Merging.of(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no cosine"):
        Merging.of(threshold=0)


def test_an_encoder_merges_what_the_table_lacks_and_says_how_near_it_was(tiny_encoder):
    merging = Merging.of(embedder=str(tiny_encoder), threshold=0.999)
    merged = merging.merge(["Curiosity", "qwxz qwxz"], "factors")
    assert merged["curiosity"].rule == "name" and merged["curiosity"].similarity is None
    far = merged["qwxz qwxz"]
    assert far.rule == "none" and far.name == OTHERS and far.nearest and far.similarity < 0.999
    near = Merging.of(embedder=str(tiny_encoder), threshold=0.0001).merge(["qwxz qwxz"], "factors")
    assert near["qwxz qwxz"].rule == "embedding" and near["qwxz qwxz"].name == far.nearest


def test_frequencies_by_hand(tmp_path):
    lines = ["Curiosity, Boredom", "curious", "Boredom", "zzz"]
    rows = planted.scenes(4)

    def choose(row, _):
        index = int(row["scene_id"].rpartition("-")[2])
        return {"behavior": 0, "text": said("A", stimulus=lines[index])}

    result = analyse([planted.run(tmp_path, "m", rows, choose)], MERGING)
    counts = {
        row["factor"]: (row["mentions"], row["share"], row["named"])
        for row in table(result, "frequencies", stage="stimulus")
    }
    assert counts == {
        "Curiosity": (2, 0.4, 0.5), "Boredom": (2, 0.4, 0.5), OTHERS: (1, 0.2, 0.25)
    }  # fmt: skip
    rules = {row["term"]: row["rule"] for row in table(result, "terms", stage="stimulus")}
    assert rules == {"boredom": "name", "curiosity": "name", "curious": "synonym", "zzz": "none"}
    styles = table(result, "frequencies", stage="evaluation")
    assert [(row["factor"], row["share"]) for row in styles] == [("Logical", 1.0)]


def factors_model(tied: bool, seed: int):
    """Names factors at random; right in 70 % with Boredom and 30 % without, or 50 % always."""
    draw = random.Random(f"factors/{seed}")

    def choose(row, _):
        names = [n for n in ("Boredom", "Curiosity", "Weather", "Location") if draw.random() < 0.5]
        names = names or ["Thirst"]
        share = (0.7 if "Boredom" in names else 0.3) if tied else 0.5
        style = draw.choice(["Logical", "Intuitive"])
        right = draw.random() < share
        behavior = row["answer"] if right else (row["answer"] + 1) % 5
        text = said(LABELS[behavior], stimulus=", ".join(names), style=style)
        return {"behavior": behavior, "text": text}

    return choose


def test_a_factor_that_is_tied_to_accuracy_is_found_and_no_other(tmp_path):
    rows = planted.scenes(240, per_user=4)
    run = planted.run(tmp_path, "m", rows, factors_model(True, 0), samples=2)
    result = analyse([run], MERGING)
    tied = one(result, "accuracy", stage="stimulus", factor="Boredom")
    assert tied["p_holm"] < 0.01 and 0.25 < tied["difference"] < 0.55
    assert tied["difference_low"] < 0.4 < tied["difference_high"]
    assert tied["accuracy"] == pytest.approx(0.7, abs=0.1)
    assert tied["without"] == pytest.approx(0.3, abs=0.1)
    others = [r for r in table(result, "accuracy") if r["factor"] != "Boredom" and r["p"]]
    assert len(others) >= 4 and all(row["p_holm"] > 0.05 for row in others)


def test_where_nothing_is_tied_hardly_anything_is_found(tmp_path):
    discoveries = 0
    for seed in range(8):
        rows = planted.scenes(60, per_user=3, seed=seed)
        run = planted.run(tmp_path / str(seed), "m", rows, factors_model(False, seed))
        result = analyse([run], MERGING)
        tests = [r["p_holm"] for name in ("accuracy", "amount") for r in table(result, name)]
        discoveries += any(p is not None and p < 0.05 for p in tests)
    assert discoveries <= 2


def test_the_test_keeps_its_level_where_users_differ_and_few_have_the_factor():
    """400 draws without any tie: 5 % of the p-values lie below 0.05, within four errors."""
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(25), 6)
    below = 0
    for _ in range(400):
        skill = generator.random(25)[users]
        habit = generator.random(25)[users] ** 4
        x, y = generator.random(150) < habit, generator.random(150) < skill
        told = association(x, y, ["s"] * 150, [str(user) for user in users])
        below += told is not None and told.p_value < 0.05
    assert below / 400 < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5


def test_longer_decisions_that_are_right_more_often_are_found(tmp_path):
    draw = random.Random(7)

    def choose(row, _):
        words = draw.randrange(1, 40)
        right = draw.random() < 0.2 + 0.6 * words / 40
        behavior = row["answer"] if right else (row["answer"] + 1) % 5
        return {"behavior": behavior, "text": said(LABELS[behavior], knowing="very " * words)}

    result = analyse([planted.run(tmp_path, "m", planted.scenes(300), choose)], MERGING)
    longer = one(result, "amount", quantity="knowledge_words")
    assert longer["p_holm"] < 0.01 and longer["slope"] == pytest.approx(0.6 * 11.3 / 40, abs=0.08)
    assert one(result, "amount", quantity="stimulus_factors")["slope"] is None  # never varies
    parts = table(result, "bins", quantity="knowledge_words")
    assert len(parts) == 5 and parts[0]["accuracy"] < parts[-1]["accuracy"]


def test_differences_between_sources_are_no_effect_of_a_factor(tmp_path):
    """One source is easy and its decisions name Boredom more: within sources there is no tie."""
    draw = random.Random(3)

    def choose(row, _):
        easy = row["source"] == "steam"
        names = "Boredom" if draw.random() < (0.8 if easy else 0.2) else "Curiosity"
        right = draw.random() < (0.9 if easy else 0.2)
        behavior = row["answer"] if right else (row["answer"] + 1) % 5
        return {"behavior": behavior, "text": said(LABELS[behavior], stimulus=names)}

    rows = [*planted.scenes(200), *planted.scenes(200, source="steam")]
    result = analyse([planted.run(tmp_path, "m", rows, choose)], MERGING)
    row = one(result, "accuracy", stage="stimulus", factor="Boredom")
    assert row["accuracy"] - row["without"] > 0.3 and row["p"] > 0.05


def test_one_user_and_malformed_decisions_alone(tmp_path):
    rows = planted.scenes(6, per_user=6)
    result = analyse([planted.run(tmp_path, "m", rows, planted.right_with(0.5))], MERGING)
    row = one(result, "accuracy", stage="stimulus", factor="Curiosity")
    assert row["accuracy"] is not None and row["accuracy_low"] is None and row["p"] is None
    broken = planted.run(tmp_path / "b", "b", rows, lambda *_: {"text": "no idea"})
    with pytest.raises(UserError, match="no well-formed decision"):
        analyse([broken], MERGING)

"""Each analysis against values computed by hand, and against planted truths."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from tests.eval_harness.analysis.planted import one, right_with, run, said, scenes, table
from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis import (
    ablation,
    calibration,
    learning_curve,
    style,
    transfer,
)

# -- calibration


def with_probabilities(rows):
    """A choice whose distribution is that of the scene's number."""

    def choose(row, _):
        return {"behavior": 0, "probabilities": rows[int(row["scene_id"].rpartition("-")[2])]}

    return choose


def test_entropy_and_calibration_error_by_hand(tmp_path):
    rows = scenes(4, options=2)
    for row, answer in zip(rows, (0, 1, 0, 0), strict=True):
        row["answer"] = answer
    own = [[0.75, 0.25], [0.75, 0.25], [0.5, 0.5], [1.0, 0.0]]
    result = calibration.analyse([run(tmp_path, "m", rows, with_probabilities(own))])
    quarter = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    told = one(result, "entropy")
    assert told["entropy"] == pytest.approx((2 * quarter + 1) / 4)
    assert told["normalised"] == told["entropy"]  # two options: log2 k is 1
    errors = one(result, "errors")
    # Bins: [0.5, 0.6): right 0.5 of 0.5, a tie; [0.7, 0.8): 0.5 of 0.75, twice; [0.9, 1]: 1 of 1.
    assert errors["ece"] == pytest.approx(2 / 4 * 0.25)
    assert errors["confidence"] == pytest.approx(0.75) and errors["right"] == pytest.approx(0.625)
    assert errors["brier"] == pytest.approx((0.125 + 1.125 + 0.5 + 0) / 4)
    curve = [(r["low"], r["scenes"], r["right"]) for r in table(result, "curve")]
    assert curve == [(0.5, 1, 0.5), (0.7, 2, 0.5), (0.9, 1, 1.0)]
    two = calibration.analyse([run(tmp_path, "m", rows, with_probabilities(own))], 2)
    assert one(two, "errors")["ece"] == pytest.approx(0.125)  # one bin: |2.5 - 3.0| / 4


def test_entropy_of_decisions_is_averaged_and_their_mean_is_more_uncertain(tmp_path):
    rows = scenes(2, options=2)

    def sure_but_divided(row, sample):
        return {"behavior": sample, "probabilities": [[1.0, 0.0], [0.0, 1.0]][sample]}

    result = calibration.analyse([run(tmp_path, "m", rows, sure_but_divided, samples=2)])
    told = one(result, "entropy")
    assert (told["entropy"], told["total"]) == (0.0, 1.0)


def test_a_calibrated_model_shows_no_more_error_than_is_said_beside_it(tmp_path):
    draw = random.Random(5)
    rows, own = scenes(500, options=4, per_user=2), []
    for row in rows:
        weights = [draw.random() ** 2 + 0.01 for _ in range(4)]
        own.append([weight / sum(weights) for weight in weights])
        row["answer"] = draw.choices(range(4), own[-1])[0]
    result = calibration.analyse([run(tmp_path, "calibrated", rows, with_probabilities(own))])
    told = one(result, "errors")
    assert told["ece"] < 2 * told["ece_if_calibrated"]
    sure = [[0.97 if p == max(row) else 0.01 for p in row] for row in own]
    result = calibration.analyse([run(tmp_path, "sure", rows, with_probabilities(sure))])
    told = one(result, "errors")
    assert told["ece"] > 5 * told["ece_if_calibrated"] and told["ece_low"] > 0.1


def test_differences_of_entropy_are_paired_by_scene(tmp_path):
    rows = scenes(12, options=2)
    vague = [[0.5, 0.5] if i % 2 else [0.9, 0.1] for i in range(12)]
    surer = [[0.6, 0.4] if i % 2 else [0.95, 0.05] for i in range(12)]
    runs = [
        run(tmp_path, name, rows, with_probabilities(own))
        for name, own in (("base", vague), ("sft", surer))
    ]
    told = one(calibration.analyse(runs), "entropy", result="sft")
    assert told["difference"] < 0 and told["difference_high"] < 0
    assert told["p"] == pytest.approx(2 / 2**12)  # every one of twelve users' signs alike
    assert one(calibration.analyse(runs), "entropy", result="base")["p"] is None


def test_what_cannot_be_calibrated_is_one_error(tmp_path):
    plain = run(tmp_path, "plain", scenes(3), right_with(1))
    with pytest.raises(UserError, match="plain: has no probabilities"):
        calibration.analyse([plain])
    with pytest.raises(UserError, match="between 2 and 100"):
        calibration.analyse([plain], 1)


# -- ablation


def reads(feature: str):
    """A model that is right where one feature is shown, and guesses where it is not."""

    def variants(name: str):
        shown = name in ("full", f"only-{feature}") or (
            name.startswith("without-") and name != f"without-{feature}"
        )
        draw = random.Random(f"{feature}/{name}")
        return lambda row, _: {"behavior": row["answer"] if shown else draw.randrange(5)}

    return variants


def test_a_model_that_uses_one_feature_is_found_out(tmp_path):
    rows, model = scenes(120, per_user=2), reads("title")
    names = [
        "full",
        *(f"{how}-{f}" for f in ("title", "price", "tags") for how in ("only", "without")),
    ]
    result = ablation.analyse([run(tmp_path, name, rows, model(name)) for name in names])
    title = one(result, "features", feature="title")
    assert title["retained"] == 1 and title["gain_p_holm"] < 0.01
    assert title["loss"] == pytest.approx(0.8, abs=0.12) and title["loss_p_holm"] < 0.01
    assert title["loss_low"] < 0.8 < title["loss_high"]
    for feature in ("price", "tags"):
        row = one(result, "features", feature=feature)
        assert row["loss"] == 0 and row["loss_p_holm"] == 1
        assert row["retained"] == pytest.approx(0.2, abs=0.12) and row["gain_p_holm"] > 0.05
    assert table(result, "features")[0]["feature"] == "title"  # the costliest first
    assert one(result, "base")["chance"] == pytest.approx(0.2)


def test_losses_are_paired_by_scene(tmp_path):
    rows = scenes(40)
    full = run(tmp_path, "full", rows, right_with(0.5, 1))
    easy = [row for row in rows if full.answers[row["scene_id"]].right]
    same = run(tmp_path, "without-x", easy, lambda row, _: {"behavior": row["answer"]})
    told = one(ablation.analyse([full, same]), "features")
    assert told["loss"] == 0 and told["scenes"] == len(easy) < 40


def test_names_and_scenes_that_do_not_fit_are_one_error(tmp_path):
    rows = scenes(6)
    full, other = (run(tmp_path, name, rows, right_with(1)) for name in ("full", "title"))
    for runs, told in (
        ([full, other], "'title' does not say what was shown"),
        ([other], "none of the results is called 'full'"),
        ([full], "nothing was kept alone"),
        ([full, run(tmp_path, "only-x", scenes(3, source="steam"), right_with(1))], "no scene in"),
        ([full, run(tmp_path, "only-y", scenes(6, seed=4), right_with(1))], "is another one in"),
    ):
        with pytest.raises(UserError, match=told):
            ablation.analyse(runs)


# -- style

HYPOTHESIS, REFERENCE = "the cat on the mat", "the cat sat on the mat"


def saying(text: str):
    return lambda row, _: {"behavior": 0, "text": f"{text}\nBehavior: [A]"}


def test_rouge_and_bleu_by_hand(tmp_path):
    rows = scenes(3)
    teacher = run(tmp_path, "teacher", rows, saying(REFERENCE))
    result = style.analyse([run(tmp_path, "m", rows, saying(HYPOTHESIS))], teacher)
    told = one(result, "style", result="m")
    assert told["rouge_l"] == pytest.approx(10 / 11)  # 5 in order: precision 5/5, recall 5/6
    assert told["rouge_2"] == pytest.approx(2 / 3)  # 3 pairs: precision 3/4, recall 3/5
    assert told["bleu_2"] == pytest.approx(math.exp(1 - 6 / 5) * math.sqrt(5 / 5 * 3 / 4))
    assert told["length_ratio"] == pytest.approx(7 / 8)  # with `Behavior: [A]`
    last = table(result, "style")[-1]
    assert last["result"] == "teacher" and last["rouge_l"] is None


def test_the_teacher_is_like_itself_and_other_words_are_not(tmp_path):
    rows = scenes(4)
    teacher = run(tmp_path, "teacher", rows, lambda row, _: {"behavior": 0, "text": said("A")})
    same = run(tmp_path, "same", rows, lambda row, _: {"behavior": 1, "text": said("B")})
    other = run(tmp_path, "other", rows, saying("zebra quagga okapi"))
    result = style.analyse([same, other], teacher)
    told = one(result, "style", result="same")
    assert (told["rouge_l"], told["rouge_2"], told["bleu_2"]) == pytest.approx((1, 1, 1))
    told = one(result, "style", result="other")
    assert (told["rouge_l"], told["rouge_2"], told["bleu_2"]) == (0, 0, 0)


def test_samples_are_compared_one_by_one(tmp_path):
    rows = scenes(2)
    both = [HYPOTHESIS, "zebra quagga okapi gnu"]
    swapped = lambda row, sample: {"behavior": 0, "text": both[1 - sample] + "\nBehavior: [A]"}  # noqa: E731
    straight = lambda row, sample: {"behavior": 0, "text": both[sample] + "\nBehavior: [A]"}  # noqa: E731
    teacher = run(tmp_path, "t", rows, straight, samples=2)
    like = style.analyse([run(tmp_path, "a", rows, straight, samples=2)], teacher)
    unlike = style.analyse([run(tmp_path, "b", rows, swapped, samples=2)], teacher)
    assert one(like, "style", result="a")["rouge_l"] == 1
    assert one(unlike, "style", result="b")["rouge_l"] == 0


def test_corpus_bleu_is_what_sacrebleu_makes_of_all_texts(tmp_path):
    from sacrebleu.metrics.bleu import BLEU

    draw = random.Random(2)
    words = ["one", "two", "three", "four", "five", "six"]
    rows = scenes(20)
    mine, theirs = ([" ".join(draw.choices(words, k=9)) for _ in rows] for _ in range(2))
    number = lambda row: int(row["scene_id"].rpartition("-")[2])  # noqa: E731
    teacher = run(tmp_path, "t", rows, lambda row, _: saying(theirs[number(row)])(row, 0))
    own = run(tmp_path, "m", rows, lambda row, _: saying(mine[number(row)])(row, 0))
    told = one(style.analyse([own], teacher), "style", result="m")
    whole = BLEU(max_ngram_order=2, smooth_method="none").corpus_score(mine, [theirs])
    assert told["bleu_2"] == pytest.approx(whole.score / 100)
    assert told["bleu_2_low"] < told["bleu_2"] < told["bleu_2_high"]


def test_style_without_common_decisions_is_one_error(tmp_path):
    teacher = run(tmp_path, "t", scenes(2, source="steam"), right_with(1))
    with pytest.raises(UserError, match="no decision of a scene that the teacher decided"):
        style.analyse([run(tmp_path, "m", scenes(2), right_with(1))], teacher)


# -- learning curve


def test_a_power_law_is_recovered():
    pairs = np.array([1_000.0, 2_000, 5_000, 10_000, 20_000, 40_000])
    made = learning_curve.fit(pairs, 0.6 - 8 * pairs**-0.5, np.ones(6))
    assert made.c == pytest.approx(0.5, rel=0.06) and made.a == pytest.approx(0.6, abs=0.01)
    assert np.allclose(made.at(pairs), 0.6 - 8 * pairs**-0.5, atol=0.002)
    line = learning_curve.fit(pairs[:3], 0.1 + 0.03 * np.log2(pairs[:3]), np.ones(3))
    assert (line.a, line.b, line.c) == pytest.approx((0.1, 0.03, None))
    assert learning_curve.fit(pairs[:1], pairs[:1], np.ones(1)) is None


def test_gains_are_to_the_next_smaller_size_on_the_same_scenes(tmp_path):
    rows = scenes(100, per_user=2)
    shares = {"100": 0.2, "200": 0.5, "400": 0.6, "800": 0.62}
    runs = [run(tmp_path, n, rows, right_with(s, int(n))) for n, s in reversed(shares.items())]
    result = learning_curve.analyse(runs)
    points = table(result, "points")
    assert [row["pairs"] for row in points] == [100, 200, 400, 800]
    assert points[0]["gain"] is None and points[1]["p_holm"] < 0.01
    for before, row in itertools.pairwise(points):
        assert row["gain"] == pytest.approx(row["accuracy"] - before["accuracy"])
    curve = one(result, "curves")
    assert curve["form"] == "power" and abs(curve["doubling"]) < 0.1
    assert curve["fitted_at_most_low"] <= curve["fitted_at_most"] <= curve["fitted_at_most_high"]


def test_several_curves_and_names_without_a_number(tmp_path):
    rows = scenes(10)
    names = ("sft@1,000", "sft@2000", "dpo@1000")
    result = learning_curve.analyse([run(tmp_path, n, rows, right_with(0.5)) for n in names])
    forms = {row["curve"]: row["form"] for row in table(result, "curves")}
    assert forms == {"sft": "logarithm", "dpo": "none"}
    for name in ("big", "sft@", "0", "-5", "1" * 30):
        with pytest.raises(UserError, match="does not say how many pairs"):
            learning_curve.analyse([run(tmp_path, name, rows, right_with(0.5))])


# -- transfer


def test_transfer_by_hand(tmp_path):
    rows = [*scenes(60), *scenes(60, source="steam")]
    shares = {"base": 0.2, "full": 0.8, "one": 0.5, "two": 0.5}
    runs = [run(tmp_path, n, rows, right_with(s, i)) for i, (n, s) in enumerate(shares.items())]
    result = transfer.analyse(runs, transfer.groups(("one=movielens", "two=steam")))
    films = one(result, "sources", source="movielens")
    by_name = {r.name: r for r in runs}
    mean = {
        name: np.mean([by_name[name].answers[f"movielens-{i}"].right for i in range(60)])
        for name in shares
    }
    assert films["group"] == 1 and films["cross"] == pytest.approx(mean["two"])
    assert films["over_base"] == pytest.approx(mean["two"] - mean["base"])
    assert films["over_full"] == pytest.approx(mean["two"] - mean["full"])
    kept = (mean["two"] - mean["base"]) / (mean["full"] - mean["base"])
    assert films["kept"] == pytest.approx(kept) and films["kept_low"] < kept < films["kept_high"]
    trained = {(r["result"], r["source"]): r["trained"] for r in table(result, "beside")}
    assert trained["one", "movielens"] == "yes" and trained["one", "steam"] == "no"
    assert trained["base", "steam"] == ""


def test_a_full_model_without_gain_has_no_share_of_it(tmp_path):
    rows = [*scenes(30), *scenes(30, source="steam")]
    runs = [run(tmp_path, name, rows, right_with(0.5, 1)) for name in ("base", "full", "a", "b")]
    result = transfer.analyse(runs, transfer.groups(("a=movielens", "b=steam")))
    assert {row["kept"] for row in table(result, "sources")} == {None}


def test_the_papers_groups_hold_every_source_once():
    first, second = transfer.groups(()).values()
    assert len(first) == 5 and len(second) == 6 and not first & second


def test_groups_that_are_none_are_one_error(tmp_path):
    for words, told in (
        (("a=x,y", "b=y,z"), "y is in both groups"),
        (("a=x",), "1 groups instead of two"),
        (("a", "b=x"), "'a' is not NAME=SOURCE"),
    ):
        with pytest.raises(UserError, match=told):
            transfer.groups(words)
    rows = scenes(4)
    runs = [run(tmp_path, name, rows, right_with(1)) for name in ("base", "a", "b")]
    with pytest.raises(UserError, match="no results are called group1 or group2"):
        transfer.analyse(runs, transfer.groups(()))
    with pytest.raises(UserError, match="neither group's model"):
        transfer.analyse(runs, transfer.groups(("a=steam", "b=mind")))

"""Promise: calibrated probabilities mean what they say, and sets hold the real choice as stated."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.model_cards.test_model_card import RUN
from usermirrorer import Simulator
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import write_json
from usermirrorer.model_cards import model_card
from usermirrorer.recipes.simulator import calibration
from usermirrorer.recipes.simulator.calibration import fit_temperature, fit_threshold, scaled
from usermirrorer.recipes.simulator.commands import calibrate

from .test_commands import run, scenes


def people(rng, users: int, heat: float = 1.0):
    """Return probabilities, real choices and users; users differ in how predictable they are."""
    probabilities, answers, names = [], [], []
    for user in range(users):
        taste = rng.gamma(1.0)
        for _ in range(1 + rng.poisson(2)):
            k = int(rng.integers(2, 8))
            p = scaled(rng.dirichlet(np.full(k, 0.2 + taste)), 1.0)
            answers.append(int(rng.choice(k, p=p)))
            probabilities.append(scaled(p, heat))
            names.append(f"user{user}")
    return probabilities, answers, names


def test_the_temperature_is_found():
    rng = np.random.default_rng(0)
    probabilities, answers, _ = people(rng, 3000, heat=0.4)  # a model too sure of itself
    assert fit_temperature(probabilities, answers) == pytest.approx(1 / 0.4, rel=0.1)


def test_a_model_that_knows_nothing_is_said_to_know_nothing():
    rng = np.random.default_rng(2)
    p, _, users = people(rng, 300)
    y = [int(rng.integers(len(one))) for one in p]  # whatever it says
    how = {"mode": "direct", "samples": 1, "guided": False}
    assert calibration.fit(p, y, users, **how).says_nothing
    y = [int(rng.choice(len(one), p=one)) for one in p]
    assert not calibration.fit(p, y, users, **how).says_nothing


@pytest.mark.parametrize("level", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("users", [9, 19, 60])
def test_sets_cover_new_users_as_stated_however_few_fitted_them(level, users):
    rng = np.random.default_rng(users)
    covered = []
    for _ in range(200):
        p, y, names = people(rng, users)
        threshold = fit_threshold(np.array([a[b] for a, b in zip(p, y, strict=True)]), names, level)
        q, z, new = people(rng, 1)
        likely = [z[i] in calibration.likely_options(q[i], threshold) for i in range(len(new))]
        covered.append(np.mean(likely))
    error = np.std(covered) / 200**0.5
    assert level - 3 * error <= np.mean(covered)
    if users == 60:  # and not by showing everything
        assert np.mean(covered) <= level + 0.06 + 3 * error


def test_too_few_users_for_a_coverage_make_every_option_likely():
    real = np.array([0.9, 0.8, 0.7])
    assert fit_threshold(real, ["a", "b", "c"], 0.9) == 0.0  # 3 / 4 is all that three users give
    assert fit_threshold(real, ["a", "b", "c"], 0.75) == 0.7
    assert fit_threshold(real, ["a", "a", "a"], 0.6) == 0.0  # one user, however many scenes


def test_on_other_users_it_is_better_than_before():
    rng = np.random.default_rng(1)
    p, y, users = people(rng, 900, heat=0.4)
    fitted = calibration.fit(p, y, users, mode="direct", samples=1, guided=False)
    before, after = fitted.report["before"], fitted.report["after"]
    assert after["ece"] < before["ece"] / 2 and after["log_loss_bits"] < before["log_loss_bits"]
    assert before["coverage"] < 0.85 and after["coverage"] >= 0.87
    groups = [{u for u in users if calibration.group_of(u) == g} for g in calibration.GROUPS]
    assert sum(map(len, groups)) == len(set(users)) == sum(fitted.report["users"].values())
    with pytest.raises(UserError, match="too few"):
        calibration.fit(p[:9], y[:9], users[:9], mode="direct", samples=1, guided=False)


def test_calibrate_keeps_a_file_beside_the_model_that_is_applied_on_request(
    tiny_chat_model, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(tiny_chat_model, model)
    with pytest.raises(UserError, match="no calibration"):
        Simulator.from_pretrained(model, calibrated=True)
    source = tmp_path / "train.jsonl"
    source.write_text("\n".join(map(json.dumps, scenes(60))))
    how = ("calibrate", "--model", model, "--mode", "direct", source, "--json")
    told = json.loads(run(*how).stdout)
    assert told["temperature"] > 1.5  # a random model is far too sure
    assert told["after"]["log_loss_bits"] < told["before"]["log_loss_bits"]
    assert "| before | " in shown_on_the_card(model, told)
    asked = {"exposure": ["a", "b", "c"], "mode": "direct"}
    plain = Simulator.from_pretrained(model).choose(**asked)
    warm = Simulator.from_pretrained(model, calibrated=True).choose(**asked, coverage=0.8)
    np.testing.assert_allclose(
        warm.probabilities, scaled(np.array(plain.probabilities), told["temperature"]), atol=1e-6
    )
    assert plain.temperature is None and warm.likely and warm.behavior == plain.behavior
    with pytest.raises(UserError, match="mode direct, not decision"):
        Simulator.from_pretrained(model, calibrated=True).choose(**{**asked, "mode": "decision"})
    with pytest.raises(UserError, match="coverage"):
        Simulator.from_pretrained(model, calibrated=True).choose(**asked, coverage=0.123)
    for broken in ({"schema": 1}, {"schema": 99}, [], {"schema": 1, "temperature": "x"}):
        write_json(model / calibration.NAME, broken)
        with pytest.raises(UserError, match="no calibration"):
            Simulator.from_pretrained(model, calibrated=True)


def shown_on_the_card(model, told):
    """Return the part of the model's card, which has to say what `calibrate` said."""
    write_json(model / "train_run.json", RUN)
    card = model_card.render(model, scores=None, dataset=None, repo_id="me/sim", version="v1.0.0")
    part = card.partition("### Calibrated on request")[2].partition("\n## ")[0]
    for name in ("before", "after"):
        ece, covered = (100 * told[name][key] for key in ("ece", "coverage"))
        row = next(line for line in part.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {ece:.1f} % |" in row and f"| {covered:.1f} % |" in row
    assert f"{told['users']['report']} users ({told['scenes']['report']} scenes)" in part
    return part


def test_users_who_trained_the_model_are_left_out(tiny_chat_model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = scenes(80)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:20]), tmp_path / "trained.parquet")
    how = ("calibrate", "--model", tiny_chat_model, "--mode", "direct", tmp_path / "train.parquet",
           "--out", tmp_path / "c.json", "--json", "--trained-on")  # fmt: skip
    told = json.loads(run(*how, tmp_path / "trained.parquet").stdout)
    assert sum(told["users"].values()) == 60
    run(*how, tmp_path / "train.parquet", code=1)  # nobody is left


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"answer": 4}, "train.jsonl:2: answer is no number of an option"),
        ({"answer": -1}, "train.jsonl:2: answer"),
        ({"answer": "B"}, "train.jsonl:2: answer"),
        ({"answer": None}, "train.jsonl:2: answer"),
        ({"answer": True}, "train.jsonl:2: answer"),
        ({"user_id": None}, "train.jsonl:2: has no user_id"),
        ({"user_id": ["u"]}, "train.jsonl:2: has no user_id"),
        ({}, "3 users are too few"),
    ],
)
def test_scenes_that_cannot_calibrate_are_told_before_any_is_asked(
    tiny_chat_model, tmp_path, wrong, said
):
    rows = scenes(3)
    rows[1] |= wrong
    source = tmp_path / "train.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "made.json"
    words = ["--model", str(tiny_chat_model), "--mode", "direct", str(source), "--out", str(out)]
    with pytest.raises(UserError, match=said):
        calibrate.main(words, standalone_mode=False)
    assert not out.exists()


@pytest.mark.parametrize("level", ["0.3", "1", "nan", "0.904"])
def test_a_level_for_which_no_sets_are_kept_is_refused(level):
    with pytest.raises(UserError, match="no coverage"):
        calibrate.main(["--model", "m", "x", "--level", level], standalone_mode=False)

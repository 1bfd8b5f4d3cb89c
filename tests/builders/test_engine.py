"""The embedded engine against plain forward passes of the same model, one text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usermirrorer.builders import fetch
from usermirrorer.builders.engines import Sampling
from usermirrorer.builders.engines.loading import load_causal_lm, load_engine
from usermirrorer.builders.engines.transformers import TransformersEngine, draw
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.prompts import FIELDS, LABEL_PREFIX, messages, parse


def scene(number, options=5, history=3):
    return {
        "profile": f"Age: {20 + number}",
        "history": [f"A movie viewed {i} days ago: Film {i * number}" for i in range(history)],
        "exposure": [f"Film {number * 10 + i} (19{40 + i})" for i in range(options)],
    }


SCENES = [scene(1), scene(2, 7, 9), scene(3, 2, 1)]
OPTIONS = [len(s["exposure"]) for s in SCENES]
PROMPTS = [messages(s) for s in SCENES]
THOUGHTS = [["Thought:\nStimulus: bored", "Thought:\nStimulus: a longer one, with, commas", ""]] * 3


@pytest.fixture(scope="module")
def engine(tiny_chat_model):
    return load_engine(str(tiny_chat_model), "float32", "tiny")


def brute_force(engine, prompt, thought, options):
    """P(label | prompt + thought) by one forward pass over the whole text."""
    text = engine.text(prompt) + (f"{thought}\n{LABEL_PREFIX}" if thought else LABEL_PREFIX)
    ids = engine.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = engine.model(ids).logits[0, -1]
    return torch.softmax(logits[engine.label_ids[:options]].double(), -1).numpy()


def check_scores(engine, tolerance):
    scored = engine.score(PROMPTS, THOUGHTS, OPTIONS)
    for row, prompt, thoughts, k in zip(scored, PROMPTS, THOUGHTS, OPTIONS, strict=True):
        assert row.shape == (3, k)
        np.testing.assert_allclose(row.sum(axis=1), 1.0)
        for probabilities, thought in zip(row, thoughts, strict=True):
            expected = brute_force(engine, prompt, thought, k)
            np.testing.assert_allclose(probabilities, expected, atol=tolerance)


def test_scores_equal_one_forward_a_text(engine):
    check_scores(engine, 1e-5)


@pytest.mark.slow
def test_scores_of_the_real_model_equal_one_forward_a_text():
    folder = fetch.fetch_asset("smollm2-135m-instruct")
    check_scores(load_engine(str(folder), "float32", "real"), 1e-4)


def test_scores_do_not_depend_on_what_was_asked_before(engine):
    first = engine.score(PROMPTS, THOUGHTS, OPTIONS)
    engine.sample(PROMPTS, OPTIONS, Sampling(n=2, max_tokens=12), [1, 2, 3])
    for a, b in zip(first, engine.score(PROMPTS, THOUGHTS, OPTIONS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def texts(sampled):
    return [[g.text for g in row] for row in sampled]


def test_greedy_sampling_equals_plain_generate(engine):
    sampled = engine.sample(PROMPTS, OPTIONS, Sampling(n=1, temperature=0, max_tokens=16), [0] * 3)
    for prompt, (generation,) in zip(PROMPTS, sampled, strict=True):
        ids = engine.tokenizer(
            engine.text(prompt), add_special_tokens=False, return_tensors="pt"
        ).input_ids
        plain = engine.model.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
        assert generation.text == engine.tokenizer.decode(plain, skip_special_tokens=True)


@pytest.mark.parametrize("guided", [False, True])
def test_samples_depend_on_seed_and_scene_not_on_the_batch(engine, guided):
    sampling = Sampling(n=3, max_tokens=24, guided=guided)
    together = texts(engine.sample(PROMPTS, OPTIONS, sampling, [7, 8, 9]))
    alone = [
        texts(engine.sample([p], [k], sampling, [s]))[0]
        for p, k, s in zip(PROMPTS, OPTIONS, [7, 8, 9], strict=True)
    ]
    assert together == alone
    assert len({text for row in together for text in row}) > 5
    assert together != texts(engine.sample(PROMPTS, OPTIONS, sampling, [17, 18, 19]))


def test_guided_decisions_are_well_formed_with_labels_of_the_list(engine):
    sampled = engine.sample(PROMPTS, OPTIONS, Sampling(n=4, max_tokens=36, guided=True), [1, 2, 3])
    for row, k in zip(sampled, OPTIONS, strict=True):
        for generation in row:
            decision = parse(generation.text, k)
            assert not decision.malformed, generation.text
            assert set(FIELDS) <= set(decision.fields)


@pytest.mark.slow
def test_guided_labels_follow_the_label_probabilities():
    """Drawn labels match P(Y | X + D) on average, as the model has it before its nucleus is cut."""
    engine = load_engine(str(fetch.fetch_asset("smollm2-135m-instruct")), "float32", "real")
    sampling = Sampling(n=60, max_tokens=12, guided=True, top_p=1.0)
    (row,) = engine.sample(PROMPTS[:1], OPTIONS[:1], sampling, [5])
    decisions = [parse(g.text, 5) for g in row]
    (scored,) = engine.score(PROMPTS[:1], [[d.thought for d in decisions]], OPTIONS[:1])
    drawn = np.bincount([d.behavior for d in decisions], minlength=5) / 60
    assert np.abs(drawn - scored.mean(axis=0)).max() < 0.2


def test_draw_keeps_the_nucleus_and_its_proportions():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    sampling = Sampling(temperature=1.0, top_p=0.75)
    grid = (np.arange(4000) + 0.5) / 4000
    drawn = [draw(logits, [u], sampling)[0] for u in grid]
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=4) / 4000, [0.625, 0.375, 0, 0], atol=1e-3
    )


def test_draw_is_exact_when_the_nucleus_is_wider_than_the_shortlist():
    logits = torch.zeros(1, 5000)
    drawn = {draw(logits, [u], Sampling(top_p=0.9))[0] for u in np.linspace(0, 0.999, 997)}
    assert len(drawn) > 990


def test_a_tokenizer_that_merges_labels_is_refused(tiny_chat_model):
    model, tokenizer = load_causal_lm(str(tiny_chat_model), "float32")
    tokenizer.add_tokens(["[B"])
    with pytest.raises(UserError, match="label 'B'"):
        TransformersEngine(model, tokenizer, "merging")


def test_a_model_without_chat_template_is_a_clear_error(tiny_chat_model, tmp_path):
    model, tokenizer = load_causal_lm(str(tiny_chat_model), "float32")
    model.save_pretrained(tmp_path)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no chat template"):
        load_causal_lm(str(tmp_path))


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal_lm(str(tmp_path / "nothing"))


def test_nan_logits_are_a_clear_error(tiny_chat_model):
    broken = load_engine(str(tiny_chat_model), "float32", "broken")
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        broken.score(PROMPTS, THOUGHTS, OPTIONS)

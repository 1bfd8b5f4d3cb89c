"""Labels' probabilities in half precision: those of the model, not of its last rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.builders.decisions.test_engine import (
    FAMILIES,
    OPTIONS,
    PROMPTS,
    THOUGHTS,
    brute_force,
    family_model,
)
from usermirrorer.builders.common import assets
from usermirrorer.builders.decisions.engines.label_logits import unrounded
from usermirrorer.builders.decisions.engines.registry import load_engine
from usermirrorer.builders.decisions.engines.transformers import TransformersEngine


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_scored_by_the_state_before_the_head_in_float32(family):
    """As the head computed in double precision, with what the family does to logits."""
    model, tokenizer = family_model(family)
    model = model.to(torch.bfloat16)
    ids = torch.tensor([tokenizer(letter).input_ids[-1] for letter in "ABCDE"])
    text = torch.tensor([tokenizer("Which film would you watch tonight?").input_ids])
    states = []
    head = model.get_output_embeddings()
    seen = head.register_forward_hook(lambda module, given, output: states.append(given[0]))
    with torch.inference_mode():
        plain = model(text).logits[0, -1]
        with unrounded(model, ids):
            fine = model(text).logits[0, -1]
        again = model(text).logits[0, -1]
    seen.remove()
    raw = states[0][0, -1].double() @ head.weight.double().T
    config = model.config
    expected = raw * getattr(config, "logit_scale", 1) / getattr(config, "logits_scaling", 1)
    if cap := getattr(config, "final_logit_softcapping", None):
        expected = torch.tanh(expected / cap) * cap
    off, off_before = ((row[ids].double() - expected[ids]).abs().max() for row in (fine, plain))
    assert off < 1e-5 and off_before > 5 * off  # what is mended
    assert torch.equal(again, plain)  # and nothing is left behind


def test_a_model_in_float32_is_left_alone(tiny_chat_model):
    engine = load_engine(str(tiny_chat_model), "float32", "tiny")
    head = engine.model.get_output_embeddings()
    with unrounded(engine.model, engine.label_ids):
        assert not head._forward_hooks


@pytest.mark.slow
def test_the_real_model_in_bfloat16_gives_no_two_options_the_same_probability():
    """And is close to itself in float32; by its own rounded logits options are often equal."""
    folder = str(assets.fetch_asset("smollm2-135m-instruct"))
    engine = load_engine(folder, "bfloat16", "real")
    wide = TransformersEngine(load_engine(folder, "float32", "wide").model, engine.tokenizer)
    rounded_ties = 0
    scored = engine.score(PROMPTS, THOUGHTS, OPTIONS)
    exact = wide.score(PROMPTS, THOUGHTS, OPTIONS)
    for row, truth, prompt, thoughts, k in zip(
        scored, exact, PROMPTS, THOUGHTS, OPTIONS, strict=True
    ):
        np.testing.assert_allclose(row, truth, atol=0.03)
        for probabilities, thought in zip(row, thoughts, strict=True):
            assert len(set(probabilities.tolist())) == k
            rounded = brute_force(engine, prompt, thought, k)
            rounded_ties += k - len(set(rounded.tolist()))
    assert rounded_ties > 0

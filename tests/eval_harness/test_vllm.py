"""`--model vllm`: lm_eval's own vLLM model makes both passes and gets the scores of plain forwards.

Skipped without vLLM, which wants an environment of its own. With the CPU build one core is enough.
"""

import os

import numpy as np
import pytest

from usermirrorer.builders.decisions.prompts import thought_of
from usermirrorer.eval_harness import vllm

from .fixtures import brute_force, evaluate, make_scenes, tiny_model, write_scenes

pytest.importorskip("vllm", reason="vLLM is not installed (README, Engines)")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain():
    return tiny_model()


@pytest.fixture(scope="module")
def model(plain, tmp_path_factory):
    """lm_eval's vLLM model with the weights of `plain`."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from lm_eval.models.vllm_causallms import VLLM

    folder = tmp_path_factory.mktemp("vllm") / "model"
    plain.model.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    return VLLM(
        pretrained=str(folder),
        dtype="float32",
        max_model_len=2048,
        enforce_eager=True,
        max_num_seqs=16,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes.parquet", make_scenes(8))


def test_direct_scores_equal_a_brute_force_scorer(model, plain, dataset):
    assert vllm.supports(model) and not vllm.supports(plain)
    name = "usermirror-direct_movielens"
    for sample in evaluate(model, [name], dataset)["samples"][name]:
        found = np.array(sample["filtered_resps"][0]["probabilities"][0])
        expected = brute_force(plain, sample["arguments"][0][0], "Behavior: [")
        assert np.allclose(found, expected, atol=1e-4)


def test_decisions_are_sampled_and_then_scored_each_after_its_own_text(model, plain, dataset):
    name = "usermirror_movielens"
    result = evaluate(model, [name], dataset, gen_kwargs={"max_gen_toks": 16})
    assert result["results"][name]["entropy_is_estimate,none"] == 0
    for sample in result["samples"][name]:
        outcome, prompt = sample["filtered_resps"][0], sample["arguments"][0][0]
        assert len(set(outcome["texts"])) == 5
        for text, row in zip(outcome["texts"], outcome["probabilities"], strict=True):
            thought = thought_of(text)
            prefix = f"{thought}\nBehavior: [" if thought else "Behavior: ["
            assert np.allclose(row, brute_force(plain, prompt, prefix), atol=1e-4)


def test_decisions_of_a_scene_do_not_depend_on_the_others(model, dataset):
    def texts(limit):
        name = "usermirror_movielens"
        result = evaluate(model, [name], dataset, limit=limit, gen_kwargs={"max_gen_toks": 8})
        return result["samples"][name][0]["filtered_resps"][0]["texts"]

    assert texts(1) == texts(8)

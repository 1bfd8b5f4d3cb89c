"""The embedded engine against plain forward passes of the same model, one text at a time."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import tiny_parts
import torch

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import load_causal_lm
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import load_engine
from usermirrorer.builders.decisions.engines.transformers import TransformersEngine, draw
from usermirrorer.builders.decisions.prompts import FIELDS, LABEL_PREFIX, messages, parse


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


def brute_force(engine, prompt, thought, options, model=None):
    """P(label | prompt + thought) by one forward pass over the whole text."""
    model = model or engine.model
    text = engine.text(prompt) + (f"{thought}\n{LABEL_PREFIX}" if thought else LABEL_PREFIX)
    ids = engine.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = model(ids).logits[0, -1]
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
    folder = assets.fetch_asset("smollm2-135m-instruct")
    check_scores(load_engine(str(folder), "float32", "real"), 1e-4)


def test_scores_do_not_depend_on_what_was_asked_before(engine):
    first = engine.score(PROMPTS, THOUGHTS, OPTIONS)
    engine.sample(PROMPTS, OPTIONS, Sampling(n=2, max_tokens=12), [1, 2, 3])
    for a, b in zip(first, engine.score(PROMPTS, THOUGHTS, OPTIONS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
}
FAMILIES = {
    "gemma2": {"head_dim": 12, "final_logit_softcapping": 3.0, "sliding_window": 64},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3, "sliding_window": 64},
    "granite": {"logits_scaling": 5.0},
    "mistral": {"sliding_window": 64},
    "qwen2": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2},
}


def family_model(family):
    """Return a model of random weights and its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_parts.tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=None, **ends, **SIZES, **FAMILIES[family]
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval(), tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_does_to_logits_and_windows_is_respected(family):
    """The same random weights under plain forwards, prompts being several windows long."""
    model, tokenizer = family_model(family)
    with torch.no_grad():  # a fresh norm or bias does nothing: make all weights count
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain = copy.deepcopy(model)
    engine = TransformersEngine(model, tokenizer, family)
    scored = engine.score(PROMPTS, THOUGHTS, OPTIONS)
    for row, prompt, thoughts, k in zip(scored, PROMPTS, THOUGHTS, OPTIONS, strict=True):
        for probabilities, thought in zip(row, thoughts, strict=True):
            expected = brute_force(engine, prompt, thought, k, plain)
            np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    greedy = engine.sample(PROMPTS, OPTIONS, Sampling(n=1, temperature=0, max_tokens=12), [0] * 3)
    for prompt, (generation,) in zip(PROMPTS, greedy, strict=True):
        assert generation.text == plainly_generated(plain, engine, prompt, 12)


def plainly_generated(model, engine, prompt, tokens):
    """Greedy tokens, each from one forward over the whole text."""
    ids = engine.tokenizer(engine.text(prompt), add_special_tokens=False).input_ids
    start = len(ids)
    with torch.inference_mode():
        for _ in range(tokens):
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == engine.tokenizer.eos_token_id:
                break
            ids.append(token)
    return engine.tokenizer.decode(ids[start:])


def test_recurrent_layers_are_refused_since_branches_cannot_share_them():
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = tiny_parts.tokenizer()
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1)
    with pytest.raises(UserError, match="cannot share"):
        TransformersEngine(MambaForCausalLM(config), tokenizer, "mamba")


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
    engine = load_engine(str(assets.fetch_asset("smollm2-135m-instruct")), "float32", "real")
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


def test_an_empty_generation_is_an_empty_text(tiny_chat_model):
    """A model that ends its turn at once."""
    model, tokenizer = load_causal_lm(str(tiny_chat_model), "float32")
    model.generation_config.eos_token_id = list(range(len(tokenizer)))
    silent = TransformersEngine(model, tokenizer, "silent")
    for row in silent.sample(PROMPTS, OPTIONS, Sampling(n=2, max_tokens=9), [1, 2, 3]):
        assert [(g.text, g.tokens_out) for g in row] == [("", 0), ("", 0)]
    assert parse("", 5).malformed == "no behavior"


def test_an_endless_generation_stops_at_the_most_tokens(engine):
    endless = TransformersEngine(engine.model, engine.tokenizer, "endless")
    endless._stop = [engine.tokenizer.convert_tokens_to_ids("<|im_start|>")]
    sampled = endless.sample(PROMPTS, OPTIONS, Sampling(n=1, temperature=0, max_tokens=33), [0] * 3)
    assert [row[0].tokens_out for row in sampled] == [33] * 3


def test_nan_logits_stop_the_sampling_and_the_engine_stays_usable(tiny_chat_model):
    broken = load_engine(str(tiny_chat_model), "float32", "broken")
    before = broken.score(PROMPTS, THOUGHTS, OPTIONS)
    head = broken.model.model.norm.weight
    whole = head.clone()
    with torch.no_grad():
        head.fill_(float("nan"))
        with pytest.raises(UserError, match="NaN"):
            broken.sample(PROMPTS, OPTIONS, Sampling(n=2, max_tokens=4), [1, 2, 3])
        head.copy_(whole)
    broken._last = None
    for a, b in zip(before, broken.score(PROMPTS, THOUGHTS, OPTIONS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


#: Sixteen scenes at once under a limit of memory that holds far fewer; the kernel refuses the rest.
LITTLE_MEMORY = """
import resource, sys
import numpy as np, torch
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import load_engine
torch.set_num_threads(1)
folder, spare, count, words = sys.argv[1], *map(int, sys.argv[2:])
engine = load_engine(folder, "float32", "tiny")
prompts = [[{"role": "user", "content": f"{i} " + "which film " * words}] for i in range(count)]
thoughts = [["Thought:\\nStimulus: bored", "Thought:\\nStimulus: late"]] * count
sampling = Sampling(n=4, temperature=0, max_tokens=3)

def work():
    sampled = engine.sample(prompts, [5] * count, sampling, range(count))
    return [[g.text for g in row] for row in sampled], engine.score(prompts, thoughts, [5] * count)

engine.sample(prompts[:1], [5], sampling, [0])
engine._last = engine._system = None
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
engine.batch_scenes = count
resource.setrlimit(resource.RLIMIT_AS, (used + spare * 2**20, resource.RLIM_INFINITY))
texts, scores = work()
print("batch", engine.batch_scenes)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
engine._last = None
whole_texts, whole_scores = work()
assert texts == whole_texts
assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(scores, whole_scores))
print("same")
"""


def with_little_memory(folder, megabytes, scenes, words):
    numbers = [str(number) for number in (megabytes, scenes, words)]
    command = [sys.executable, "-c", LITTLE_MEMORY, str(folder), *numbers]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_without_memory_for_the_batch_it_is_halved_and_nothing_changes(tiny_chat_model):
    run = with_little_memory(tiny_chat_model, 256, scenes=16, words=300)
    assert run.returncode == 0, run.stderr
    batch, same = run.stdout.splitlines()
    assert int(batch.split()[1]) < 16 and same == "same"


def test_without_memory_for_one_scene_it_says_so(tiny_chat_model):
    run = with_little_memory(tiny_chat_model, 16, scenes=2, words=2000)
    assert "UserError: tiny: the memory does not suffice for one scene" in run.stderr

"""vLLM offline and behind its server, against plain forward passes of the same weights.

Skipped without vLLM, which wants an environment of its own; its CPU build and one core are enough.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import tiny_parts

pytest.importorskip("vllm", reason="vLLM is not installed (README, Engines)")
pytestmark = pytest.mark.slow

from usermirrorer.builders.common import storage  # noqa: E402
from usermirrorer.builders.common.models import load_tokenizer  # noqa: E402
from usermirrorer.builders.decisions import stage  # noqa: E402
from usermirrorer.builders.decisions.engines import openai as endpoint  # noqa: E402
from usermirrorer.builders.decisions.engines.base import Sampling  # noqa: E402
from usermirrorer.builders.decisions.engines.openai import EndpointEngine  # noqa: E402
from usermirrorer.builders.decisions.engines.registry import load_engine  # noqa: E402
from usermirrorer.builders.decisions.engines.vllm import VllmEngine  # noqa: E402
from usermirrorer.builders.decisions.prompts import parse  # noqa: E402

from .flaky_proxy import flaky  # noqa: E402
from .served import free_port, serving  # noqa: E402
from .test_engine import OPTIONS, PROMPTS, THOUGHTS, texts  # noqa: E402

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture(scope="module")
def tiny_chat_model(tmp_path_factory):
    """A random chat model of a size that vLLM has on CPUs."""
    folder = tmp_path_factory.mktemp("parts") / "tiny"
    return tiny_parts.chat_model(folder, **tiny_parts.FOR_VLLM)


@pytest.fixture(scope="module")
def plain(tiny_chat_model):
    return load_engine(str(tiny_chat_model), "float32", "tiny")


@pytest.fixture(scope="module")
def engine(tiny_chat_model):
    return VllmEngine(str(tiny_chat_model), "tiny", "float32")


def assert_scores_of(plain, scored):
    expected = plain.score(PROMPTS, THOUGHTS, OPTIONS)
    for a, b in zip(scored, expected, strict=True):
        np.testing.assert_allclose(a.sum(axis=1), 1)
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_scores_are_exact_over_the_options(engine, plain):
    assert_scores_of(plain, engine.score(PROMPTS, THOUGHTS, OPTIONS))


def test_two_ranks_of_tensor_parallelism_score_as_one(tiny_chat_model, plain, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a core each
    both = VllmEngine(str(tiny_chat_model), "tiny", "float32", tensor_parallel=2)
    assert_scores_of(plain, both.score(PROMPTS, THOUGHTS, OPTIONS))


def ascii_texts(sampled):
    """Random bytes that are no whole characters are written in two ways: leave them out."""
    return [[text.encode("ascii", "ignore") for text in row] for row in texts(sampled)]


def test_greedy_samples_are_those_of_the_embedded_engine(engine, plain):
    greedy = Sampling(n=2, temperature=0, max_tokens=16)
    ours = engine.sample(PROMPTS, OPTIONS, greedy, [0] * 3)
    theirs = plain.sample(PROMPTS, OPTIONS, greedy, [0] * 3)
    assert ascii_texts(ours) == ascii_texts(theirs)
    assert [row[0].tokens_in for row in ours] == [plain.count(prompt) for prompt in PROMPTS]


def test_samples_depend_on_seed_and_scene_not_on_the_batch(engine):
    sampling = Sampling(n=3, max_tokens=12)
    together = texts(engine.sample(PROMPTS, OPTIONS, sampling, [7, 8, 9]))
    alone = [
        texts(engine.sample([p], [k], sampling, [s]))[0]
        for p, k, s in zip(PROMPTS, OPTIONS, [7, 8, 9], strict=True)
    ]
    assert together == alone
    assert len({text for row in together for text in row}) > 5
    assert together != texts(engine.sample(PROMPTS, OPTIONS, sampling, [17, 18, 19]))


def test_guided_decisions_are_well_formed_with_labels_of_the_list(engine):
    sampling = Sampling(n=2, max_tokens=600, guided=True)
    for row, k in zip(engine.sample(PROMPTS, OPTIONS, sampling, [1, 2, 3]), OPTIONS, strict=True):
        for generation in row:
            assert not parse(generation.text, k).malformed, generation.text


def test_the_stage_runs_and_resumes(engine, built, tmp_path):
    scenes = built["train"].to_pylist()[:4]
    settings = {
        "model": "tiny",
        "sampling": Sampling(n=2, max_tokens=600, guided=True),
        "seed": 0,
        "judge": True,
    }
    assert stage.run(scenes, engine, tmp_path / "d.parquet", **settings) == 0
    assert stage.run(scenes, engine, tmp_path / "d.parquet", **settings) == 4
    for row in storage.read_table(tmp_path / "d.parquet").to_pylist():
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def server(tiny_chat_model, tmp_path_factory):
    port = free_port()
    # The CPU build's own `vllm serve` looks for the metadata of the GPU build and fails.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)]
    command += ["--model", str(tiny_chat_model), "--host", "127.0.0.1"]
    command += ["--dtype", "float32", "--max-model-len", "4096", "--enforce-eager"]
    with serving(command, port, tmp_path_factory.mktemp("server") / "log") as ready:
        yield ready


@pytest.fixture
def remote(tiny_chat_model):
    tokenizer = load_tokenizer(str(tiny_chat_model))
    return lambda url: EndpointEngine(str(tiny_chat_model), tokenizer, url, concurrency=4)


def test_a_server_s_logprobs_after_a_thought_are_those_of_plain_forwards(server, remote, plain):
    with flaky(server, "cut", "", "limit") as proxy:
        assert_scores_of(plain, remote(proxy.url).score(PROMPTS, THOUGHTS, OPTIONS))
    assert {"cut", "limit"} <= proxy.met.keys()


def test_labels_beyond_the_likeliest_tokens_are_asked_for_one_by_one(
    server, remote, plain, monkeypatch
):
    """A server that does not know vLLM's own fields gives its likeliest tokens alone."""
    monkeypatch.setattr(endpoint, "_MOST_LOGPROBS", 2)
    monkeypatch.setattr(endpoint, "_vllm_fields", lambda wanted: {})
    scored = remote(f"http://127.0.0.1:{server}/v1").score(PROMPTS, THOUGHTS, OPTIONS)
    assert_scores_of(plain, scored)


def test_a_server_s_samples_depend_on_the_seed_alone(server, remote):
    engine = remote(f"http://127.0.0.1:{server}/v1")
    sampling = Sampling(n=2, max_tokens=12)
    first = texts(engine.sample(PROMPTS, OPTIONS, sampling, [7, 8, 9]))
    assert texts(engine.sample(PROMPTS[:1], OPTIONS[:1], sampling, [7])) == first[:1]
    assert texts(engine.sample(PROMPTS, OPTIONS, sampling, [17, 18, 19])) != first

"""lm_eval's own API clients against a local server: with log-probabilities, and without."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from usermirrorer.builders.decisions.prompts import FIELDS, answer

from .fixtures import brute_force, evaluate, make_scenes, tiny_model, write_scenes

THOUGHT = "\n".join(["Thought:", *(f"{name}: because" for name in FIELDS)])


@pytest.fixture
def serve():
    """Start a server whose reply is `reply(payload)`; remembers the payloads it was sent."""
    servers = []

    def start(reply):
        payloads = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(404)

            def do_POST(self):
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                payloads.append(payload)
                body = json.dumps(reply(payload)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1/completions", payloads

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def dataset(tmp_path):
    return write_scenes(tmp_path / "scenes.parquet", make_scenes(4))


@pytest.mark.parametrize("family", ["usermirror", "usermirror-direct"])
def test_chat_api_entropy_is_estimated_from_samples_and_marked(serve, dataset, family):
    """Seeds 0 and 1 answer A, the rest B: 2 of 5 and 3 of 5, in every scene."""

    def reply(payload):
        text = answer("A" if payload["seed"] < 2 else "B", THOUGHT)
        return {"choices": [{"index": 0, "message": {"content": text}}]}

    url, payloads = serve(reply)
    lm = LocalChatCompletion(base_url=url, model="m", num_concurrent=2, tokenizer_backend=None)
    found = evaluate(lm, [f"{family}_movielens"], dataset)["results"][f"{family}_movielens"]
    at = [s["answer"] for s in make_scenes(4)]
    assert found["acc,none"] == pytest.approx((2 * at.count(0) + 3 * at.count(1)) / 20)
    assert found["entropy_is_estimate,none"] == 1
    assert found["entropy,none"] == pytest.approx(0.970951 + 1 / (10 * math.log(2)))
    # Five samples of each of four scenes, and one of each scene without and with another history.
    assert sorted(p["seed"] for p in payloads) == sorted([*range(5), 0, 0] * 4)
    assert {p["temperature"] for p in payloads} == {1.0}
    assert {p["top_p"] for p in payloads} == {0.9}
    assert payloads[0]["messages"][0]["role"] == "system"


@pytest.fixture
def completions(serve, tmp_path):
    """lm_eval's client of a server with a tiny model behind it, which always writes one decision.

    Scores are the model's own; `hf` is the same model in this process.
    """
    hf = tiny_model()
    hf.tokenizer.save_pretrained(tmp_path / "tokenizer")

    def choice(number, ids, echo):
        if not echo:
            return {"index": number, "text": answer("B", THOUGHT)}
        with torch.no_grad():
            p = torch.log_softmax(hf.model(torch.tensor([ids])).logits[0].double(), -1)
        logs = [None] + [p[i, t].item() for i, t in enumerate(ids[1:])] + [0.0]
        top = [None] + [{"x": row.max().item()} for row in p[:-1]] + [{"x": 0.0}]
        return {"index": number, "logprobs": {"token_logprobs": logs, "top_logprobs": top}}

    def reply(payload):
        echo = payload.get("echo", False)
        return {"choices": [choice(i, ids, echo) for i, ids in enumerate(payload["prompt"])]}

    url, payloads = serve(reply)
    lm = LocalCompletionsAPI(
        base_url=url,
        model="m",
        tokenizer=str(tmp_path / "tokenizer"),
        tokenizer_backend="huggingface",
        batch_size=4,
    )
    return lm, hf, payloads


def test_completions_api_gives_the_probabilities_of_the_model_behind_it(completions, dataset):
    lm, hf, _ = completions
    name = "usermirror-direct_movielens"
    remote, local = (evaluate(m, [name], dataset)["samples"][name] for m in (lm, hf))
    for a, b in zip(remote, local, strict=True):
        assert a["filtered_resps"][0]["probabilities"][0] == pytest.approx(
            b["filtered_resps"][0]["probabilities"][0], abs=1e-5
        )


def test_completions_api_makes_both_passes_of_a_decision(completions, dataset):
    """Samples are generated first, then the labels are scored after each of them."""
    lm, hf, payloads = completions
    name = "usermirror_movielens"
    result = evaluate(lm, [name], dataset, limit=2, samples=3)
    assert result["results"][name]["entropy_is_estimate,none"] == 0
    assert result["results"][name]["malformed,none"] == 0
    assert {p["seed"] for p in payloads if not p.get("echo")} == {0, 1, 2}
    for sample in result["samples"][name]:
        prefix = answer("", THOUGHT)[:-1]
        expected = brute_force(hf, sample["arguments"][0][0], prefix)
        for row in sample["filtered_resps"][0]["probabilities"]:
            assert row == pytest.approx(expected, abs=1e-5)

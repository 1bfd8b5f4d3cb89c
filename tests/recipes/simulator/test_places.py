"""Promise: a model is asked alike wherever it lies: a folder, a version on a Hub, a server."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading

import numpy as np
import pytest
import tiny_parts

from tests.hub.conftest import local_hub, run  # noqa: F401 - fixtures
from usermirrorer import Simulator
from usermirrorer.builders.common.errors import UserError

ASKED = {"exposure": ["Alien (1979)", "Persuasion (1995)", "Scream (1996)"], "mode": "direct"}
PUBLISH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("usermirrorer/sim")
for version, folder in (("v1.0.0", sys.argv[1]), ("v2.0.0", sys.argv[2])):
    api.upload_folder(repo_id="usermirrorer/sim", folder_path=folder)
    api.create_tag("usermirrorer/sim", tag=version)
"""
ASK = """
import json, sys
from usermirrorer import Simulator
from usermirrorer.builders.common.errors import UserError
asked = json.loads(sys.argv[1])
for version in ("v1.0.0", "v2.0.0", None):
    own = Simulator.from_pretrained("usermirrorer/sim", revision=version, dtype="float32")
    print(json.dumps(own.choose(**asked).probabilities))
try:
    Simulator.from_pretrained("usermirrorer/sim", revision="v9.9.9")
except UserError as error:
    print(error)
"""


def test_a_version_on_a_hub_is_that_version(run, tmp_path):  # noqa: F811
    folders = [tiny_parts.chat_model(tmp_path / f"v{n}", seed=n) for n in (1, 2)]
    run(PUBLISH, *folders)
    *versions, refused = run(ASK, json.dumps(ASKED)).stdout.splitlines()
    expected = [
        Simulator.from_pretrained(folder, dtype="float32").choose(**ASKED).probabilities
        for folder in folders
    ]
    assert np.abs(np.subtract(*expected)).max() > 1e-3
    for said, own in zip(versions, [*expected, expected[1]], strict=True):
        np.testing.assert_allclose(json.loads(said), own, atol=1e-5)
    assert refused.startswith("usermirrorer/sim@v9.9.9: ")


@pytest.mark.parametrize("place", ["folder", "smollm2-135m-instruct", "http://127.0.0.1:9/v1"])
def test_what_has_no_revisions_is_not_taken_for_one(tiny_chat_model, place):
    model = tiny_chat_model if place == "folder" else place
    with pytest.raises(UserError, match="has no revisions"):
        Simulator.from_pretrained(model, revision="v1.0.0")


@pytest.fixture
def served(tiny_chat_model):
    """Yield the address of a server of the model that gives log-probabilities as vLLM does."""
    import torch

    engine = Simulator.from_pretrained(tiny_chat_model, dtype="float32").engine

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_): ...

        def answer(self, body):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self):
            self.answer({"object": "list", "data": [{"id": str(tiny_chat_model)}]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with torch.no_grad():
                logits = engine.model(torch.tensor([asked["prompt"]])).logits[0, -1]
            logs = torch.log_softmax(logits.float(), 0)
            top = {f"token_id:{t}": float(logs[t]) for t in asked["logprob_token_ids"]}
            logprobs = {"tokens": ["x"], "token_logprobs": [0.0], "top_logprobs": [top],
                        "text_offset": [0]}  # fmt: skip
            choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": logprobs}
            self.answer({"id": "1", "object": "text_completion", "created": 1, "model": "m",
                         "choices": [choice]})  # fmt: skip

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_s_model_by_its_address_chooses_as_the_model_itself(served, tiny_chat_model):
    own = Simulator.from_pretrained(tiny_chat_model, dtype="float32")
    there = Simulator.from_pretrained(served)
    assert there.name == str(tiny_chat_model)  # the only one that the server lists
    expected = own.choose(**ASKED).probabilities
    np.testing.assert_allclose(there.choose(**ASKED).probabilities, expected, atol=1e-5)

    async def notebook():  # a loop runs already where people type
        return there.choose(**ASKED).probabilities

    np.testing.assert_allclose(asyncio.run(notebook()), expected, atol=1e-5)
    with pytest.raises(UserError, match="cannot be made to force the headings"):
        there.choose(exposure=ASKED["exposure"], mode="decision", guided=True)

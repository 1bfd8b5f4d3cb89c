"""Promise: programs ask the service by its own API and by OpenAI's; what is too much is refused."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from usermirrorer import Simulator

from .conftest import serving

SCENE = {
    "profile": "Gender: female",
    "history": ["A film viewed 1 day ago: Emma (1996)"],
    "exposure": ["Alien (1979)", "Persuasion (1995)", "Scream (1996)"],
}
SHORT = {"max_tokens": 24}


def choose(service, **body):
    return httpx.post(f"{service.address}/v1/choose", json=body, timeout=120)


def test_one_and_many_get_what_the_simulator_itself_says(service, tiny_chat_model):
    simulator = Simulator.from_pretrained(tiny_chat_model)
    direct = simulator.choose(**SCENE, mode="direct")
    one = choose(service, **SCENE, mode="direct").json()
    assert one["model"] == "tiny"
    np.testing.assert_allclose(one["choices"][0]["probabilities"], direct.probabilities, atol=1e-5)
    others = [{**SCENE, "exposure": [f"film {n}", *SCENE["exposure"]]} for n in range(20)]
    many = choose(service, scenes=others, mode="direct").json()["choices"]
    for row, own in zip(many, simulator.choose(others, mode="direct"), strict=True):
        np.testing.assert_allclose(row["probabilities"], own.probabilities, atol=1e-5)
        assert row["text"] == own.text and row["label"] == own.label
    thought = choose(service, **SCENE, **SHORT, samples=2, seed=7).json()["choices"][0]
    own = simulator.choose(**SCENE, **SHORT, samples=2, seed=7, guided=True)
    assert thought["thought"] == own.thought and len(thought["decisions"]) == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "exposure or scenes"),
        ({"exposure": []}, "empty"),
        ({"exposure": ["one"]}, "2 to 26"),
        ({"exposure": ["a"] * 27}, "2 to 26"),
        ({"exposure": ["Alien", "ALIEN"]}, "alike"),
        ({"exposure": ["a", 1]}, "exposure.1"),
        ({"exposure": "ab"}, "exposure"),
        ({"exposure": ["a", "b"], "samples": 1000}, "samples"),
        ({"exposure": ["a", "b"], "samplse": 1}, "samplse"),
        ({"exposure": ["a", "b"], "coverage": 0.9}, "calibration"),
        ({"exposure": ["word " * 3900, "word " * 3900 + "!", "x"]}, "does not fit"),
        ({"scenes": [{"exposure": ["a", "b"]}, {"exposure": ["a"]}]}, "scene 2"),
        ({"exposure": ["a"], "scene_id": "😀" * 200}, "2 to 26"),
        ({"scenes": [{"exposure": ["a", "b"]}] * 200}, "scenes"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(service, body, said):
    answer = choose(service, **body, mode="direct")
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_errors_do_not_tell_the_folders_of_this_machine(service, tiny_chat_model):
    asked = choose(service, **SCENE, mode="direct", coverage=0.9)
    assert asked.status_code == 400 and "calibration" in asked.text
    assert str(tiny_chat_model.parent) not in asked.text


def test_large_deep_and_broken_bodies_are_refused_and_the_service_goes_on(service):
    url = f"{service.address}/v1/choose"
    head = {"Content-Type": "application/json"}
    large = httpx.post(url, content=b'{"exposure":["' + b"x" * (2 << 20), headers=head)
    assert large.status_code == 413
    stream = (b"x" * 65_536 for _ in range(40))  # no length is stated
    assert httpx.post(url, content=stream, headers=head).status_code == 413
    for body in (b"[" * 500_000, b'{"a":' * 100_000, b"{", b"\xff", b"[]", b'"x"'):
        answer = httpx.post(url, content=body, headers=head)
        assert answer.status_code == 400, body[:10]
        assert "message" in answer.json()["error"]
    assert httpx.get(f"{service.address}/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx.get(url).status_code == 405
    assert choose(service, **SCENE, mode="direct").status_code == 200


def test_other_names_for_this_machine_are_refused(service):
    """A page elsewhere whose name was made to point here must not reach the model."""
    answer = httpx.get(f"{service.address}/v1/models", headers={"Host": "evil.example"})
    assert answer.status_code == 400


def test_openai_s_own_client_works(service):
    client = OpenAI(base_url=f"{service.address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "seed": 3}
    whole = client.chat.completions.create(**asked, max_completion_tokens=12, n=2)
    assert len(whole.choices) == 2 and whole.choices[0].finish_reason in ("length", "stop")
    assert whole.usage.completion_tokens <= 24 and whole.usage.prompt_tokens > 3
    again = client.chat.completions.create(**asked, max_completion_tokens=12, n=2)
    assert [c.message.content for c in again.choices] == [c.message.content for c in whole.choices]
    pieces = list(
        client.chat.completions.create(
            **asked, max_completion_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].usage.completion_tokens <= 12
    sign = text[3:5]
    stopped = client.chat.completions.create(**asked, max_completion_tokens=12, stop=sign)
    assert stopped.choices[0].message.content == text[: text.index(sign)]
    parts = [{"type": "text", "text": "Hello"}]
    same = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": parts}], seed=3, max_tokens=12
    )
    assert same.choices[0].message.content == whole.choices[0].message.content


def test_openai_s_client_understands_the_errors(service):
    client = OpenAI(base_url=f"{service.address}/v1", api_key="none", max_retries=0)
    hello = [{"role": "user", "content": "Hello"}]
    with pytest.raises(NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-5", messages=hello)
    assert unknown.value.code == "model_not_found"
    for wrong in (
        {"messages": []},
        {"messages": hello, "temperature": 9},
        {"messages": hello, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": hello, "logprobs": True},
        {"messages": [{"role": "user", "content": "word " * 9000}]},
    ):
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(model="tiny", **wrong)
        assert refused.value.message


def test_the_text_is_told_while_it_is_written(service):
    body = {**SCENE, "max_tokens": 240, "stream": True}
    with httpx.stream("POST", f"{service.address}/v1/choose", json=body, timeout=120) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = "".join(answer.iter_text()).strip().split("\n\n")
    kinds = [event.split("\n")[0] for event in events]
    assert kinds[-1] == "event: choice" and kinds.count("event: text") >= 2
    choice = json.loads(events[-1].split("data: ", 1)[1])
    first = json.loads(events[0].split("data: ", 1)[1])["text"]
    assert first.startswith("Thought") and abs(sum(choice["probabilities"]) - 1) < 1e-6


def test_without_the_token_nobody_gets_in_and_no_log_holds_it(tiny_chat_model, tmp_path):
    secret = "a-very-secret-token"
    env = {"USERMIRRORER_SERVE_TOKEN": secret}
    with serving(tiny_chat_model, tmp_path / "log", env=env) as service:
        url = f"{service.address}/v1/choose"
        body = {**SCENE, "mode": "direct"}
        for head in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {secret}"}):
            refused = httpx.post(url, json=body, headers=head)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": f"Bearer {secret}"}
        assert httpx.post(url, json=body, headers=right).status_code == 200
        assert httpx.get(f"{service.address}/health").status_code == 200
        assert httpx.get(f"{service.address}/page/settings/model.json").json()["token"] is True
        service.stop()
        assert secret not in service.log.read_text()


def test_a_full_queue_says_when_to_come_back(tiny_chat_model, tmp_path):
    with serving(tiny_chat_model, tmp_path / "log", "--queue", "4", "--guided") as service:
        long = {**SCENE, "max_tokens": 300, "samples": 2}
        with ThreadPoolExecutor(24) as clients:
            answers = list(clients.map(lambda seed: choose(service, **long, seed=seed), range(24)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert choose(service, scenes=[SCENE] * 5, mode="direct").status_code == 429
        assert choose(service, **SCENE, mode="direct").status_code == 200


def test_a_stopped_service_first_finishes_what_it_accepted(tiny_chat_model, tmp_path):
    with serving(tiny_chat_model, tmp_path / "log", "--guided") as service:
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(choose(service, **SCENE, max_tokens=600, samples=4))
        )
        asking.start()
        while httpx.get(f"{service.address}/health").json()["working"] == 0:
            time.sleep(0.02)
        service.process.send_signal(signal.SIGTERM)
        asking.join(90)
        assert answers and answers[0].status_code == 200
        assert len(answers[0].json()["choices"][0]["decisions"]) == 4
        assert service.process.wait(30) in (0, -signal.SIGTERM)
        host, port = service.address.removeprefix("http://").split(":")
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)), 2)


def test_who_leaves_costs_nothing(service):
    """Questions whose client has gone are not answered; the next client need not wait for them."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{service.address}/v1/choose",
            json={"scenes": [SCENE] * 100, "max_tokens": 200, "samples": 4},
            timeout=0.5,
        )
    deadline = time.monotonic() + 60
    while httpx.get(f"{service.address}/health").json()["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert choose(service, **SCENE, mode="direct").status_code == 200
    assert "never retrieved" not in service.log.read_text()


def test_pages_elsewhere_may_ask_only_if_they_are_named(tiny_chat_model, tmp_path, service):
    ours, other = "https://me-simulator.static.hf.space", "https://evil.example"
    asks = {"Access-Control-Request-Method": "POST"}
    with serving(tiny_chat_model, tmp_path / "log", "--allow-origin", ours) as named:
        url = f"{named.address}/v1/choose"
        allowed = httpx.options(url, headers={"Origin": ours, **asks})
        assert allowed.headers["access-control-allow-origin"] == ours
        refused = httpx.options(url, headers={"Origin": other, **asks})
        assert "access-control-allow-origin" not in refused.headers
    plain = httpx.post(f"{service.address}/v1/choose", json=SCENE | SHORT, headers={"Origin": ours})
    assert "access-control-allow-origin" not in plain.headers

"""The endpoint engine against `transformers serve`, and against the ways a connection can fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_parts
from click.testing import CliRunner
from tokenizers import processors

from usermirrorer.builders.commands import decide
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import load_tokenizer
from usermirrorer.builders.decisions import stage
from usermirrorer.builders.decisions.engines import openai as endpoint
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.openai import EndpointEngine
from usermirrorer.builders.decisions.engines.registry import load_engine
from usermirrorer.builders.decisions.prompts import messages

from .flaky_proxy import flaky
from .served import free_port, serving

GREEDY = Sampling(n=2, temperature=0, max_tokens=12)
KEY = "sk-this-must-never-be-shown"


@pytest.fixture(scope="module")
def server(tiny_chat_model, tmp_path_factory):
    port = free_port()
    script = Path(sys.executable).with_name("transformers")
    command = [str(script), "serve", str(tiny_chat_model), "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32"]
    with serving(command, port, tmp_path_factory.mktemp("server") / "log") as ready:
        yield ready


@pytest.fixture
def scenes(built):
    return built["train"].to_pylist()[:6]


@pytest.fixture(scope="module")
def embedded(tiny_chat_model):
    return load_engine(str(tiny_chat_model), "float32", "tiny")


@pytest.fixture
def remote(tiny_chat_model):
    """An endpoint engine of the tiny model at some address."""
    tokenizer = load_tokenizer(str(tiny_chat_model))
    return lambda url, concurrency=4: EndpointEngine(
        str(tiny_chat_model), tokenizer, url, concurrency
    )


def run(scenes, engine, path, **more):
    settings = {"model": "tiny", "sampling": GREEDY, "seed": 0, "judge": False, **more}
    resumed = stage.run(scenes, engine, path, part_scenes=2, **settings)
    return resumed, storage.read_table(path)


@pytest.fixture
def expected(scenes, embedded, tmp_path):
    return run(scenes, embedded, tmp_path / "embedded.parquet")[1]


def test_dropped_connections_and_rate_limits_lose_no_sample(
    server, scenes, remote, expected, tmp_path
):
    with flaky(server, "cut", "", "limit", "away") as proxy:
        table = run(scenes, remote(proxy.url), tmp_path / "d.parquet")[1]
    assert {"cut", "limit", "away"} <= proxy.met.keys()
    columns = ["scene_id", "sample", "text", "tokens_in"]
    assert table.select(columns).equals(expected.select(columns))


def test_a_server_that_stays_away_stops_the_run_and_finished_parts_stay(
    server, scenes, remote, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(endpoint, "_RETRIES", 1)
    path = tmp_path / "d.parquet"
    with (
        flaky(server, "", *["away"] * 10**4) as proxy,
        pytest.raises(UserError, match="no answer after 2 attempts") as failure,
    ):
        run(scenes, remote(proxy.url, concurrency=1), path)
    assert "Finished parts are kept" in str(failure.value)
    assert not path.exists() and len(list(tmp_path.glob("d.parquet.parts/*.parquet"))) == 1
    with flaky(server, "") as proxy:  # another port: where the server is does not matter
        resumed, table = run(scenes, remote(proxy.url), path)
    assert resumed == 2
    assert table["text"].equals(expected["text"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [("key", "refuses the key"), ("limit", "rate limit"), ("page", "another language")],
)
def test_what_a_server_says_is_one_line_without_the_key(
    server, scenes, remote, tmp_path, monkeypatch, fault, said
):
    monkeypatch.setenv(endpoint.KEY, KEY)
    monkeypatch.setattr(endpoint, "_RETRIES", 1)
    with flaky(server, fault) as proxy, pytest.raises(UserError, match=said) as failure:
        run(scenes, remote(proxy.url), tmp_path / "d.parquet")
    assert KEY not in str(failure.value) and failure.value.__cause__ is None


def test_a_model_that_is_not_served_is_one_line(server, scenes, remote, tmp_path):
    engine = remote(f"http://127.0.0.1:{server}/v1")
    engine.name = "/no/such/model"
    with pytest.raises(UserError, match=r"the server said \d+"):
        run(scenes, engine, tmp_path / "d.parquet")


def test_a_server_without_logprobs_is_refused_as_judge(server, scenes, remote):
    engine = remote(f"http://127.0.0.1:{server}/v1")
    with pytest.raises(UserError, match="gives no log-probabilities after a thought") as failure:
        stage.direct(scenes[:1], engine)
    assert "--judge-engine transformers" in str(failure.value)


DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + tiny_parts.CHAT_TEMPLATE


def test_a_template_that_prints_the_date_is_rendered_here_not_by_the_server(scenes, tmp_path):
    """The server's own chat route would show the model its own day."""
    folder = tiny_parts.chat_model(tmp_path / "dated")
    (folder / "chat_template.jinja").write_text(DATED)
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    here = load_engine(str(folder), "float32", "tiny")
    assert "Today is 26 Jul 2024.\n" in here.text(messages(scenes[0]))
    expected = run(scenes, here, tmp_path / "here.parquet")[1]
    tokenizer = load_tokenizer(str(folder))
    with serving(command, port, tmp_path / "log"):
        engine = EndpointEngine(str(folder), tokenizer, f"http://127.0.0.1:{port}/v1")
        table = run(scenes, engine, tmp_path / "there.parquet")[1]
    columns = ["scene_id", "sample", "text", "tokens_in"]
    assert table.select(columns).equals(expected.select(columns))


def test_prompts_reach_a_server_in_a_form_that_gives_the_same_tokens(tiny_chat_model):
    """Servers put a start token before texts: one that the template wrote is taken off again."""
    tokenizer = load_tokenizer(str(tiny_chat_model))
    engine = EndpointEngine("m", tokenizer, "http://127.0.0.1:1/v1")
    text = "<|im_start|>user\nhi"
    assert engine._server_prompt(text) == text
    tokenizer.bos_token = "<|im_start|>"
    start = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=start
    )
    assert engine._server_prompt(text) == "user\nhi"
    assert engine._server_prompt("no start") == tokenizer("no start")["input_ids"][1:]


def test_headings_cannot_be_forced(remote):
    engine = remote("http://127.0.0.1:1/v1")
    with pytest.raises(UserError, match="--guided"):
        engine.sample([[]], [5], Sampling(guided=True), [0])


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://"])
def test_what_is_no_address_is_refused(remote, url):
    with pytest.raises(UserError, match="is not an address"):
        remote(url)


def test_a_key_in_the_address_is_refused_and_not_repeated(remote):
    with pytest.raises(UserError, match="must not hold a key") as failure:
        remote(f"https://user:{KEY}@host/v1")
    assert KEY not in str(failure.value)


def test_the_command_asks_a_server_and_judges_here(server, scenes, tiny_chat_model, tmp_path):
    import pyarrow as pa

    from usermirrorer.builders.common.schema import SCENE

    storage.write_table(tmp_path / "s.parquet", pa.Table.from_pylist(scenes, schema=SCENE))
    options = (
        f"--model {tiny_chat_model} --judge-engine transformers --out {tmp_path / 'd.parquet'} "
        f"--engine openai --base-url http://127.0.0.1:{server}/v1 "
        "--samples 2 --max-tokens 8 --price 2 8"
    )
    told = CliRunner().invoke(
        decide, [str(tmp_path / "s.parquet"), *options.split()], catch_exceptions=False
    )
    assert told.exit_code == 0, told.output
    table = storage.read_table(tmp_path / "d.parquet")
    stats = json.loads((tmp_path / "d.parquet.stats.json").read_text())
    assert table.num_rows == stats["total"]["decisions"] == 2 * len(scenes)
    tokens = [sum(table[name].to_pylist()) for name in ("tokens_in", "tokens_out")]
    assert [stats["total"]["tokens_in"], stats["total"]["tokens_out"]] == tokens
    assert stats["cost"] == pytest.approx((2 * tokens[0] + 8 * tokens[1]) / 1e6, abs=1e-4)
    assert stats["cost_of_all"] == stats["cost"]

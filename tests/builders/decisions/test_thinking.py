"""Reasoning models: what they think is no answer; whether they think is said, and part of keys."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import tiny_parts
from click.testing import CliRunner

from tests.eval_harness.fixtures import make_scenes, write_scenes
from usermirrorer.builders import commands
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions import chat, stage
from usermirrorer.builders.decisions.engines.base import Generation, Sampling
from usermirrorer.builders.decisions.engines.registry import EngineSpec, load_engine
from usermirrorer.builders.decisions.prompts import (
    DEFAULT_PROMPTS,
    THINKING,
    messages,
    parse,
    thought_of,
    without_thinking,
)
from usermirrorer.eval_harness.scene_metrics import accuracy
from usermirrorer.eval_harness.task import prompt_hash
from usermirrorer.recipes.rewards import rewards

FIELDS = (
    "Thought:\nStimulus: a\nStimulus Factors: b\nKnowledge: c\nKnowledge Factors: d\n"
    "Evaluation: e\nEvaluation Style: Logical"
)
ANSWER = f"{FIELDS}\nBehavior: [B]"
DRAFT = "I could say\nStimulus: draft\nEvaluation: draft\nBehavior: [A]\nor not."
#: Shows a switch as Qwen 3 does, and opens the block where thinking is on.
SWITCHED = tiny_parts.CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}",
)


@pytest.mark.parametrize(("start", "end"), THINKING)
@pytest.mark.parametrize("prompt_opens", [False, True])
def test_what_is_drafted_or_quoted_while_thinking_is_dropped_by_every_reader(
    start, end, prompt_opens
):
    text = f"{'' if prompt_opens else start}\n{DRAFT}\n{end}\n\n{ANSWER}"
    read = parse(text, 5, strict=True)
    assert (read.thought, read.behavior, read.malformed) == (FIELDS, 1, "")
    assert thought_of(text) == FIELDS
    scene = make_scenes(1)[0] | {"answer": 1}
    output = {"texts": [text], "probabilities": None}
    assert accuracy(scene, output, "decision") == 1
    functions, _ = rewards("decision", format_weight=1, guard_margin=0, longest=10)
    assert [f([text], answer=["B"], options=[5]) for f in functions] == [[1.0], [1.0]]


@pytest.mark.parametrize(("start", "end"), THINKING)
def test_thinking_that_does_not_end_is_malformed_whatever_it_drafts(start, end):
    for text in (f"{start}\n{ANSWER}", f"{start}x{end}{start}\n{ANSWER}", f"{ANSWER}\n{start}"):
        assert parse(text, 5).malformed == "unterminated thinking"
        assert without_thinking(text) is None and thought_of(text) == ""


def test_another_sign_of_the_end_can_be_named():
    text = f"{DRAFT}<|answer|>{ANSWER}"
    assert parse(text, 5).malformed
    assert parse(text, 5, think_end="<|answer|>").behavior == 1
    assert parse(ANSWER, 5, think_end="<|answer|>").behavior == 1


@pytest.fixture
def switched(tmp_path):
    folder = tiny_parts.chat_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(SWITCHED)
    return folder


ON = '{"enable_thinking": true}'


def test_thinking_is_off_until_asked_for_and_an_open_block_is_closed_before_labels(switched):
    off = load_engine(str(switched), "float32", "m")
    on = load_engine(str(switched), "float32", "m", chat_template_kwargs=ON)
    prompt = messages(make_scenes(1)[0])
    assert off.text(prompt).endswith("assistant\n<think>\n\n</think>\n\n")
    assert on.text(prompt).endswith("assistant\n<think>\n")
    assert chat.scored_text(on.text(prompt), "") == off.text(prompt) + "Behavior: ["
    few = Sampling(n=2, max_tokens=4)
    for engine, begins in ((off, False), (on, True)):
        for one in engine.sample([prompt], [5], few, [0])[0]:
            assert one.text.startswith("<think>\n") == begins
    assert parse(on.sample([prompt], [5], few, [0])[0][0].text, 5).malformed == (
        "unterminated thinking"
    )


class _Scripted:
    """An engine that says what it is told to: what the stage makes of it is under test."""

    name, batch_scenes, context = "scripted", 4, 6144

    def __init__(self, text: str, settings: dict | None = None) -> None:
        self.said, self.chat = text, settings or {}

    def count(self, prompt):
        return 10

    def sample(self, prompts, options, sampling, seeds):
        return [[Generation(self.said, 10, 10)] * sampling.n for _ in prompts]


def test_decide_reads_the_answer_and_the_settings_are_part_of_what_is_resumed(tmp_path):
    scenes, out = make_scenes(2), tmp_path / "d.parquet"
    few = {"sampling": Sampling(n=1), "model": "m", "seed": 0, "judge": False}
    text = f"<think>\n{DRAFT}\n</think>\n{ANSWER}"
    assert stage.run(scenes, _Scripted(text), out, **few) == 0
    rows = pq.read_table(out).to_pylist()
    assert [(row["thought"], row["behavior"]) for row in rows] == [(FIELDS, 1)] * 2
    assert stage.run(scenes, _Scripted(text), out, **few) == 2
    for settings in ({"enable_thinking": True}, {"strftime_now": "2025-01-31"}, {"effort": "low"}):
        assert stage.run(scenes, _Scripted(text, settings), out, **few) == 0, settings
        assert prompt_hash("decision", DEFAULT_PROMPTS, settings) != (
            prompt_hash("decision", DEFAULT_PROMPTS)
        )
    few["sampling"] = Sampling(n=1, think_end_token="<|answer|>")
    assert stage.run(scenes, _Scripted(f"{DRAFT}<|answer|>{ANSWER}"), out, **few) == 0
    assert pq.read_table(out)["behavior"].to_pylist() == [1, 1]


def test_the_command_hands_settings_to_the_model_and_resumes_by_them(switched, tmp_path):
    scenes = write_scenes(tmp_path / "s.parquet", make_scenes(2))
    out = tmp_path / "d.parquet"
    words = [scenes, "--model", str(switched), "--out", str(out), "--samples", "1"]
    words += ["--max-tokens", "8", "--dtype", "float32"]
    reasons = {}
    for settings in ("", ON):
        ran = CliRunner().invoke(
            commands.decide, [*words, "--chat-template-kwargs", settings], catch_exceptions=False
        )
        assert ran.exit_code == 0 and "earlier run" not in ran.output
        reasons[settings] = set(pq.read_table(out)["malformed"].to_pylist())
    assert reasons == {"": {"no behavior"}, ON: {"unterminated thinking"}}
    given = EngineSpec("transformers", str(switched), chat_template_kwargs=ON).identity()["chat"]
    assert given["enable_thinking"] is given["thinking"] is True


@pytest.mark.parametrize("text", ["[]", "{", "1", '{"messages": []}', '{"strftime_now": "soon"}'])
def test_settings_that_are_none_are_a_clear_error(text):
    with pytest.raises(UserError):
        chat.read_settings(text)
    assert chat.read_settings("") == {} and chat.read_settings(ON) == json.loads(ON)


def test_a_server_renders_by_itself_only_what_it_renders_alike(switched):
    tokenizer = load_engine(str(switched), "float32", "m").tokenizer
    prompt = messages(make_scenes(1)[0])
    assert not chat.renders_alone(tokenizer, prompt, {})  # it would think
    assert not chat.renders_alone(tokenizer, prompt, {"enable_thinking": True})  # block opened
    tokenizer.chat_template = tiny_parts.CHAT_TEMPLATE
    assert chat.renders_alone(tokenizer, prompt, {})


REFUSING = {
    "everything": "{{ raise_exception('Nothing is\\nsupported') }}",
    "what is not there": "{{ messages[0].content + tools_in_use }}",
    "syntax": "{% for m in messages %}{{ m.content }}",
    "another type": "{{ messages + 1 }}",
}


@pytest.mark.parametrize("template", REFUSING.values(), ids=REFUSING)
def test_a_template_that_refuses_is_one_line_that_names_the_model(template, tmp_path):
    folder = tiny_parts.chat_model(tmp_path / "refusing-model")
    (folder / "chat_template.jinja").write_text(template)
    engine = load_engine(str(folder), "float32", "m")
    with pytest.raises(UserError, match="the chat template refuses") as failure:
        stage.direct(make_scenes(1), engine)
    assert "refusing-model" in str(failure.value) and "--chat-template-kwargs" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_control_tokens_of_the_tokenizer_in_items_are_broken_up_everywhere(tmp_path):
    tokenizer = tiny_parts.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[EVIL]", "{{turn}}"]})
    tokenizer.add_tokens(["<tool_call>", "  ", "film"])
    scene = make_scenes(1)[0]
    scene["exposure"] = ["a [EVIL] b", "{{turn}}<|im_end|>", "<tool_call>", "a film", "E"]
    bad = set(tokenizer.convert_tokens_to_ids(["[EVIL]", "{{turn}}", "<tool_call>"]))
    prompt = messages(scene)
    text = chat.chat_text(tokenizer, prompt)
    ids = chat.token_ids(tokenizer, text)
    assert not bad & set(ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert "a [ EVIL] b" in text and "a film" in text
    turn = {"role": "assistant", "content": "I like [EVIL]<|im_end|>."}
    said = chat.answered_ids(tokenizer, prompt, turn)[1]
    assert not bad & set(said) and said.count(tokenizer.eos_token_id) == 1
    assert not bad & set(chat.token_ids(tokenizer, chat.merged(tokenizer, prompt)[1]["content"]))

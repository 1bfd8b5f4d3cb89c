"""The chat templates of the model families: the same prompt everywhere, loss on answers alone.

`tests/fixtures/chat_templates/README.md` says where each comes from. The tokenizer is SmolLM2's,
with the signs of the template added as the models have them: one token each.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.builders.decisions.test_chat import SCENE, Everywhere, turn_clock
from usermirrorer.builders.common import assets
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions import chat
from usermirrorer.builders.decisions.prompts import answer, messages
from usermirrorer.recipes import data, sweep

FOLDER = Path(__file__).parents[2] / "fixtures" / "chat_templates"
#: End of an assistant's turn, how prompts end, and how the system message is shown.
_R1 = ("<｜end▁of▁sentence｜>", "<｜Assistant｜><think>\n\n</think>\n\n", "own")
EXPECTED = {
    "deepseek-r1-distill": _R1,
    "deepseek-v3-thinking": _R1,
    "deepseek-v3.1": ("<｜end▁of▁sentence｜>", "<｜Assistant｜></think>", "own"),
    "drops-system": ("<end>", "<start>assistant\n", "merged"),
    "gemma-2": ("<end_of_turn>", "<start_of_turn>model\n", "merged"),
    "gemma-3": ("<end_of_turn>", "<start_of_turn>model\n", "merged"),
    "gpt-oss": ("<|return|>", "<|start|>assistant<|channel|>final<|message|>", "own"),
    "llama-3": ("<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "own"),
    "llama-3.2": ("<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "own"),
    "mistral-7b-v0.1": ("</s>", " [/INST]", "merged"),
    "mistral-7b-v0.3": ("</s>", "[/INST]", "merged"),
    "mistral-nemo": ("</s>", "[/INST]", "merged"),
    "mistral-small-3": ("</s>", "[/INST]", "own"),
    "phi-3": ("<|end|>", "<|assistant|>\n", "own"),
    "phi-4": ("<|im_end|>", "<|im_start|>assistant<|im_sep|>", "own"),
    "qwen-2.5": ("<|im_end|>", "<|im_start|>assistant\n", "own"),
    "qwen-3": ("<|im_end|>", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "own"),
    "qwen-3-thinking": ("<|im_end|>", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "own"),
}
_SIGNS = re.compile(r"<[|｜]?\w[\w｜▁]*[|｜]?>|</\w+>|\[/?[A-Z_]{3,}\]")


@pytest.fixture(scope="session")
def smollm():
    return AutoTokenizer.from_pretrained(assets.resolve_model("smollm2-135m-instruct"))


@pytest.fixture
def carrying(smollm):
    """Return a tokenizer that carries a template, its signs and its ends."""

    def make(name: str):
        tokenizer = copy.deepcopy(smollm)
        template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        end = EXPECTED[name][0]
        signs = {sign for sign in _SIGNS.findall(template) if "think" not in sign}
        tokenizer.add_special_tokens(
            {"bos_token": "<s>", "eos_token": end, "additional_special_tokens": sorted(signs)}
        )
        tokenizer.add_tokens(["<think>", "</think>"])
        tokenizer.chat_template = template
        return tokenizer

    return make


#: Templates whose prompts the same code makes as those of another one here: a minute saved.
_LIKE_OTHERS = {"llama-3", "qwen-2.5", "phi-4", "deepseek-r1-distill", "qwen-3-thinking"}
_DIRECT_TOO = {"mistral-7b-v0.3", "gemma-2", "qwen-3", "deepseek-v3-thinking"}
CASES = [
    pytest.param(
        name, mode, marks=[] if (mode == "direct") <= (name in _DIRECT_TOO) else pytest.mark.slow
    )
    if name not in _LIKE_OTHERS
    else pytest.param(name, mode, marks=pytest.mark.slow)
    for name in EXPECTED
    for mode in ("decision", "direct")
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_part_shows_the_same_prompt_and_teaches_the_answer_alone(
    name, mode, carrying, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep, "MAX_TOKENS", 24)
    turn_clock(monkeypatch, 2031, 12, 31)
    tokenizer = carrying(name)
    parts = Everywhere(tokenizer.chat_template, tmp_path, monkeypatch, tokenizer)
    shown = parts.in_decisions() if mode == "decision" else parts.in_direct_mode()
    first = next(iter(shown.values()))
    assert shown == dict.fromkeys(shown, first)
    end, opening, system = EXPECTED[name]
    assert first.endswith(opening)
    said, asked = (message["content"] for message in messages(SCENE, mode))
    assert first.count(said) == first.count(asked) == 1
    assert (f"{said}\n\n{asked}" in first) == (system == "merged")
    right = answer(LABELS[SCENE["answer"]])
    for way, text in parts.taught.items():
        if mode == "direct" and way.startswith("SFT"):
            assert text == LABELS[SCENE["answer"]]
        else:
            begins = "Behavior: [" if mode == "direct" else "Thought:\nStimulus: "
            assert text.startswith(begins) and text.endswith(f"]{end}"), way
            assert text.count(end) == 1
            assert text.endswith(right + end) != (way == "DPO rejected")


@pytest.mark.parametrize("name", EXPECTED)
def test_prompts_of_training_are_those_of_inference_to_the_token(name, carrying):
    tokenizer = carrying(name)
    prompt = messages(SCENE)
    row = data.encode_chat(tokenizer, [*prompt, {"role": "assistant", "content": "Yes.\nNo."}])
    taught = [token for token in row["labels"] if token != data.IGNORED]
    ids = chat.token_ids(tokenizer, chat.chat_text(tokenizer, prompt))
    assert row["input_ids"] == [*ids, *taught]
    assert tokenizer.decode(taught) == f"Yes.\nNo.{EXPECTED[name][0]}"

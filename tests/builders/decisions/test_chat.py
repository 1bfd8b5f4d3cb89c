"""One text for all: training, sampling, judging, IFD, the sweep and lm_eval show the same bytes.

The templates print the date in both ways there are, or have no system role; the clock is turned.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_parts
from lm_eval.models.huggingface import HFLM
from trl import DPOConfig, GRPOConfig

from tests.builders.distil.distil_rows import decision, write
from tests.eval_harness.fixtures import evaluate, make_scenes, write_scenes
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.common.storage import write_table
from usermirrorer.builders.decisions import chat, stage
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import load_engine
from usermirrorer.builders.decisions.prompts import messages, parse
from usermirrorer.builders.distil import candidates, ifd, pairs
from usermirrorer.eval_harness.task import prompt_hash, render
from usermirrorer.recipes import data, dpo, grpo, sweep
from usermirrorer.recipes.data import DataArguments

TURNS = tiny_parts.CHAT_TEMPLATE
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{% endfor %}"
)
#: As Llama 3.x's: the variable, else the clock, else a date of its own.
LLAMA = (
    "{%- if not date_string is defined %}\n{%- if strftime_now is defined %}\n"
    '{%- set date_string = strftime_now("%d %b %Y") %}\n{%- else %}\n'
    '{%- set date_string = "1 Jan 2000" %}\n{%- endif %}\n{%- endif %}\n'
    '{{- "Today Date: " + date_string + "\\n\\n" }}'
)
CLOCK = "\n  {% if true %}It is {{ strftime_now('%A, %B %-d, %Y (%j)') }}.\n{% endif %}"
TEMPLATES = {
    "llama": LLAMA + TURNS,
    "clock": CLOCK + TURNS,
    "clock without system": NO_SYSTEM + CLOCK + TURNS,
    "system dropped": TURNS.replace("messages %}", "messages if m.role != 'system' %}"),
}
DATED = {
    "llama": "Today Date: 26 Jul 2024\n\n",
    "clock": "It is Friday, July 26, 2024 (208).\n",
    "clock without system": "It is Friday, July 26, 2024 (208).\n",
    "system dropped": "",
}
SCENE = make_scenes(1)[0]


@pytest.fixture(params=TEMPLATES)
def template(request):
    return request.param


def turn_clock(monkeypatch, *day: int) -> None:
    """Let transformers' chat templates believe that it is another day."""
    from transformers.utils import chat_template_utils

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(*day, 12, 30)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


class Everywhere:
    """The prompt of one scene as each part of the project shows it to a model."""

    def __init__(
        self, template: str, folder, monkeypatch, tokenizer=None, settings: dict | None = None
    ) -> None:
        self.folder, self.patch, self.settings = folder, monkeypatch, settings or {}
        told = json.dumps(self.settings) if settings else ""
        self.facts: list[dict] = []  # what the records of trainings say
        self.template = template
        self.taught: dict[str, str] = {}  # what bears the loss
        self.model = tiny_parts.chat_model(folder / "model", tokenizer=tokenizer)
        (self.model / "chat_template.jinja").write_text(self.template)
        self.engine: Any = load_engine(
            str(self.model), "float32", "tiny", chat_template_kwargs=told
        )
        self.tokenizer = self.engine.tokenizer
        assert self.tokenizer.chat_template == self.template
        answer = LABELS[SCENE["answer"]]
        weak = [decision(SCENE["scene_id"], "weak", 0, (SCENE["answer"] + 1) % 5, 1.9, k=5)]
        strong = [decision(SCENE["scene_id"], "strong", 0, SCENE["answer"], 1.0, k=5)]
        self.candidates = candidates.candidates(*write(folder, [SCENE], weak, strong))
        self.pairs = folder / "pairs.parquet"
        write_table(self.pairs, pairs.make_pairs(self.candidates, 1)[0])
        self.scenes = write_scenes(folder / "s.parquet", [SCENE])
        self.labels = folder / "labels.parquet"
        made = pairs.make_pairs(self.candidates, 1, strategy="random_direct")[0]
        assert made["chosen_behavior"][0].as_py() == answer
        write_table(self.labels, made)

    def shown(self, work) -> str:
        """Return the one prompt that the embedded engine computes during `work`."""
        seen = []
        self.engine._last = self.engine._system = None
        with self.patch.context() as patch:
            prefill = self.engine._prefill
            patch.setattr(self.engine, "_prefill", lambda ids: (seen.extend(ids), prefill(ids))[1])
            work()
        (text,) = {self.tokenizer.decode(ids) for ids in seen}
        return text

    def sft(self, path, stage: str) -> str:
        arguments = DataArguments(str(path), stage=stage)
        prepared = data.sft_rows(arguments, self.tokenizer, None, 0, self.settings)
        (row,) = prepared.rows
        self.facts.append(prepared.facts)
        start = next(i for i, label in enumerate(row["labels"]) if label != data.IGNORED)
        assert row["labels"] == [data.IGNORED] * start + row["input_ids"][start:]
        self.taught[f"SFT {Path(path).stem}"] = self.tokenizer.decode(row["input_ids"][start:])
        return self.tokenizer.decode(row["input_ids"][:start]).removesuffix("Behavior: [")

    def dpo(self, path, stage: str) -> str:
        arguments = DataArguments(str(path), stage=stage)
        prepared = data.dpo_rows(arguments, self.tokenizer, None, self.settings)
        rows = prepared.rows
        self.facts.append(prepared.facts)
        trainer = dpo.ExactTrainer(
            model=self.engine.model,
            args=DPOConfig(output_dir=str(self.folder), report_to="none", use_cpu=True, bf16=False),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        row = trainer.train_dataset[0]
        for side in ("chosen", "rejected"):
            self.taught[f"DPO {side}"] = self.tokenizer.decode(row[f"{side}_ids"])
        return self.tokenizer.decode(row["prompt_ids"])

    def grpo(self, path, stage: str) -> str:
        arguments = DataArguments(str(path), stage=stage)
        prepared = data.grpo_rows(arguments, self.tokenizer, None, self.settings)
        self.facts.append(prepared.facts)
        seen = []
        with self.patch.context() as patch:
            apply = self.tokenizer.apply_chat_template

            def spy(*arguments, **more):
                made = apply(*arguments, **more)
                if more.get("tokenize", True):
                    seen.extend(made["input_ids"])
                return made

            patch.setattr(self.tokenizer, "apply_chat_template", spy)
            sizes = {"per_device_train_batch_size": 2, "num_generations": 2, "max_steps": 1}
            grpo.FixedDateTrainer(
                model=self.engine.model,
                args=GRPOConfig(
                    output_dir=str(self.folder / "grpo"),
                    report_to="none",
                    use_cpu=True,
                    bf16=False,
                    save_strategy="no",
                    max_completion_length=2,
                    learning_rate=0.0,
                    **sizes,
                ),
                train_dataset=prepared.rows,
                processing_class=self.tokenizer,
                reward_funcs=lambda completions, **more: [0.0] * len(completions),
            ).train()
        (text,) = {self.tokenizer.decode(ids) for ids in seen}
        self.engine.model.eval()
        return text

    def ifd(self) -> str:
        seen = []
        losses = ifd.losses
        with self.patch.context() as patch:
            patch.setattr(
                ifd,
                "losses",
                lambda model, *texts: (seen.append(texts[0]), losses(model, *texts))[1],
            )
            (self.folder / "ifd.parquet").unlink(missing_ok=True)
            more = {"chat_template_kwargs": json.dumps(self.settings) if self.settings else ""}
            ifd.scores(self.candidates, str(self.model), self.folder / "ifd.parquet", **more)
        return self.tokenizer.decode(seen[0][0])

    def lm_eval(self, task: str) -> str:
        lm = HFLM(
            pretrained=self.engine.model, tokenizer=self.tokenizer, batch_size=4, max_length=4096,
            chat_template_args=self.settings,
        )  # fmt: skip
        found = evaluate(lm, [task], self.scenes, samples=1, gen_kwargs={"max_gen_toks": 8})
        return found["samples"][task][0]["arguments"][0][0]

    def in_decisions(self) -> dict[str, str]:
        sampled, judged = (self.folder / f"{name}.parquet" for name in ("sampled", "judged"))
        for path in (sampled, judged):
            path.unlink(missing_ok=True)
        settings = {"model": "tiny", "seed": 0, "judge": False}
        few = Sampling(n=1, max_tokens=24, guided=True)
        return {
            "SFT": self.sft(self.pairs, "decision"),
            "DPO": self.dpo(self.pairs, "decision"),
            "GRPO": self.grpo(self.pairs, "decision"),
            "decide": self.shown(
                lambda: stage.run([SCENE], self.engine, sampled, sampling=few, **settings)
            ),
            "judge": self.shown(
                lambda: stage.judged([SCENE], sampled, self.engine, judged, max_tokens=24)
            ),
            "IFD": self.ifd(),
            "sweep": self.shown(lambda: sweep.accuracy(self.engine, [SCENE], "decision")),
            "lm_eval": self.lm_eval("usermirror_movielens"),
        }

    def in_direct_mode(self) -> dict[str, str]:
        return {
            "SFT on scenes": self.sft(self.scenes, "direct"),
            "SFT on pairs": self.sft(self.labels, "direct"),
            "DPO": self.dpo(self.labels, "direct"),
            "GRPO": self.grpo(self.scenes, "direct"),
            "direct": self.shown(lambda: stage.direct([SCENE], self.engine)),
            "sweep": self.shown(lambda: sweep.accuracy(self.engine, [SCENE], "direct")),
            "lm_eval": self.lm_eval("usermirror-direct_movielens"),
        }


@pytest.mark.parametrize("mode", ["decision", "direct"])
def test_every_part_shows_a_model_the_same_bytes_on_every_day(
    template, mode, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep, "MAX_TOKENS", 24)
    everywhere = Everywhere(TEMPLATES[template], tmp_path, monkeypatch)
    texts: dict[str, dict[str, str]] = {}
    for day in ((2026, 1, 2), (2031, 12, 31)):
        turn_clock(monkeypatch, *day)
        ways = everywhere.in_decisions() if mode == "decision" else everywhere.in_direct_mode()
        texts |= {f"{name}, {day}": text for name, text in ways.items()}
    first = texts[next(iter(texts))]
    assert texts == dict.fromkeys(texts, first)
    assert DATED[template] in first and first.endswith("<|im_start|>assistant\n")
    system, user = messages(SCENE, mode)
    assert system["content"] in first and user["content"] in first
    merged = "system" in template
    assert (f"{system['content']}\n\n{user['content']}" in first) == merged


#: Reads everything that templates of 2026 read beside the chat.
HIDDEN = (
    "{{ date_string }} {{ strftime_now('%d.%m.%Y') }} {{ enable_thinking }} {{ thinking }} "
    "{{ reasoning_effort | default('medium') }} {{ tools | default([], true) | length }} "
    "{{ custom_instructions | default('none') }}\n"
)
ARGUMENTS = {
    "strftime_now": "2025-01-31",
    "reasoning_effort": "low",
    "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {}}}],
    "custom_instructions": "Stay brief.",
}


@pytest.mark.parametrize("mode", ["decision", "direct"])
def test_all_that_a_template_reads_is_an_argument_of_every_part(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "MAX_TOKENS", 24)
    turn_clock(monkeypatch, 2031, 12, 31)
    parts = Everywhere(HIDDEN + TURNS, tmp_path, monkeypatch, settings=ARGUMENTS)
    shown = parts.in_decisions() if mode == "decision" else parts.in_direct_mode()
    first = next(iter(shown.values()))
    assert shown == dict.fromkeys(shown, first)
    assert first.startswith("31 Jan 2025 31.01.2025 False False low 1 Stay brief.\n")
    assert all(facts["chat_template_kwargs"] == ARGUMENTS for facts in parts.facts)
    assert len(parts.facts) >= 3  # the records of trainings, of which their keys are made


@pytest.mark.parametrize("template", ["clock", "llama"])
def test_the_fixed_clock_prints_what_the_real_one_did_on_that_day(template, monkeypatch):
    turn_clock(monkeypatch, 2024, 7, 26)
    tokenizer = tiny_parts.tokenizer()
    formats = ["%d %b %Y", "%A %a %-d. %B", "%Y-%m-%d", "%D %F %j %U %y", "%e %-m %h"]
    dates = "".join(f"[{{{{ strftime_now('{one}') }}}}]" for one in formats)
    for before in ("", "\n", "  ", "\n\n  {# a note #}\n"):
        tokenizer.chat_template = before + TEMPLATES[template] + dates
        plain = tokenizer.apply_chat_template(messages(SCENE), tokenize=False)
        assert chat.chat_text(tokenizer, messages(SCENE), prompt=False) == plain
        assert "[26 Jul 2024]" in plain


def test_the_date_is_part_of_what_is_resumed_and_of_the_prompt_hash(
    tiny_chat_model, tmp_path, monkeypatch
):
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS

    engine = load_engine(str(tiny_chat_model), "float32", "tiny")
    few = Sampling(n=1, max_tokens=24, guided=True)
    paths = [tmp_path / f"{name}.parquet" for name in ("sampled", "judged")]

    def resumed():
        settings = {"model": "tiny", "seed": 0, "judge": False, "sampling": few}
        return [
            stage.run([SCENE], engine, paths[0], **settings),
            stage.judged([SCENE], paths[0], engine, paths[1], max_tokens=24),
        ]

    assert [resumed(), resumed()] == [[0, 0], [1, 1]]
    before = prompt_hash("decision", DEFAULT_PROMPTS)
    monkeypatch.setattr(chat, "DATE", "1 Jan 2030")
    assert resumed() == [0, 0]
    assert prompt_hash("decision", DEFAULT_PROMPTS) != before


def test_a_chat_server_is_given_messages_and_renders_them_itself():
    from lm_eval.models.openai_completions import LocalChatCompletion

    lm = LocalChatCompletion(base_url="http://127.0.0.1:1/v1/chat/completions", model="m")
    text = render(messages(SCENE), lm.apply_chat_template)
    assert '"role": "system"' in text.prompt


def test_labels_are_scored_where_a_well_formed_decision_has_them():
    text, thought = "<prompt>", "Thought:\nStimulus: bored"
    assert chat.scored_text(text, thought) == f"{text}{thought}\nBehavior: ["
    assert chat.scored_text(text, "") == f"{text}Behavior: ["
    whole = f"{chat.scored_text('', '')}C]"
    assert parse(whole, 5, "direct", strict=True).behavior == 2

"""Promise: the code of a card shows a model the prompts of its training, whatever it asks for.

Thinking, a date, an effort, tools: what a template may read is given to it, as training gave it.
"""

from __future__ import annotations

import copy
import json
import re
import shlex

import pytest
import tiny_parts

from tests.model_cards.test_model_card import DATASET, REPO, RUN
from usermirrorer.builders.decisions import chat
from usermirrorer.builders.decisions.chat import chat_text
from usermirrorer.builders.decisions.prompts import messages
from usermirrorer.model_cards import model_card

TURNS = tiny_parts.CHAT_TEMPLATE
TEMPLATES = {
    "plain": TURNS,
    "switch": "{% if not enable_thinking is false %}Think.{% endif %}" + TURNS,
    "other switch": "{% if not thinking is false %}Think.{% endif %}" + TURNS,
    "date": "{{ date_string }}" + TURNS,
    "clock": "{{ strftime_now('%d.%m.%Y') }}" + TURNS,
    "more": "{{ reasoning_effort }} {{ strftime_now('%Y') }} {{ tools | length }}" + TURNS,
}
GIVEN = {
    "nothing": {},
    "effort": {"reasoning_effort": "it's `low`\n", "tools": [{"name": "x"}], "thinking": True},
    "a day": {"strftime_now": "2025-01-31", "reasoning_effort": None, "tools": []},
}


class Asked:
    """Stands for the pipeline, and notes what it is asked."""

    def __init__(self, tokenizer, asked: list) -> None:
        self.tokenizer, self.asked = tokenizer, asked

    def __call__(self, text, **more):
        self.asked.append((text, more))
        return [{"generated_text": "A"}]


def code(template: str, given: dict, folder) -> tuple[str, list[str]]:
    """Return the card's Python and its commands."""
    run = copy.deepcopy(RUN) | {"mode": "direct"}
    run["data"]["chat_template_kwargs"] = given
    (folder / "train_run.json").write_text(json.dumps(run))
    (folder / "chat_template.jinja").write_text(template)
    card = model_card.render(folder, scores=None, dataset=DATASET, repo_id=REPO, version="1.0.0")
    (python,) = re.findall(r"```python\n(.*?)```", card, re.S)
    return python, re.findall(r"```bash\n(.*?)```", card, re.S)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_cards_python_gives_the_template_what_training_gave_it(template, given, tmp_path):
    if template == "more" and given == "nothing":
        return  # such a template was not trained on without them
    python, _ = code(TEMPLATES[template], GIVEN[given], tmp_path)
    tokenizer = tiny_parts.tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    asked = []
    start, stop = python.index("scene = {"), python.index("\nsimulator = ")
    code_of_it = python[start:stop] + python[python.index("\n", stop + 1) :]
    scope = {"simulator": Asked(tokenizer, asked), "chat_text": chat_text, "messages": messages}
    exec(compile(code_of_it, "card", "exec"), scope)
    (shown, more), expected = (
        asked[0],
        chat_text(tokenizer, messages(scope["scene"], "direct"), **GIVEN[given]),
    )
    assert shown == expected + "Behavior: [" and more["add_special_tokens"] is False


@pytest.mark.parametrize("given", GIVEN)
def test_the_cards_commands_give_it_too(given, tmp_path):
    _, (serve, score) = code(TEMPLATES["more"] + TEMPLATES["switch"], GIVEN[given], tmp_path)
    words = shlex.split(serve)
    told = json.loads(words[words.index("--default-chat-template-kwargs") + 1])
    expected = chat.template_settings(GIVEN[given])
    assert told == {k: v for k, v in expected.items() if k in told} and "enable_thinking" in told
    assert "strftime_now" not in told  # it can be handed no clock, which the card says
    words = shlex.split(score)
    model = words[words.index("--model_args") + 1]
    if GIVEN[given]:
        assert json.loads(model)["chat_template_args"] == GIVEN[given]
        assert json.loads(model)["pretrained"] == REPO
    else:
        assert model.startswith(f"pretrained={REPO}")

"""Messages as the text that a model reads: the one renderer of training, engines and evaluation.

Two things that templates decide by themselves are decided here, so that every reader of a scene
sees the same bytes:

* **The date.** Llama's template and others print the current one. Here the clock stands still, in
  both ways that templates ask for it: the variable `date_string` and the function `strftime_now`.
* **The system message.** Templates without that role refuse or drop it; there it goes in front of
  the user's message.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import LABEL_PREFIX, Message, answer

_NOW = datetime(2024, 7, 26)
#: What templates print as today, as Llama's writes it; part of every key of what was rendered.
DATE = _NOW.strftime("%d %b %Y")
_SYSTEM, _USER = "system message", "user message"
_takes_system: dict[str, bool] = {}  # by template


def chat_text(
    tokenizer: Any, chat: Sequence[Message], *, prompt: bool = True, **settings: Any
) -> str:
    """Return a chat as the model reads it.

    Args:
        tokenizer: Of `transformers`, with a chat template.
        chat: Messages in order.
        prompt: End with the start of the assistant's turn.
        settings: What else the template is given, such as `enable_thinking`.
    """
    return _apply(tokenizer, merged(tokenizer, chat), prompt, settings)


def _apply(
    tokenizer: Any, chat: Sequence[Message], prompt: bool, settings: dict[str, Any] | None = None
) -> str:
    arguments = {**template_arguments(tokenizer), **(settings or {})}
    return tokenizer.apply_chat_template(
        list(chat), tokenize=False, add_generation_prompt=prompt, **arguments
    )


def template_arguments(tokenizer: Any) -> dict[str, str]:
    """Return the arguments that fix the date, for a library that calls the template by itself."""
    template, fixed = tokenizer.get_chat_template(), fixed_template(tokenizer)
    return {"date_string": DATE} | ({"chat_template": fixed} if fixed != template else {})


def fixed_template(tokenizer: Any) -> str:
    """Return the chat template, its clock standing still."""
    template = tokenizer.get_chat_template()
    return _CLOCK + template if "strftime_now" in template else template


def prints_date(tokenizer: Any) -> bool:
    """Say whether the chat template may print the current date."""
    template = tokenizer.get_chat_template()
    return "strftime_now" in template or "date_string" in template


def _clock() -> str:
    """Return a Jinja macro `strftime_now` of the fixed date, which hides the real one.

    A template cannot be handed a function, and of a fixed moment every code of a format is a
    constant. The line break after the block is not printed: templates have `trim_blocks` set.
    """
    codes = [*"aAbBdefFgGHIjmMpSTuUVwWyYDRhZz", "-d", "-e", "-H", "-I", "-j", "-m", "-M", "-S"]
    constants = "".join(f"|replace('%{code}', '{_NOW.strftime(f'%{code}')}')" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{constants} -}}}}{{%- endmacro %}}\n"


_CLOCK = _clock()


def merged(tokenizer: Any, chat: Sequence[Message]) -> list[Message]:
    """Return a chat that the template can take: without a system role, where it has none."""
    chat = list(chat)
    if not chat or chat[0]["role"] != "system" or takes_system(tokenizer):
        return chat
    system, rest = chat[0]["content"], chat[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]


def takes_system(tokenizer: Any) -> bool:
    """Say whether the chat template has a system role; some refuse it, some drop it in silence."""
    from jinja2 import TemplateError

    template = tokenizer.get_chat_template()
    if template not in _takes_system:
        probe = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
        try:
            _takes_system[template] = _SYSTEM in _apply(tokenizer, probe, True)
        except TemplateError:
            _takes_system[template] = False
    return _takes_system[template]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text whose chat template wrote its own special tokens."""
    return tokenizer(text, add_special_tokens=False).input_ids


def count_tokens(tokenizer: Any, prompt: Sequence[Message]) -> int:
    """Return the number of prompt tokens, chat template included."""
    return len(token_ids(tokenizer, chat_text(tokenizer, prompt)))


def scored_text(text: str, thought: str) -> str:
    """Return what stands before the label: rendered prompt, thought (if any), `Behavior: [`."""
    return text + answer(LABELS[0], thought).removesuffix(f"{LABELS[0]}]")


def label_ids(tokenizer: Any, name: str = "") -> list[int]:
    """Return the token of each option label after `Behavior: [`.

    Args:
        tokenizer: Of `transformers`.
        name: What the error calls the model; default: where the tokenizer came from.

    Raises:
        UserError: if a label is not one token of its own there.
    """
    before = token_ids(tokenizer, LABEL_PREFIX)
    ids = []
    for label in LABELS:
        through = token_ids(tokenizer, LABEL_PREFIX + label)
        closed = token_ids(tokenizer, answer(label))
        if through[:-1] != before or closed[: len(through)] != through:
            raise UserError(
                f"label {label!r} is not a single token after {LABEL_PREFIX!r} in this tokenizer",
                where=name or tokenizer.name_or_path,
                fix="Options are scored by one token: choose a model with another tokenizer.",
            )
        ids.append(through[-1])
    return ids

"""Messages as the text that a model reads: the one renderer of training, engines and evaluation.

What templates decide by themselves, or take from hidden inputs, is decided here, so that every
reader of a scene sees the same bytes:

* **The system message.** Templates without that role refuse it, drop it, or show it only while
  there is no answer yet; there it goes in front of the user's message.
* **The date.** Llama's template and others print the current one. Here the clock stands still, in
  both ways that templates ask for it: the variable `date_string` and the function `strftime_now`.
* **Thinking.** It is off unless asked for: a decision process is the thinking that is wanted. Where
  a template has no switch and opens a block for it, the block is closed again.
* **Control tokens** of the tokenizer in what people and items are called are broken up.

All of these are `Settings` (`--chat-template-kwargs`), and belong to the key of what was rendered.
"""

from __future__ import annotations

import functools
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.common.text import broken_token
from usermirrorer.builders.decisions.prompts import LABEL_PREFIX, THINKING, Message, answer

Settings = Mapping[str, Any]

_NOW = datetime(2024, 7, 26)
#: What templates print as today, as Llama's writes it; part of every key of what was rendered.
DATE = _NOW.strftime("%d %b %Y")
#: The same day as it is given to `strftime_now`.
DAY = _NOW.date().isoformat()
#: The names that templates give the switch of thinking.
_SWITCHES = ("enable_thinking", "thinking")
_CLOCK_NAME = "strftime_now"
_SYSTEM, _USER, _ASSISTANT = "system message", "user message", "assistant message"
_REFUSALS = (TypeError, ValueError, KeyError, AttributeError, IndexError)
_MOST_SETTINGS = 10_000  # characters


def template_settings(given: Settings | None = None) -> dict[str, Any]:
    """Return all that a chat template is given beside the chat; part of the key of its text.

    Args:
        given: Takes the place of the defaults. `enable_thinking` and `thinking` are one switch;
            `strftime_now` is the day (`2025-01-31`) at which the clock stands.

    Raises:
        UserError: if the clock is given no day.
    """
    given = dict(given or {})
    switch = next((given[name] for name in _SWITCHES if name in given), False)
    settings = {"date_string": DATE, **dict.fromkeys(_SWITCHES, switch)}
    if _CLOCK_NAME in given:
        day = _day(given[_CLOCK_NAME])
        settings |= {_CLOCK_NAME: day.isoformat(), "date_string": day.strftime("%d %b %Y")}
    return settings | {name: value for name, value in given.items() if name != _CLOCK_NAME}


def read_settings(text: str) -> dict[str, Any]:
    """Return the settings of a command line, a JSON object; {} for "".

    Raises:
        UserError: if it is none.
    """
    try:
        given = json.loads(text[:_MOST_SETTINGS]) if text.strip() else {}
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or {"messages", "chat_template", "conversation"} & set(given):
        raise UserError(
            "is no JSON object of arguments of a chat template",
            where="--chat-template-kwargs",
            fix="""Give such as '{"enable_thinking": false}'.""",
        )
    template_settings(given)
    return given


def _day(value: Any) -> date:
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise UserError(
            f"{value!r} is no day", where=f"chat template: {_CLOCK_NAME}", fix="Write 2025-01-31."
        ) from None


def thinks(settings: Settings) -> bool:
    """Say whether the settings ask for thinking before the answer."""
    return any(settings.get(name) for name in _SWITCHES)


def chat_text(
    tokenizer: Any, chat: Sequence[Message], *, prompt: bool = True, **settings: Any
) -> str:
    """Return a chat as the model reads it.

    Args:
        tokenizer: Of `transformers`, with a chat template.
        chat: Messages in order.
        prompt: End with the start of the assistant's turn, up to where an answer begins.
        settings: What else the template is given, such as `enable_thinking`.

    Raises:
        UserError: if the template refuses the chat.
    """
    text = _explained(tokenizer, merged(tokenizer, chat, **settings), prompt, settings)
    if not prompt or thinks(settings):
        return text
    return closed(text) + _before_answers(tokenizer, settings)


def closed(text: str) -> str:
    """Return a prompt whose block of thinking, if it opens one, is closed again: an empty one."""
    ending = text.rstrip()
    for start, end in THINKING:
        if ending.endswith(start):
            breaks = text[len(ending) :].count("\n")
            return f"{text}{chr(10) * max(0, 2 - breaks)}{end}\n\n"
    return text


def opened(text: str) -> str:
    """Return the start of a block of thinking that a prompt ends with; "" where there is none.

    A generation after such a prompt goes on inside of the block: with this in front of it, what
    ends the block is seen to be missing.
    """
    ending = text.rstrip()
    return next((f"{start}\n" for start, _ in THINKING if ending.endswith(start)), "")


def _explained(tokenizer: Any, chat: Sequence[Message], prompt: bool, settings: Settings) -> str:
    from jinja2 import TemplateError

    try:
        return _apply(tokenizer, chat, prompt, settings)
    except (TemplateError, *_REFUSALS) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"the chat template refuses {', '.join(m['role'] for m in chat) or 'an empty chat'}: "
            f"{reason}",
            where=str(getattr(tokenizer, "name_or_path", "")) or "tokenizer",
            fix="Give what it asks for by --chat-template-kwargs, or choose an instruct model "
            "whose template takes these messages.",
        ) from error


def _apply(tokenizer: Any, chat: Sequence[Message], prompt: bool, settings: Settings) -> str:
    arguments = template_settings(settings)
    template = tokenizer.get_chat_template()
    if _CLOCK_NAME in template:
        template = _clock(arguments.pop(_CLOCK_NAME, DAY)) + template
    arguments.pop(_CLOCK_NAME, None)
    return tokenizer.apply_chat_template(
        list(chat),
        tokenize=False,
        add_generation_prompt=prompt,
        chat_template=template,
        **arguments,
    )


def renders_alone(tokenizer: Any, prompt: Sequence[Message], settings: Settings) -> bool:
    """Say whether the template gives the same prompt to who knows nothing of this module.

    Chat servers render messages by themselves, with their own clock and their own settings.
    """
    template = tokenizer.get_chat_template()
    if _CLOCK_NAME in template or "date_string" in template:
        return False
    try:
        bare = tokenizer.apply_chat_template(
            merged(tokenizer, prompt, **settings), tokenize=False, add_generation_prompt=True
        )
    except Exception:
        return False  # it asks for what the settings give it
    shown = chat_text(tokenizer, prompt, **settings)
    return bare == shown and not opened(shown)


@functools.cache
def _clock(day: str) -> str:
    """Return a Jinja macro `strftime_now` of a fixed date, which hides the real one.

    A template cannot be handed a function, and of a fixed moment every code of a format is a
    constant. The line break after the block is not printed: templates have `trim_blocks` set.
    """
    now = datetime.fromisoformat(day)
    codes = [*"aAbBdefFgGHIjmMpSTuUVwWyYDRhZz", "-d", "-e", "-H", "-I", "-j", "-m", "-M", "-S"]
    constants = "".join(f"|replace('%{code}', '{now.strftime(f'%{code}')}')" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{constants} -}}}}{{%- endmacro %}}\n"


def merged(tokenizer: Any, chat: Sequence[Message], **settings: Any) -> list[Message]:
    """Return a chat that the template can take, and whose contents hold no control tokens.

    Where the template has no system role, the system message goes in front of the user's.
    """
    chat = [_neutral_message(tokenizer, message) for message in chat]
    if not chat or chat[0]["role"] != "system" or takes_system(tokenizer, **settings):
        return chat
    system, rest = chat[0]["content"], chat[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]


def takes_system(tokenizer: Any, **settings: Any) -> bool:
    """Say whether the chat template has a system role.

    Some refuse it, some drop it in silence, and some show it in the last user message alone, so
    that what a model was asked is another text once it has answered.
    """
    probe = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    asked = _probed(tokenizer, probe, True, settings)
    answered = [*probe, {"role": "assistant", "content": _ASSISTANT}]
    whole = _probed(tokenizer, answered, False, settings)
    if _SYSTEM not in asked or _USER not in asked:
        return False
    return whole.startswith(asked[: asked.rindex(_USER) + len(_USER)])


def _probed(tokenizer: Any, chat: list[Message], prompt: bool, settings: Settings) -> str:
    """Return what a template makes of a chat, "" if it refuses; remembered."""
    from jinja2 import TemplateError

    known = _of_tokenizer(tokenizer)
    key = (
        tokenizer.get_chat_template(),
        json.dumps([chat, prompt, template_settings(settings)], default=repr),
    )
    if key not in known:
        try:
            known[key] = _apply(tokenizer, chat, prompt, settings)
        except (TemplateError, *_REFUSALS):
            known[key] = ""
    return known[key]


_known: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _of_tokenizer(tokenizer: Any) -> dict[Any, Any]:
    """Return what is remembered of a tokenizer as long as it lives."""
    return _known.setdefault(tokenizer, {})


def _before_answers(tokenizer: Any, settings: Settings) -> str:
    """Return what a template writes between its prompts and answers, such as the name of a channel.

    A mere space is none of it: an answer stands straight after its prompt, and models write the
    space by themselves.
    """
    user: list[Message] = [{"role": "user", "content": _USER}]
    prompt = closed(_probed(tokenizer, user, True, settings))
    turn = {"role": "assistant", "content": _ASSISTANT}
    whole = _probed(tokenizer, [*user, turn], False, settings)
    if not prompt or not whole.startswith(prompt) or _ASSISTANT not in whole:
        return ""
    between = whole[len(prompt) : whole.index(_ASSISTANT, len(prompt))]
    return between if between.strip() else ""


def end_of_turn(tokenizer: Any, **settings: Any) -> str:
    """Return what the template ends an assistant's turn with, no white space around it.

    Raises:
        UserError: if the template shows no assistant's turn.
    """
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    whole = _probed(tokenizer, turns, False, settings)
    if _ASSISTANT not in whole:
        whole = _explained(tokenizer, turns, False, settings)
    tail = whole.rpartition(_ASSISTANT)[2].split()
    return tail[0] if tail else str(tokenizer.eos_token or "")


def answered(
    tokenizer: Any, prompt: Sequence[Message], turn: Message, **settings: Any
) -> tuple[str, str]:
    """Return a prompt as it is shown, and the answer with its end of turn as a model writes it.

    Raises:
        UserError: if the template shows another prompt once it is answered, or another answer.
    """
    chat = merged(tokenizer, [*prompt, turn], **settings)
    said = chat[-1]["content"].strip()
    asked = _explained(tokenizer, chat[:-1], True, settings)
    whole = _explained(tokenizer, chat, False, settings)
    stem = before_thinking(asked)
    if not whole.startswith(stem) or said not in whole[len(stem) :]:
        raise UserError(
            "the chat template shows "
            + (
                "another answer" if whole.startswith(stem) else "another prompt once it is answered"
            ),
            where=str(tokenizer.name_or_path),
            fix="Training would not show what inference does: choose another model or template.",
        )
    shown = closed(chat_text(tokenizer, prompt, **settings))
    return shown, said + end_of_turn(tokenizer, **settings)


def before_thinking(prompt: str) -> str:
    """Return a prompt without what it says of thinking, which many templates leave out later."""
    stem = prompt.rstrip()
    for start, end in THINKING:
        ended = stem.removesuffix(end).rstrip()
        opening = ended.removesuffix(start)
        if opening != ended or ended != stem:
            return opening
    return prompt


def verbatim(end: str = "") -> str:
    """Return a template that shows messages as they are, and an assistant's with its `end`.

    For libraries that render by themselves: they are given what is rendered already.
    """
    quoted = end.replace("\\", "\\\\").replace("'", "\\'")
    return (
        "{% for message in messages %}{{ message.content }}"
        f"{{% if message.role == 'assistant' %}}{{{{ '{quoted}' }}}}{{% endif %}}{{% endfor %}}"
    )


def turn_in(
    tokenizer: Any, text: str, chat: Sequence[Message], end: str, settings: Settings
) -> tuple[int, int]:
    """Return where the last turn of `chat` stands in the text of a longer one, with its end.

    Args:
        tokenizer: Of `transformers`.
        text: Of a chat that begins with `chat`.
        chat: What `merged` returned, up to the turn.
        end: See `end_of_turn`.
        settings: What the template is given.

    Raises:
        UserError: if the chat before the turn is shown otherwise there.
    """
    said, stem = chat[-1]["content"].strip(), ""
    if chat[:-1]:
        stem = before_thinking(_explained(tokenizer, chat[:-1], True, settings))
    start = text.find(said, len(stem)) if text.startswith(stem) else -1
    if start < 0:
        raise UserError(
            "the chat template shows another text once it is answered",
            where=str(tokenizer.name_or_path),
            fix="Choose another model or template.",
        )
    stop = start + len(said)
    follows = text.find(end, stop) if end else -1
    return start, follows + len(end) if follows >= 0 and not text[stop:follows].strip() else stop


def answered_ids(
    tokenizer: Any, prompt: Sequence[Message], turn: Message, **settings: Any
) -> tuple[list[int], list[int]]:
    """Return the tokens of `answered`: those of the prompt are what inference shows, to the token.

    Raises:
        UserError: see `answered`.
    """
    text, completion = answered(tokenizer, prompt, turn, **settings)
    before, whole = token_ids(tokenizer, text), token_ids(tokenizer, text + completion)
    if whole[: len(before)] == before:
        return before, whole[len(before) :]
    return before, token_ids(tokenizer, completion)  # tokens would run over the prompt's end


def neutral(tokenizer: Any, text: str, *, spoken: bool = False) -> str:
    """Return a text in which the tokenizer's control tokens are broken up, so that none is read.

    Args:
        tokenizer: Of `transformers`.
        text: Of an item, a person or a model.
        spoken: A model said it: signs around thinking and tools may stay.
    """
    known = _of_tokenizer(tokenizer)
    key = ("control tokens", spoken, len(tokenizer))
    if key not in known:
        added = tokenizer.added_tokens_decoder.values()
        signs = {token.content for token in added if token.special or not spoken}
        special = set(tokenizer.all_special_tokens)
        signs = {sign for sign in signs | special if sign in special or _SIGN(sign)}
        ordered = sorted((sign for sign in signs if len(sign) > 1), key=len, reverse=True)
        known[key] = re.compile("|".join(map(re.escape, ordered))) if ordered else None
    pattern = known[key]
    return pattern.sub(lambda sign: broken_token(sign.group()), text) if pattern else text


#: What looks like a sign rather than a word or white space that a tokenizer knows as a whole.
_SIGN = re.compile(r"[<\[{(|].*[>\]})|]", re.S).fullmatch


def _neutral_message(tokenizer: Any, message: Message) -> Message:
    spoken = message["role"] == "assistant"
    content = message["content"]
    if not isinstance(content, str):
        return message
    return {**message, "content": neutral(tokenizer, content, spoken=spoken)}


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text whose chat template wrote its own special tokens."""
    return tokenizer(text, add_special_tokens=False).input_ids


def count_tokens(tokenizer: Any, prompt: Sequence[Message], **settings: Any) -> int:
    """Return the number of prompt tokens, chat template included."""
    return len(token_ids(tokenizer, chat_text(tokenizer, prompt, **settings)))


def scored_text(text: str, thought: str) -> str:
    """Return what stands before the label: rendered prompt, thought (if any), `Behavior: [`.

    Where the prompt asks for thinking, it ends before this is said.
    """
    return closed(text) + answer(LABELS[0], thought).removesuffix(f"{LABELS[0]}]")


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
        closing = token_ids(tokenizer, answer(label))
        if through[:-1] != before or closing[: len(through)] != through:
            raise UserError(
                f"label {label!r} is not a single token after {LABEL_PREFIX!r} in this tokenizer",
                where=name or tokenizer.name_or_path,
                fix="Options are scored by one token: choose a model with another tokenizer.",
            )
        ids.append(through[-1])
    return ids

"""What a model's chat template is given in the code of its card: the same as in its training.

In Python our own renderer shows the scene, as it did in training. A server renders by itself:
templates that know a switch of thinking, or print a date, show another prompt where nobody tells
them, and what a run gave its template beside those has to be given again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usermirrorer.builders.decisions import chat

_TEMPLATE = "chat_template.jinja"
CLOCK = "strftime_now"


def arguments(run_dir: Path, given: chat.Settings) -> dict[str, Any]:
    """Return what of all settings a model's template reads, and so has to be given.

    Args:
        run_dir: Folder of the model.
        given: To the template in training (`--chat_template_kwargs`).

    Returns:
        Name -> value; under `strftime_now` the day at which its clock stood.
    """
    path = run_dir / _TEMPLATE
    template = path.read_text(encoding="utf-8") if path.is_file() else ""
    every = {CLOCK: chat.DAY, **chat.template_settings(given)}
    return {name: value for name, value in sorted(every.items()) if name in template}


def in_python(given: chat.Settings) -> str:
    """Return what training gave the template as arguments of `chat_text`; "" without any."""
    return f", **{_literal(given)}" if given else ""


def in_vllm(settings: Mapping[str, Any]) -> str:
    """Return them as an option of `vllm serve`, which can be handed no clock; "" without any."""
    told = {name: value for name, value in settings.items() if name != CLOCK}
    return f" --default-chat-template-kwargs '{_in_quotes(told)}'" if told else ""


def in_lm_eval(given: chat.Settings) -> str:
    """Return what training gave the template as an object for single quotes; "" without any."""
    return _in_quotes(given) if given else ""


def _literal(value: Any) -> str:
    """Write a value of JSON as Python does, without a sign that could end a block of code."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value).replace("`", r"\x60") if isinstance(value, str) else repr(value)


def _in_quotes(value: Mapping[str, Any]) -> str:
    """Write an object as JSON that stands between single quotes in a block of code."""
    text = json.dumps(dict(value))
    return text.replace("`", r"\u0060").replace("'", r"\u0027")

"""Prompts and thoughts as the text that a model reads, the same for every engine."""

from __future__ import annotations

from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import LABEL_PREFIX, Message


def chat_text(tokenizer: Any, prompt: list[Message]) -> str:
    """Return the prompt as the model reads it, up to the start of the assistant's turn."""
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text whose chat template wrote its own special tokens."""
    return tokenizer(text, add_special_tokens=False).input_ids


def count_tokens(tokenizer: Any, prompt: list[Message]) -> int:
    """Return the number of prompt tokens, chat template included."""
    return len(token_ids(tokenizer, chat_text(tokenizer, prompt)))


def scored_text(text: str, thought: str) -> str:
    """Return what stands before the label: rendered prompt, thought (if any), `Behavior: [`."""
    return text + (f"{thought.rstrip()}\n{LABEL_PREFIX}" if thought else LABEL_PREFIX)


def label_ids(tokenizer: Any, name: str) -> list[int]:
    """Return the token of each option label after `Behavior: [`.

    Raises:
        UserError: if a label is not one token there.
    """
    base = token_ids(tokenizer, LABEL_PREFIX)
    found = []
    for label in LABELS:
        ids = token_ids(tokenizer, LABEL_PREFIX + label)
        if ids[: len(base)] != base or len(ids) != len(base) + 1:
            raise UserError(
                f"does not write label {label!r} as one token after {LABEL_PREFIX!r}",
                where=name,
                fix="Options are scored by one token: choose a model with another tokenizer.",
            )
        found.append(ids[-1])
    return found

"""One scene on a terminal: the decision process as it is written, then bars."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from usermirrorer.builders.common.schema import LABELS
from usermirrorer.recipes.simulator.choices import Choice
from usermirrorer.recipes.simulator.core import Asking, Simulator
from usermirrorer.recipes.simulator.questions import Question, from_scene

_EXAMPLE = Path(__file__).parent / "example.json"
_HISTORY = 8  # newest lines shown
_BAR, _WIDEST = 24, 110
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def example() -> dict[str, Any]:
    """Return a scene for demonstrations: real films before a made-up person."""
    return json.loads(_EXAMPLE.read_text(encoding="utf-8"))


def show(simulator: Simulator, scene: dict[str, Any], how: Asking) -> Choice:
    """Print a scene, what the simulated person thinks while it is written, and bars.

    Raises:
        UserError: if the scene cannot be asked.
    """
    asked = from_scene(scene)
    width = min(shutil.get_terminal_size((88, 24)).columns, _WIDEST)
    for line in introduction(asked, width):
        click.echo(line)
    telling = _Telling(click.echo)
    if how.mode == "decision":
        click.secho("Decision process", bold=True)
    answered = simulator.answer([asked], how, telling)[0]
    if not isinstance(answered, Choice):
        raise answered
    if how.mode == "decision":
        telling.finish(answered.decisions[0].text)
    for line in conclusion(answered, scene.get("answer"), width):
        click.echo(line)
    return answered


def introduction(asked: Question, width: int) -> list[str]:
    """Return profile and newest history as lines."""
    lines: list[str] = []
    if asked.profile:
        lines += [click.style("Profile", bold=True)]
        lines += [f"  {cut(line, width - 2)}" for line in asked.profile.splitlines()]
    if asked.history:
        left_out = len(asked.history) - _HISTORY
        note = f" (newest {_HISTORY} of {len(asked.history)} lines)" if left_out > 0 else ""
        lines += ["", click.style(f"History{note}", bold=True)]
        lines += [f"  {cut(line, width - 2)}" for line in asked.history[-_HISTORY:]]
    return [*lines, ""]


def conclusion(choice: Choice, answer: int | None, width: int) -> list[str]:
    """Return bars of the probabilities, and what follows from them."""
    lines = [click.style("Options", bold=True)]
    for k, p in enumerate(choice.probabilities):
        mark = "▶" if k == choice.behavior else " "
        real = "  (really chosen)" if k == answer else ""
        room = width - _BAR - 15 - len(real)
        head = f"{mark} {LABELS[k]} {bar(p)} {100 * p:5.1f} %"
        lines.append(f"{head}  {cut(choice.exposure[k], room)}{real}")
    told = f"{choice.label}, {100 * choice.probabilities[choice.behavior]:.1f} %"
    if choice.temperature is not None:
        told += " (calibrated)"
    lines += ["", f"Chooses {told}. Entropy {choice.entropy:.2f} bits."]
    if choice.likely is not None:
        named = ", ".join(LABELS[k] for k in choice.likely)
        lines.append(f"The real choice is among {named} in {choice.coverage:.0%} of cases.")
    if len(choice.decisions) > 1:
        named = ", ".join("none" if d.behavior is None else LABELS[d.behavior]
                          for d in choice.decisions)  # fmt: skip
        lines.append(f"The {len(choice.decisions)} decision processes name: {named}.")
    return lines


def bar(share: float, width: int = _BAR) -> str:
    """Return a bar of fixed width, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width, "·")


def cut(text: str, room: int) -> str:
    """Return the start of a text that fits into so many columns."""
    wide = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text]
    if sum(wide) <= room:
        return text
    used, kept = 0, []
    for character, columns in zip(text, wide, strict=True):
        used += columns
        if used > max(room, 8) - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


class _Telling:
    """Prints what is new of a text that grows, and nothing that a terminal would obey."""

    def __init__(self, echo: Callable[..., Any]) -> None:
        self.echo, self.told = echo, ""

    def __call__(self, texts: list[list[str]]) -> None:
        """Take what the samples say so far; the first is told."""
        said = harmless(texts[0][0]).rstrip("\ufffd")  # the rest of that character comes later
        if said.startswith(self.told):
            self.echo(said[len(self.told) :], nl=False)
            self.told = said

    def finish(self, text: str) -> None:
        """Tell what is left."""
        self([[text]])
        self.echo("\n")


def harmless(text: str) -> str:
    """Return a text without control characters other than line breaks."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf") else " " for c in text
    )

"""Scenes to chat messages, and generated text back to a decision (appendix E.2).

The labels and the closing `Behavior: [X]` are an interface that recipes, engines and evaluation
share; the sentences around them are Jinja files in `prompt_templates/` that a user can replace by
pointing `--prompts` to another folder with the same file names.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS

Mode = Literal["decision", "direct"]
Message = dict[str, str]
Count = Callable[[list[Message]], int]

#: What stands before the single label token, in both modes.
LABEL_PREFIX = "Behavior: ["
#: Lines of a decision process, in order, before the Behavior line.
FIELDS = (
    "Stimulus",
    "Stimulus Factors",
    "Knowledge",
    "Knowledge Factors",
    "Evaluation",
    "Evaluation Style",
)
DEFAULT_PROMPTS = Path(__file__).parent / "prompt_templates"
#: Folder beside a model's weights with the templates it was trained on, if not the default ones.
MODEL_PROMPTS = "prompts"


@functools.cache
def _template(folder: Path, name: str) -> Any:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    path = folder / f"{name}.jinja"
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "prompt template is missing", where=path, fix=f"Copy it from {DEFAULT_PROMPTS}."
        ) from None
    except TemplateError as error:
        raise UserError(f"prompt template is broken: {error}", where=path) from error


def messages(
    scene: Mapping[str, Any], mode: Mode = "decision", prompts: Path = DEFAULT_PROMPTS
) -> list[Message]:
    """Return the system and user message of a scene.

    Args:
        scene: Needs `profile` (str), `history` and `exposure` (lists of str).
        mode: `decision` asks for a decision process first, `direct` for the label alone.
        prompts: Folder with `scene.jinja` and the mode's `decision_system.jinja` or
            `direct_system.jinja`.

    Raises:
        UserError: if a template is missing or broken.
    """
    user = _template(Path(prompts), "scene").render(
        profile=scene["profile"],
        history=list(scene["history"]),
        exposure=list(scene["exposure"]),
        labels=LABELS,
    )
    return [
        {"role": "system", "content": _template(Path(prompts), f"{mode}_system").render().strip()},
        {"role": "user", "content": user.strip()},
    ]


def fit(
    scene: Mapping[str, Any],
    count: Count,
    room: int,
    prompts: Path = DEFAULT_PROMPTS,
    mode: Mode = "decision",
) -> list[Message]:
    """Return the prompt of a scene, leaving out oldest history until it fits.

    The exposure is never cut.

    Args:
        scene: Mapping[str, Any] of schema `SCENE`.
        count: Counts the tokens of a prompt, as `Engine.count`.
        room: Most tokens the prompt may have.
        prompts: Folder of prompt templates.
        mode: Which prompt, see `messages`.

    Raises:
        UserError: if the prompt is too long even without history.
    """
    history = list(scene["history"])
    fitting: dict[int, list[Message]] = {}

    def tokens(dropped: int) -> int:
        prompt = messages({**scene, "history": history[dropped:]}, mode, prompts)
        size = count(prompt)
        if size <= room:
            fitting[dropped] = prompt
        return size

    # All of it mostly fits; where it does not, halving takes few of the counts of a long history.
    least, most = 0, len(history)
    while least < most:
        middle = (least + most) // 2 if least else 0
        if tokens(middle) <= room:
            most = middle
        else:
            least = middle + 1
    if least not in fitting and (size := tokens(least)) > room:
        raise UserError(
            f"the prompt does not fit into {max(room, 0):,} tokens even without history: "
            f"it has {size:,}",
            where=f"scene {scene['scene_id']}",
        )
    return fitting[least]


def prompts_hash(folder: Path) -> str:
    """Return a fingerprint of the prompt templates in a folder."""
    files = sorted(Path(folder).glob("*.jinja"))
    return storage.fingerprint({path.name: storage.file_hash(path) for path in files})


def of_model(folder: Path) -> Path:
    """Return the templates that go with a model's folder, else those of this package."""
    own = Path(folder) / MODEL_PROMPTS
    return own if own.is_dir() else DEFAULT_PROMPTS


def answer(label: str, thought: str = "") -> str:
    """Return an assistant turn: the thought (if any) and its closing `Behavior: [label]` line."""
    behavior = f"{LABEL_PREFIX}{label}]"
    return f"{thought.rstrip()}\n{behavior}" if thought else behavior


@dataclass(frozen=True)
class Decision:
    """A parsed generation. `malformed` names the reason, and is "" for a well-formed one."""

    thought: str = ""
    behavior: int | None = None
    fields: dict[str, str] = field(default_factory=dict)
    malformed: str = ""


_HEADING = re.compile(
    rf"^[\s\-*]*\**\s*({'|'.join(sorted((*FIELDS, 'Thought', 'Behavior'), key=len, reverse=True))})"
    r"\**\s*:\**\s*(.*)$",
    re.I,
)
_BEHAVIOR_LINE = re.compile(r"^[\s\-*]*behavior\**\s*:", re.I | re.M)
_BEHAVIOR = re.compile(r"^\**\[?\s*([A-Za-z])\s*\]?\**[.\s]*$")


#: How reasoning models begin and end the block in which they think before they answer.
THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_OPENING = re.compile("|".join(re.escape(start) for start, _ in THINKING), re.I)


def without_thinking(text: str, end: str = "") -> str | None:
    """Return what a generation says after its thinking; None if the thinking does not end.

    What a model drafts or quotes while it thinks is no answer: every reader of generations calls
    this first. A generation need not hold the start of the block, which prompts may end with.

    Args:
        text: The generation.
        end: What ends the thinking, for a model that ends it by another sign than `THINKING`.
    """
    ends = [end] if end else [close for _, close in THINKING]
    pattern = "|".join(re.escape(sign) for sign in ends)
    *before, rest = re.split(pattern, text, flags=0 if end else re.I)
    if _OPENING.search(rest) and not (end and before):
        return None
    return rest.strip()


def thought_of(text: str, end: str = "") -> str:
    """Return what a generation says before its first Behavior line; all of it if it has none.

    This is what evaluation scores the labels after, for well-formed and malformed generations
    alike. Thinking is left out; where it does not end, nothing is left.

    Args:
        text: The generation.
        end: As in `without_thinking`.
    """
    said = without_thinking(text, end) or ""
    line = _BEHAVIOR_LINE.search(said)
    return (said[: line.start()] if line else said).strip()


def parse(
    text: str, options: int, mode: Mode = "decision", *, strict: bool = False, think_end: str = ""
) -> Decision:
    """Read one generation; tolerant of layout, never guessing a behavior.

    A reasoning model's thinking is dropped before anything is read, see `without_thinking`.

    Leading dashes, bold marks, missing brackets and letter case are tolerated; a description may
    run over several lines. Malformed are: `unterminated thinking`, `no behavior`,
    `several behaviors`, `label outside the list`, `behavior is not a label`,
    `text after behavior`, `missing <field>`, `empty <field>`.

    Args:
        text: The generation.
        options: Number of options k of the scene.
        mode: In `direct` mode only the Behavior line is needed.
        strict: The last line must be `Behavior: [X]` to the letter, since that is where options
            are scored; otherwise the generation is malformed, `inexact behavior line`. For those
            who teach the format.
        think_end: What ends the thinking, see `without_thinking`.
    """
    said = without_thinking(text, think_end)
    if said is None:
        return Decision(malformed="unterminated thinking")
    headings, behaviors, after = _lines(said)
    decision = _judge(headings, behaviors, after, options, mode)
    if strict and decision.behavior is not None:
        last = said.rpartition("\n")[2]
        if last != answer(LABELS[decision.behavior]):
            return Decision(fields=headings, malformed="inexact behavior line")
    return decision


def _lines(text: str) -> tuple[dict[str, str], list[str], str]:
    """Return the text under each heading, each Behavior line, and what follows the last one."""
    headings: dict[str, str] = {}
    current, behaviors, after = "", [], ""
    for line in text.splitlines():
        match = _HEADING.match(line)
        if match:
            current = match.group(1).title()
            if current == "Behavior":
                behaviors.append(match.group(2).strip())
            elif behaviors:
                after = line
            else:
                headings.setdefault(current, match.group(2).strip())
        elif line.strip():
            if behaviors:
                after = line
            elif current:
                headings[current] = f"{headings[current]} {line.strip()}".strip()
    return headings, behaviors, after


def _judge(
    headings: dict[str, str], behaviors: list[str], after: str, options: int, mode: Mode
) -> Decision:
    reason, index = _behavior_fault(behaviors, after, options)
    if not reason and mode == "decision":
        reason = _field_fault(headings)
    if reason:
        return Decision(fields=headings, malformed=reason)
    if mode == "direct":
        return Decision(behavior=index)
    thought = "\n".join(["Thought:", *(f"{name}: {headings[name]}" for name in FIELDS)])
    return Decision(thought=thought, behavior=index, fields=headings)


def _behavior_fault(behaviors: list[str], after: str, options: int) -> tuple[str, int]:
    if len(behaviors) != 1:
        return ("several behaviors" if behaviors else "no behavior"), -1
    label = _BEHAVIOR.match(behaviors[0])
    if not label:
        return "behavior is not a label", -1
    index = LABELS.find(label.group(1).upper())
    if not 0 <= index < options:
        return "label outside the list", -1
    return ("text after behavior" if after else ""), index


def _field_fault(headings: dict[str, str]) -> str:
    for name in FIELDS:
        if not headings.get(name):
            return f"{'empty' if name in headings else 'missing'} {name.lower()}"
    return ""

"""Who is asked and what they are shown, cleaned as in scenes and checked before a model sees it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.common.storage import fingerprint
from usermirrorer.builders.common.text import clean, numbered_by_looks

#: Characters: of one line, and of all lines of a part. A context of 6,144 tokens holds fewer.
LONGEST_LINE, LONGEST_PART = 20_000, 200_000
_HEADING = re.compile(r"^(?:#+\s+)+")


@dataclass(frozen=True)
class Question:
    """A person before a list: what every way of asking a simulator comes down to.

    Args:
        profile: Lines of facts; "" for a person of whom nothing is known.
        history: What they did, oldest first.
        exposure: The options, in the order in which they are shown.
        scene_id: With the run's seed it fixes every draw.
    """

    profile: str
    history: tuple[str, ...]
    exposure: tuple[str, ...]
    scene_id: str

    def scene(self) -> dict[str, Any]:
        """Return what prompts are made from."""
        return {
            "scene_id": self.scene_id,
            "profile": self.profile,
            "history": list(self.history),
            "exposure": list(self.exposure),
        }


def question(
    exposure: Sequence[str],
    profile: str | None = "",
    history: Sequence[str] | None = (),
    *,
    scene_id: str = "",
    where: str = "",
) -> Question:
    """Return a question whose texts are clean.

    Args:
        exposure: 2 to 26 options.
        profile: Lines of facts.
        history: One line per event, oldest first. What no context could hold is left out.
        scene_id: Of a stored scene; by default it is made from the texts.
        where: What errors call it.

    Raises:
        UserError: if there are too few or too many options, if some are empty or read alike, or if
            a text is none or too long.
    """
    options = [_line(text, f"option {n}", where) for n, text in _numbered(exposure, "exposure")]
    _check_options(options, where)
    lines = (_line(text, f"history, line {n}", where) for n, text in _numbered(history, "history"))
    facts = "" if profile is None else _text(profile, "profile", where, LONGEST_PART)
    about = "\n".join(line for raw in facts.splitlines() if (line := _plain(raw)))
    events = _newest([line for line in lines if line])
    own = fingerprint([about, events, options])
    return Question(about, tuple(events), tuple(options), scene_id or f"asked-{own}")


def from_scene(scene: Mapping[str, Any], where: str = "") -> Question:
    """Return the question of a row of schema `SCENE`, or of its part that prompts show.

    Raises:
        UserError: see `question`.
    """
    if not isinstance(scene, Mapping):
        raise UserError(f"is {kind_of(scene)}, no scene", where=where, fix=_FORM)
    if "exposure" not in scene:
        raise UserError("has no exposure", where=where, fix=_FORM)
    name = scene.get("scene_id") or ""
    if not isinstance(name, str) or len(name) > 200:
        raise UserError("scene_id is no short text", where=where)
    at = where or (f"scene {name}" if name else "")
    return question(
        scene["exposure"], scene.get("profile"), scene.get("history"), scene_id=name, where=at
    )


_FORM = 'Give {"profile": "...", "history": ["..."], "exposure": ["...", "..."]}.'


def _numbered(texts: Any, what: str) -> Iterable[tuple[int, Any]]:
    if texts is None:
        return ()
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"{what} is {kind_of(texts)}, no list of texts", fix=_FORM)
    return enumerate(texts, 1)


def kind_of(value: Any) -> str:
    """Return in words what a value is that should have been something else."""
    kinds = {
        str: "a text", bytes: "bytes", dict: "an object", list: "a list", bool: "true or false",
        int: "a number", float: "a number", type(None): "nothing",
    }  # fmt: skip
    return kinds.get(type(value), f"of type {type(value).__name__}")


def _text(value: Any, what: str, where: str, most: int) -> str:
    if not isinstance(value, str):
        raise UserError(f"{what} is {kind_of(value)}, no text", where=where, fix=_FORM)
    if len(value) > most:
        raise UserError(f"{what} has more than {most:,} characters", where=where, fix="Shorten it.")
    return value


def _line(value: Any, what: str, where: str) -> str:
    return _plain(_text(value, what, where, LONGEST_LINE))


def _plain(text: str) -> str:
    """Return one clean line that does not begin as a heading of the prompt does."""
    return _HEADING.sub("", clean(text))


def _newest(lines: Sequence[str]) -> list[str]:
    """Return the newest lines that a context could hold at all; the oldest are left out first."""
    kept = itertools.accumulate((len(line) + 1 for line in reversed(lines)), initial=0)
    fitting = sum(size <= LONGEST_PART for size in kept) - 1
    return list(lines[len(lines) - fitting :])


def _check_options(options: Sequence[str], where: str) -> None:
    count, most = len(options), len(LABELS)
    if count == 0:
        raise UserError("the exposure is empty", where=where, fix=f"Give 2 to {most} options.")
    if not 2 <= count <= most:
        raise UserError(
            f"an exposure has 2 to {most} options, not {count}",
            where=where,
            fix="Show longer lists page by page." if count > most else "One option is no choice.",
        )
    if sum(map(len, options)) > LONGEST_PART:
        raise UserError(f"the options have over {LONGEST_PART:,} characters", where=where)
    looks = numbered_by_looks(options).tolist()
    for number, option in enumerate(options):
        if not option:
            raise UserError(f"option {LABELS[number]} is empty", where=where)
        before = looks.index(looks[number])
        if before != number:
            same = option == options[before]
            raise UserError(
                f"options {LABELS[before]} and {LABELS[number]} "
                f"{'are the same' if same else 'read alike'}: {option[:80]!r}",
                where=where,
                fix="Leave one out, or say what tells them apart.",
            )

"""A proposal to the commented YAML, every guess marked with GUESS."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from usermirrorer.builders.raw.own.check import SCHEMA_FILE
from usermirrorer.builders.raw.own.propose import Proposal

SCHEMA_NAME = "usermirrorer-domain.schema.json"
_SHOWN = 4  # attributes in a template
_YEARS = ("year", "release_year", "publication_year")


def quoted(value: str) -> str:
    """Return a text as YAML takes it, whatever is in it."""
    return json.dumps(value, ensure_ascii=False)


def schema_text() -> str:
    """Return the JSON schema that the first line of the YAML names."""
    return SCHEMA_FILE.read_text(encoding="utf-8")


def text(made: Proposal, name: str, folder: Path, told: Mapping[str, str]) -> str:
    """Return the YAML of a proposal.

    Args:
        made: The proposal.
        name: Of the domain.
        folder: Where the YAML will lie: paths are relative to it.
        told: `timezone`, `licence`, `title` and `behavior`, where a person said so.
    """
    lines = [
        f"# yaml-language-server: $schema=./{SCHEMA_NAME}",
        "# Your own logs. Check what is marked GUESS, then:",
        f"#   usermirrorer scenes {name}.yaml --out scenes/{name}",
        f"name: {name}",
        f"title: {quoted(told.get('title') or name)}",
        f"licence: {quoted(told.get('licence') or 'not stated')}",
        "public: false  # true: texts of these files may be published",
        f"timezone: {told.get('timezone') or 'UTC'}  # of times that state none"
        + ("" if told.get("timezone") else "  GUESS"),
        "missing: ['', NA, N/A, NaN, nan, 'null', NULL, None, '-']",
        "",
        "files:",
    ]
    for kind, looked in made.looked.items():
        path = os.path.relpath(looked.path.resolve(), folder.resolve())
        about = ", ".join(f"{k}: {quoted(v)}" for k, v in looked.about.items())
        mark = f"  # GUESS: {', '.join(looked.guesses)}" if looked.guesses else ""
        lines.append(f"  {kind}: {{path: {quoted(path)}, {about}}}{mark}")
    lines += ["", *_interactions(made, told), "", *_items(made)]
    if "users" in made.looked:
        lines += ["", "users:", _role(made, "users.id"), *_columns(made, "users")]
    if "impressions" in made.looked:
        lines += ["", *_impressions(made)]
    lines += ["", *_as_of(made), "", *_templates(made)]
    return "\n".join(lines) + "\n"


def _role(made: Proposal, where: str) -> str:
    key = where.partition(".")[2]
    mark = f"  # GUESS: {made.guessed[where]}" if where in made.guessed else ""
    return f"  {key}: {quoted(made.roles[where])}{mark}"


def _time(made: Proposal, kind: str) -> list[str]:
    where = f"{kind}.time"
    why = [made.guessed[key] for key in (where, f"{where}.format") if key in made.guessed]
    mark = f"  # GUESS: {'; '.join(why)}" if why else ""
    column, how = quoted(made.roles[where]), quoted(made.formats[where])
    return [f"  time: {{column: {column}, format: {how}}}{mark}"]


def _columns(made: Proposal, kind: str) -> list[str]:
    own = made.columns.get(kind, {})
    if not own:
        return []
    lines = ["  columns:  # name in the templates: column of the file, and its type (GUESS)"]
    for called, about in own.items():
        inside = ", ".join(f"{key}: {quoted(value)}" for key, value in about.items())
        lines.append(f"    {called}: {{{inside}}}")
    return lines


def _interactions(made: Proposal, told: Mapping[str, str]) -> list[str]:
    lines = ["interactions:", _role(made, "interactions.user"), _role(made, "interactions.item")]
    lines += [*_time(made, "interactions"), *_columns(made, "interactions")]
    if told.get("behavior"):
        return [*lines, f"  behavior: {quoted(told['behavior'])}"]
    example = rating_of(made) or "watch_ratio"
    return [
        *lines,
        f"  # behavior: {example} >= 0.5  # rows that count as chosen; all, if left out",
    ]


def _items(made: Proposal) -> list[str]:
    words = [n for n, about in made.columns["items"].items() if about["type"] == "text"]
    return [
        "items:",
        _role(made, "items.id"),
        _role(made, "items.title"),
        *_columns(made, "items"),
        f"  text: [{', '.join(words[:_SHOWN])}]  # read by the encoder, behind the title; GUESS",
        "  available: first-seen  # or {column: released, format: '%Y-%m-%d'}",
    ]


def _impressions(made: Proposal) -> list[str]:
    keys = [k for k in ("id", "user", "shown", "clicked") if f"impressions.{k}" in made.roles]
    return [
        "impressions:  # what was on the screen, and what was clicked",
        *(_role(made, f"impressions.{key}") for key in keys),
        *_time(made, "impressions"),
        f"  layout: {made.formats['impressions.layout']}",
        f"  separator: {quoted(made.formats['impressions.separator'])}",
    ]


def rating_of(made: Proposal) -> str:
    """Return the name of a number of the log that is a rating, "" if there is none."""
    from usermirrorer.builders.raw.own import detect, propose

    own = made.columns["interactions"]
    names = [name for name, about in own.items() if about["type"] in ("number", "integer")]
    scores = detect.alike(names, propose.WORDS["rating"])
    best = max(scores, key=lambda name: scores[name], default="")
    return best if best and scores[best] > 0.3 else ""


def _as_of(made: Proposal) -> list[str]:
    rating = rating_of(made)
    lines = ["as_of:  # strictly before the scene", "  items:", "    times_taken: {count: rows}"]
    if rating:
        lines.append(f"    average_{rating}: {{mean: {rating}, digits: 1}}")
    return lines


def _templates(made: Proposal) -> list[str]:
    """Write the three templates: a title, its year in brackets, and behind ` - ` the rest.

    So written, prompts for very small models can leave out all but the title and its year.
    """
    columns = made.columns["items"]
    year = _year(made)
    named = f"{{{{ title }}}}{_if(year, f' ({{{{ {year} }}}})')}"
    others = [name for name in list(columns)[:_SHOWN] if name != year]
    item = named + "".join(_if(n, f" - {_label(n)}: {{{{ {n} }}}}") for n in others)
    rating, people = rating_of(made), made.columns.get("users", {})
    rated = _if(rating, f". {_label(rating)}: {{{{ {rating} }}}}")
    average = _if(rating and f"average_{rating}", f" - {{{{ average_{rating} }}}} on average")
    lines = ["templates:  # Jinja: {{ column }}, {% if column %} ... {% endif %}; GUESS"]
    lines.append("  profile: |" if people else '  profile: ""')
    lines += ["    " + _if(n, f"{_label(n)}: {{{{ {n} }}}}") for n in people]
    lines += ["  history: |", f"    {{{{ ago }}}}: {item}{rated}"]
    return [*lines, "  exposure: |", f"    {item}{average}"]


def _year(made: Proposal) -> str:
    """Return the name of the items' year, "" if there is none or the titles end in it already."""
    titles = made.looked["items"].sample[made.roles["items.title"]]
    if titles.str.contains(r"\(\d{4}\)\s*$").mean() > 0.5:  # type: ignore[operator]
        return ""
    columns = made.columns["items"]
    return next((n for n in columns if n in _YEARS and columns[n]["type"] == "integer"), "")


def _if(name: str, text: str) -> str:
    """Return the template of a text that is shown where a column has a value; none without one."""
    return f"{{% if {name} %}}{text}{{% endif %}}" if name else ""


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()

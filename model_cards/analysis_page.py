"""The pages of an analysis: JSON, CSV, Markdown, HTML and plots from one `Result`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import storage, tables
from usermirrorer.eval_harness.analysis.answers import Run
from usermirrorer.eval_harness.analysis.result import Column, Result, Row, Table
from usermirrorer.eval_harness.analysis.table import Analysis
from usermirrorer.model_cards import analysis_plots
from usermirrorer.model_cards.dataset_card import cell

#: Form of a column -> how much its values are multiplied by, and how they are written.
_FORMS = {
    "count": (1, ",.0f"),
    "share": (100, ".1f"),
    "points": (100, "+.1f"),
    "bits": (1, ".3f"),
    "number": (1, ".3f"),
    "p": (1, ".3g"),
}


def write(out: Path, analysis: Analysis, runs: Sequence[Run], result: Result) -> dict[str, Any]:
    """Write the files of an analysis and return what `analysis.json` holds.

    Args:
        out: Folder to write: analysis.json, analysis.md, index.html, a CSV a table, plots.
        analysis: Which one.
        runs: What it was made from.
        result: What it says.

    Raises:
        UserError: if the folder cannot be written.
    """
    with storage.atomic(out / "plots") as folder:
        folder.mkdir()
        plots = analysis_plots.draw(analysis.name, result, folder)
    stored = {
        "analysis": analysis.name,
        "title": analysis.title,
        "paper": analysis.paper,
        "settings": dict(result.settings),
        "results": [run.facts for run in runs],
        "tables": {name: table.stored() for name, table in result.tables.items()},
        "notes": list(result.notes),
        "plots": {f"plots/{name}": told for name, told in plots.items()},
        "published": {name: table.stored() for name, table in result.published.items()},
    }
    files = {f"{name}.csv": to_csv(table) for name, table in result.tables.items()}
    files |= {
        "analysis.json": as_json(stored),
        "analysis.md": to_markdown(stored),
        "index.html": to_html(stored),
    }
    for name, text in files.items():
        with storage.atomic(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return stored


def as_json(stored: Mapping[str, Any]) -> str:
    """Return what `analysis.json` holds as text; keys in the order of the page."""
    return json.dumps(stored, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(table: Table) -> str:
    """Return a table with one column per number, intervals beside their values."""
    out = io.StringIO()
    keys = [key for column in table.columns for key in column.keys]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    for row in table.stored()["rows"]:
        writer.writerow(["" if row[key] is None else row[key] for key in keys])
    return out.getvalue()


def show(table: Table) -> None:
    """Print a table."""
    head, body = shown(table.stored())
    tables.show(head, body, title=table.title)


def shown(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the head and rows of a stored table as texts, intervals in brackets."""
    columns = [Column(**column) for column in table["columns"]]
    return [_head(c) for c in columns], [[_text(row, c) for c in columns] for row in table["rows"]]


def _head(column: Column) -> str:
    unit = {"share": " (%)", "points": " (points)", "bits": " (bits)"}.get(column.form, "")
    return column.name.replace("_", " ") + unit


def _text(row: Row, column: Column) -> str:
    value = row[column.name]
    if value is None:
        return ""
    if column.form == "text" or isinstance(value, str):
        return str(value)
    scale, form = _FORMS[column.form]
    text = f"{scale * value:{form}}"
    if not column.interval:
        return text
    low, high = (row[key] for key in column.keys[1:])
    return text if low is None else f"{text} [{scale * low:{form}}, {scale * high:{form}}]"


def to_markdown(stored: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    parts = [f"# {stored['title']}", f"{stored['paper']} of the paper.", _about(stored)]
    parts += [f"- {note}" for note in stored["notes"]]
    parts += [f"![{told}]({file})" for file, told in stored["plots"].items()]
    for table in (*stored["tables"].values(), *stored["published"].values()):
        parts += [f"## {table['title']}", table["text"], _markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(stored: Mapping[str, Any]) -> str:
    """Say in Markdown what the numbers were made from."""
    lines = ["| results | model | scenes | users | decisions | malformed | sources |"]
    lines += ["|---|---|---:|---:|---:|---:|---|"]
    for run in stored["results"]:
        counts = [f"{run[name]:,}" for name in ("scenes", "users", "decisions", "malformed")]
        cells = [run["name"], run["model"], *counts, ", ".join(run["sources"])]
        lines.append("| " + " | ".join(cell(text) for text in cells) + " |")
    return "\n".join(lines)


def _markdown_table(table: Mapping[str, Any]) -> str:
    head, body = shown(table)
    rule = ["---" if column["form"] == "text" else "---:" for column in table["columns"]]
    lines = [head, rule, *body]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def to_html(stored: Mapping[str, Any]) -> str:
    """Return the page as HTML; the plots lie beside it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    every = [*stored["tables"].values(), *stored["published"].values()]
    made = [(table, *shown(table)) for table in every]
    return environment.get_template("analysis.html").render(stored=stored, tables=made)

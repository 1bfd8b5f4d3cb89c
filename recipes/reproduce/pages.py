"""Pages of items: HTML, Markdown, a CSV file a table, plots, and what made each number.

OUT/pages/index.html          all items; OUT/pages/ is a static Space
OUT/pages/ITEM/index.html     its page, ITEM.md, TABLE.csv, plots
OUT/pages/ITEM/manifest.json  key, command, inputs and files of every step behind its numbers
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import without_folders
from usermirrorer.eval_harness.analysis.result import Column, Table
from usermirrorer.model_cards import plots
from usermirrorer.model_cards.analysis_page import shown, to_csv
from usermirrorer.model_cards.dataset_card import cell
from usermirrorer.recipes.reproduce import cells
from usermirrorer.recipes.reproduce.plan import Item
from usermirrorer.recipes.reproduce.runner import Run, manifest
from usermirrorer.recipes.service.space import card_of_space

Row = dict[str, Any]
_ABOUT = """{about} The paper's own numbers stand beside ours, marked as published. Made by
`usermirrorer reproduce all --scale {scale}`.
"""
TITLE = "Mirroring Users: its tables and figures, made again"


def write(run: Run, folder: Path) -> Path:
    """Write the page of every item that has a result or was asked for, and the index.

    Items of earlier runs in the same folder are written again from what is there.

    Args:
        run: A run that has ended.
        folder: Where to.

    Returns:
        The folder.
    """
    reasons = dict(run.state.reasons)
    run.look(name for item in run.plan.items.values() for name in item.needs)
    run.state.reasons |= reasons
    for item in run.plan.items.values():
        if any(name in run.state.done or name in reasons for name in item.needs):
            with storage.atomic(folder / item.name) as made:
                made.mkdir()
                _write_item(run, item, made)
    _write_index(run, folder)
    return folder


def _write_item(run: Run, item: Item, folder: Path) -> None:
    try:
        content = cells.content(run, item)
    except UserError as error:
        content = cells.Content(notes=[f"The numbers cannot be shown: {error}"])
    content = _public(content, run.out)
    pictures = {}
    for number, (path, told) in enumerate(content.pictures.items(), 1):
        name = f"{number}-{path.name}"
        shutil.copyfile(path, folder / name)
        pictures[name] = told
    for name, table in content.tables.items():
        with storage.atomic(folder / f"{name}.csv") as temporary:
            temporary.write_text(to_csv(table), encoding="utf-8")
        if points := _points(table):
            drawn = plots.points_beside(points, folder / f"{name}.png")
            pictures[f"{name}.png"] = f"{table.title}: {drawn}"
    storage.write_json(folder / "manifest.json", manifest(run, item.needs))
    tables = {**content.tables, "settings": settings(run)}
    files = {name: f"{name}.csv" for name in content.tables}
    page: Row = {
        "title": item.title,
        "lead": f"Section {item.section} of the paper. {item.about} Brackets hold 95 % intervals, "
        "clustered by user; manifest.json says what made each number.",
        "warnings": _warnings(run, item),
        "notes": content.notes,
        "pictures": pictures,
        "up": "../index.html",
    }
    _write_page(folder, item.name, page, tables, files)


def _public(content: cells.Content, out: Path) -> cells.Content:
    """Leave out the folders of this machine, which are nobody's business: pages are published."""

    def said(value: Any) -> Any:
        return without_folders(value.replace(f"{out}/", "")) if isinstance(value, str) else value

    tables = {
        name: replace(table, rows=[{k: said(v) for k, v in row.items()} for row in table.rows])
        for name, table in content.tables.items()
    }
    return replace(content, tables=tables, notes=[said(note) for note in content.notes])


def _points(table: Table) -> list[Row]:
    """Return name, value, ends and kind of each row's main number, where it is an accuracy."""
    names = [column.name for column in table.columns]
    if "Overall" not in names:
        return []
    return [
        {
            "name": str(row.get(names[0], "")),
            "value": row["Overall"],
            "lower": row.get("Overall_low"),
            "upper": row.get("Overall_high"),
            "published": row.get("state") == cells.PUBLISHED,
        }
        for row in table.rows
        if row.get("Overall") is not None
    ]


def _warnings(run: Run, item: Item) -> list[str]:
    about = str(run.plan.settings.get("about", ""))
    said = [f"Scale {run.plan.scale}: {about}"] if about else []
    if run.plan.settings.get("never_run"):
        said.append("The plans of this scale have never been run by us.")
    lacking = [name for name in item.needs if name not in run.state.done]
    if lacking:
        said.append(f"{len(lacking)} of {len(item.needs)} results are missing; their rows say why.")
    return said


def settings(run: Run) -> Table:
    """Return what the paper did and what was done here, side by side."""
    values, models = run.plan.values, run.plan.settings["models"]
    data = run.plan.settings.get("data", {})
    trained = ", ".join(Path(str(models.get(t, t))).name for t in values["trainees"])
    sources = "; ".join(f"{name}: {said}" for name, said in data.items()) or "the publishers' files"
    if run.parts.data:
        sources = f"files given by --data; else {sources}"
    rows = [
        ("models trained", "Llama-3.2-3B-Instruct, Qwen2.5-3B-Instruct", trained),
        ("teacher", "Qwen2.5-32B-Instruct", Path(str(models["teacher"])).name),
        ("weak model and judge", "Llama-3.2-3B-Instruct", Path(str(models["weak"])).name),
        ("embeddings", "gte-Qwen2-1.5B-instruct", Path(str(models["embedder"])).name),
        ("raw data", "Table 4", sources),
        ("sources", "11", str(len(values["sources"]))),
        ("train scenes decided on", "173,914", _scenes(run, "train")),
        ("test scenes", "6,400", _scenes(run, "test")),
        ("exposures", "Algorithm 1", ", ".join(cells.MODES.get(m, m) for m in values["exposures"])),
        ("decisions a scene", "10", str(values["samples"])),
        ("pairs", "10,000", f"{values['pairs_kept']:,}"),
        ("longest decision (tokens)", "not said", str(values["max_tokens"])),
        ("training", "Table 7", "; ".join(f"{k}: {v}" for k, v in values["train_flags"].items())),
        ("decisions at evaluation", "5", str(values["metadata"].get("samples", 5))),
        ("headings forced", "no", "yes" if values["metadata"].get("guided") else "no"),
    ]
    body = [{"setting": n, "the paper": p, "here": h} for n, p, h in rows]
    heads = [Column("setting", ""), Column("the paper", ""), Column("here", "")]
    return Table(
        "Differences of setting", "What to think of before comparing numbers.", heads, body
    )


def _scenes(run: Run, split: str) -> str:
    """Return the scenes of a split that were made, by mode; before that, those to be expected."""
    counts = []
    for mode in run.plan.values["exposures"]:
        folder = cells.folder_of(run, f"mix-{mode}")
        if folder:
            counts.append(storage.read_json(folder / "from.json")["rows"].get(split, 0))
    if counts:
        return " and ".join(f"{count:,}" for count in dict.fromkeys(counts))
    return f"about {run.plan.values[f'{split}_scenes']:,}"


def _write_index(run: Run, folder: Path) -> None:
    rows, links = [], {}
    for item in run.plan.items.values():
        done = sum(name in run.state.done for name in item.needs)
        there = (folder / item.name / "index.html").exists()
        state = "complete" if done == len(item.needs) else f"{done} of {len(item.needs)} results"
        rows.append(
            {
                "item": item.title,
                "section": item.section,
                "state": state if there else "not run",
                "command": f"usermirrorer reproduce {item.name} --scale {run.plan.scale}",
            }
        )
        links[item.title] = f"{item.name}/index.html" if there else ""
    heads = [Column(name, "") for name in ("item", "section", "state", "command")]
    page: Row = {
        "title": TITLE,
        "lead": "Each page has our numbers beside the published ones, and what differs.",
        "warnings": [f"Scale {run.plan.scale}: {run.plan.settings.get('about', '')}"],
        "notes": [],
        "pictures": {},
        "up": "",
    }
    tables = {"items": Table("Tables and figures", "", heads, rows), "settings": settings(run)}
    _write_page(folder, "index", page, tables, {}, links)
    about = _ABOUT.format(about=page["lead"], scale=run.plan.scale)
    card = card_of_space(TITLE.replace(":", ","), about)
    with storage.atomic(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def _write_page(
    folder: Path,
    name: str,
    page: Row,
    tables: Mapping[str, Table],
    files: Mapping[str, str],
    links: Mapping[str, str] | None = None,
) -> None:
    """Write index.html and NAME.md from the same tables."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = [_table(table, files.get(key, ""), links or {}) for key, table in tables.items()]
    html = environment.get_template("page.html.jinja").render(**page, tables=made)
    parts = [f"# {page['title']}", page["lead"], *page["warnings"]]
    parts += [f"- {note}" for note in page["notes"]]
    parts += [f"![{told}]({file})" for file, told in page["pictures"].items()]
    for table in made:
        parts += [f"## {table['title']}", table["text"], _markdown(table)]
    for file, text in (
        ("index.html", html),
        (f"{name}.md", "\n\n".join(filter(None, parts)) + "\n"),
    ):
        with storage.atomic(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _table(table: Table, file: str, links: Mapping[str, str]) -> Row:
    stored = table.stored()
    head, body = shown(stored)
    kinds = [_kind(str(row.get("state", ""))) for row in table.rows]
    return {
        "title": table.title,
        "text": table.text,
        "head": head,
        "body": list(zip(kinds, body, strict=True)),
        "texts": [column.form == "text" for column in table.columns],
        "told": [column.text for column in table.columns],
        "file": file,
        "links": links if head[0] == "item" else {},
    }


def _kind(state: str) -> str:
    if state == cells.PUBLISHED:
        return "paper"
    return "none" if state.startswith(cells.NOT_RUN) else ""


def _markdown(table: Row) -> str:
    lines: list[Sequence[str]] = [table["head"]]
    lines.append(["---" if text else "---:" for text in table["texts"]])
    for kind, line in table["body"]:
        lines.append(
            [f"*{text}*" if kind == "paper" and text else text for text in map(cell, line)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def push(folder: Path, space: str, collection: str) -> str:
    """Upload the pages to a static Space, and list it in the collection of a release.

    Args:
        folder: That `write` made.
        space: `namespace/name`; made if missing.
        collection: `namespace/dataset@1.0.0`, or "".

    Returns:
        The address of the collection, or of the Space.
    """
    from usermirrorer.hub import releases

    address = releases.push_space(folder, space)
    if not collection:
        return address
    repository, _, version = collection.partition("@")
    if not version:
        raise UserError(f"{collection!r} names no version", where="--collection", fix="NAME@1.0.0")
    return releases.collect(repository, version, [], pages=space)

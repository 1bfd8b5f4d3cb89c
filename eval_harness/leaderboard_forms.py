"""The leaderboard as tables, Markdown, CSV, JSON and one self-contained page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from usermirrorer.eval_harness.leaderboard import HEADLINE, OVERALL, SYNTHETIC, Board, Cell, Row
from usermirrorer.eval_harness.metric_table import BASELINES, GAPS, lookup


class Table(NamedTuple):
    """A titled table of texts; `kinds` says of what kind each row is."""

    title: str
    text: str
    head: list[str]
    body: list[list[str]]
    kinds: list[str]


def tables(board: Board) -> list[Table]:
    """Return the board's tables: what stands for taste first, then accuracy, then gaps."""
    every = [_headline(board), _accuracy(board), _gaps(board)]
    return [table for table in every if table.body]


def columns(board: Board, metric: str) -> list[str]:
    """Return the columns of a metric that any model fills: logged lists first, then the means."""
    there = {name for row in _models(board) for name in row.cells.get(metric, {})}
    rest = [name for name in board.domains if name not in board.logged]
    return [name for name in (*board.logged, OVERALL, SYNTHETIC, *rest) if name in there]


def _models(board: Board) -> list[Row]:
    return [row for row in board.rows if row.kind == "model"]


def _headline(board: Board) -> Table:
    names = columns(board, HEADLINE)
    first = [n for n in names if n in (OVERALL, SYNTHETIC) or n in board.logged]
    others = [n for n in names if n not in first]
    beside = {m: t for m, t in BASELINES.items() if any(_beside(r, m) for r in _models(board))}
    losses = ["acc_loss_no_history", "acc_loss_swapped"]
    head = ["#", "model", *first, "accuracy", "its placebo", *beside.values()]
    head += [lookup(name).title.lower() for name in losses]
    head += ["p vs. first", "taste", "note", *others]
    body = []
    for rank, row in enumerate(_models(board), 1):
        body.append(
            [
                *(str(rank), row.name),
                *(points(row.cell(HEADLINE, name)) for name in first),
                percent(row.cell("acc")),
                *(_beside(row, name) for name in ("acc_placebo", *beside)),
                *(points(row.cell(name)) for name in losses),
                "" if row.p_value is None else f"{row.p_value:.3g}",
                *(row.verdict, row.note),
                *(points(row.cell(HEADLINE, name)) for name in others),
            ]
        )
    text = f"Accuracy minus {board.reference}, in points. {board.scenes}"
    return Table("Accuracy minus placebo", text, head, body, ["model"] * len(body))


def _beside(row: Row, metric: str) -> str:
    """Return a mean over all scenes, or else over the sources without logged lists, said so."""
    if cell := row.cell(metric):
        return percent(cell)
    text = percent(row.cell(metric, SYNTHETIC))
    return f"{text} ({SYNTHETIC})" if text else ""


def _accuracy(board: Board) -> Table:
    names = columns(board, "acc")
    head = ["#", "model", *names, "entropy (bits)", "malformed", "note"]
    body, rank = [], 0
    for row in board.rows:
        rank += row.kind == "model"
        body.append(
            [
                str(rank) if row.kind == "model" else "",
                row.name,
                *(percent(row.cell("acc", name)) for name in names),
                bits(row.cell("entropy"), row.estimated),
                percent(row.cell("malformed")),
                row.note or (row.kind if row.kind == "baseline" else ""),
            ]
        )
    text = "Accuracy in percent, beside baselines that use no language model."
    return Table("Accuracy", text, head, body, [row.kind for row in board.rows])


def _gaps(board: Board) -> Table:
    names = [g for g in GAPS if any(r.cell(f"acc_gap_{g}") for r in _models(board))]
    titles = [lookup(f"acc_gap_{name}").title.removeprefix("Accuracy, ") for name in names]
    head = ["#", "model", *(title.removesuffix(" after the history") for title in titles)]
    body = [
        [str(rank), row.name, *(percent(row.cell(f"acc_gap_{name}")) for name in names)]
        for rank, row in enumerate(_models(board), 1)
        if names
    ]
    text = "Accuracy in percent by the time between the last line of the history and the scene."
    return Table("Accuracy by gap", text, head, body, ["model"] * len(body))


def percent(cell: Cell | None) -> str:
    """Return `12.3 [10.4, 14.2]`: percent with the 95 % interval, where there is one."""
    return _scaled(cell, 100, ".1f")


def points(cell: Cell | None) -> str:
    """Return `+12.3 [+10.4, +14.2]`: a difference in points with its 95 % interval."""
    return _scaled(cell, 100, "+.1f")


def bits(cell: Cell | None, estimated: bool = False) -> str:
    """Return the entropy in bits with its 95 % interval; `~` marks an estimate from samples."""
    text = _scaled(cell, 1, ".3f")
    return f"~{text}" if text and estimated else text


def _scaled(cell: Cell | None, scale: float, form: str) -> str:
    if cell is None:
        return ""
    text = f"{scale * cell.value:{form}}"
    low, high = cell.interval
    return f"{text} [{scale * low:{form}}, {scale * high:{form}}]" if low < high else text


def to_markdown(board: Board) -> str:
    """Return the tables as Markdown."""
    parts = []
    for table in tables(board):
        lines = [table.head, ["---"] * len(table.head), *table.body]
        rows = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
        parts.append("\n".join([f"## {table.title}", "", table.text, "", *rows, ""]))
    return "\n".join(parts)


def to_csv(board: Board) -> str:
    """Return one line per number, with its interval, scenes and users."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("name", "kind", "metric", "column", "value", "stderr", "low", "high", "n", "users")
    writer.writerow(head)
    for row in board.rows:
        for metric, cells in row.cells.items():
            for column, cell in cells.items():
                numbers = (cell.value, cell.stderr, *cell.interval)
                shown = ["" if math.isnan(number) else number for number in numbers]
                writer.writerow([row.name, row.kind, metric, column, *shown, cell.n, cell.users])
    return out.getvalue()


def to_json(board: Board) -> str:
    """Return everything as JSON; unknown numbers are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps(plain(asdict(board)), indent=2, ensure_ascii=False) + "\n"


def to_html(board: Board, title: str = "UserMirrorer leaderboard") -> str:
    """Return one self-contained page: sortable tables, bars by domain, accuracy and entropy."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [(table, list(zip(table.kinds, table.body, strict=True))) for table in tables(board)]
    return environment.get_template("leaderboard.html").render(
        title=title,
        board=board,
        models=_models(board),
        tables=shown,
        bars=_bars(board),
        scatter=_scatter(board.rows),
    )


def _bars(board: Board) -> list[dict[str, Any]]:
    """Return a drawing per domain or mean: places 0 to 200 of bars from zero, and of intervals.

    Bars are accuracy minus placebo; all drawings have one scale.
    """
    names = columns(board, HEADLINE)
    cells = [row.cell(HEADLINE, name) for row in _models(board) for name in names]
    ends = [end for cell in cells if cell for end in (cell.value, *cell.interval)]
    known = [end for end in ends if math.isfinite(end)]
    low, high = min([0.0, *known]), max([0.1, *known])

    def place(value: float) -> float:
        return 200 * (value - low) / (high - low)

    drawings = []
    for name in names:
        bars = []
        for number, row in enumerate(_models(board)):
            if cell := row.cell(HEADLINE, name):
                lower, upper = cell.interval
                ends = [min(cell.value, 0.0), max(cell.value, 0.0)]
                bars.append(
                    {
                        "name": row.name,
                        "hue": number % 6,
                        "value": 100 * cell.value,
                        "start": place(ends[0]),
                        "width": place(ends[1]) - place(ends[0]),
                        "low": place(lower) if math.isfinite(lower) else None,
                        "high": place(upper) if math.isfinite(upper) else None,
                    }
                )
        drawings.append({"domain": name, "bars": bars, "zero": place(0.0)})
    return drawings


def _scatter(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return places in a 760 x 380 drawing of the rows with an accuracy and an entropy.

    `label` is the height of the name, moved down where it would lie on a neighbour's.
    """
    points = []
    for row in rows:
        accuracy = row.cell("acc") or row.cell("acc", SYNTHETIC)
        entropy = row.cell("entropy")
        if accuracy and entropy:
            points.append((row, entropy.value, accuracy.value))
    top = max((x for _, x, _ in points), default=1) * 1.15 or 1
    placed: list[dict[str, Any]] = []
    for row, x, y in sorted(points, key=lambda item: -item[2]):
        spot: dict[str, Any] = {"name": row.name, "kind": row.kind}
        spot |= {"x": 50 + 690 * x / top, "y": 340 - 330 * y}
        near = [p["label"] for p in placed if abs(p["x"] - spot["x"]) < 190]
        spot["label"] = max([spot["y"] + 4, *(label + 13 for label in near)])
        placed.append({**spot, "top": top})
    return placed

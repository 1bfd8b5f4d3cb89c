"""Tables on the screen: framed on a terminal, elsewhere one row a line, nothing cut or folded.

Every command that prints rows or counts takes `--json` as well (`json_option`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def show_json(value: Any) -> None:
    """Print a value as JSON, to standard output alone."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    lines: bool = False,
    styles: Sequence[str] = (),
    err: bool = False,
) -> None:
    """Print a table.

    Args:
        head: Names of the columns.
        rows: Their values; line breaks within one become `; ` where there is no terminal.
        title: Printed above.
        lines: Whether a terminal gets lines between the rows.
        styles: Of each row on a terminal, as rich names them.
        err: Whether to print to standard error.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(stderr=err)
    if not console.is_terminal:
        _plain(head, rows, title, err)
        return
    table = Table(title=escape(title) or None, title_justify="left", show_lines=lines)
    for name in head:
        table.add_column(escape(name), overflow="fold")  # what is cut short cannot be looked for
    for number, row in enumerate(rows):
        style = styles[number] if styles else None
        table.add_row(*(escape(str(value)) for value in row), style=style)
    console.print(table)


def _plain(head: Sequence[str], rows: Sequence[Sequence[object]], title: str, err: bool) -> None:
    from rich.cells import cell_len

    cells = [[_one_line(value) for value in row] for row in (head, *rows)]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(head))]
    if title:
        click.echo(_one_line(title), err=err)
    for row in cells:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip(), err=err)


def _one_line(value: object) -> str:
    return "; ".join(" ".join(line.split()) for line in str(value).splitlines() if line.strip())

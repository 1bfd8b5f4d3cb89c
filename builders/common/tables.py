"""Tables on the screen: framed on a terminal, elsewhere one row a line, nothing cut or folded."""

from __future__ import annotations

from collections.abc import Sequence

import click


def show(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    lines: bool = False,
) -> None:
    """Print a table.

    Args:
        head: Names of the columns.
        rows: Their values; line breaks within one become `; ` where there is no terminal.
        title: Printed above.
        lines: Whether a terminal gets lines between the rows.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        _plain(head, rows, title)
        return
    table = Table(title=escape(title) or None, title_justify="left", show_lines=lines)
    for name in head:
        table.add_column(escape(name), overflow="fold")  # what is cut short cannot be looked for
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)


def _plain(head: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> None:
    from rich.cells import cell_len

    cells = [[_one_line(value) for value in row] for row in (head, *rows)]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(head))]
    if title:
        click.echo(_one_line(title))
    for row in cells:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _one_line(value: object) -> str:
    return "; ".join(" ".join(line.split()) for line in str(value).splitlines() if line.strip())

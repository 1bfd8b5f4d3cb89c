"""CSV, TSV and other delimited text to frames; rows that do not fit are counted with their line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.columns import Checks, checked, first_line
from usermirrorer.builders.raw.files import LONGEST_LINE, Block, Raw, blocks
from usermirrorer.builders.raw.report import Report


def read_delimited(
    raw: Raw,
    report: Report,
    columns: Sequence[str],
    select: Sequence[pl.Expr | str],
    checks: Checks,
    *,
    separator: str = ",",
    header: bool = True,
    quoted: bool = False,
    encodings: Sequence[str] = ("utf-8",),
) -> pl.DataFrame:
    """Read a delimited text file.

    Args:
        raw: The file.
        report: Counts the rows left out.
        columns: With `header`, columns that must be there (fields behind the last of them may be
            missing in a row); else the names of all columns.
        select: What to keep, computed from the columns, which are all strings ("" if empty).
        checks: On the selected columns.
        separator: One or more characters; one only with `quoted`.
        header: Whether the first line names the columns.
        quoted: Whether fields may be `"quoted"`, with line breaks and doubled quotes inside.
        encodings: See `blocks`.

    Returns:
        The selected columns.

    Raises:
        UserError: if the file is damaged, a column is missing, or no row can be used.
    """

    def frames() -> Iterator[pl.DataFrame]:
        names: list[str] = [] if header else list(columns)
        for block in blocks(raw, quoted=quoted, encodings=encodings):
            first, text = block.first_line, block.text
            if not names:
                head, _, text = text.partition("\n")
                names, first = _header(head, raw, columns, separator), first + 1
            if text:
                parse = _quoted if quoted else _split
                needed = 1 + max(names.index(column) for column in columns)
                yield parse(Block(first, text), _Row(names, needed, separator), raw, report)

    return checked(frames(), raw, report, select, checks)


def header(raw: Raw, separator: str, encodings: Sequence[str] = ("utf-8", "latin-1")) -> list[str]:
    """Return the names of a file's columns, for layouts whose headers differ.

    Raises:
        UserError: if the file is empty or damaged.
    """
    head = next(blocks(raw, encodings=encodings)).text.partition("\n")[0]
    return _named(head, raw, separator)


def _named(head: str, raw: Raw, separator: str) -> list[str]:
    """Split a header; a name in quotes may hold the separator."""
    parts = head.split(separator)
    if '"' in head and len(separator) == 1:
        if head.count('"') % 2:
            raise UserError("a quote in the header is never closed", where=f"{raw}:1")
        parts = next(csv.reader([head], delimiter=separator))
    return [name.strip().strip('"') for name in parts]


def named_twice(names: Sequence[str]) -> str:
    """Say which names several columns have; a separator at a line's end makes one without any."""
    shown = ", ".join(name or "without a name" for name in names)
    return f"column(s) {shown} are there twice"


def _header(head: str, raw: Raw, columns: Sequence[str], separator: str) -> list[str]:
    names = _named(head, raw, separator)
    if missing := [column for column in columns if column not in names]:
        hint = f" (is it not split by {separator!r}?)" if len(names) == 1 else ""
        raise UserError(f"column(s) {', '.join(missing)} are missing{hint}", where=f"{raw}:1")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(named_twice(twice), where=f"{raw}:1")
    return names


@dataclass(frozen=True)
class _Row:
    """How a row is made: names of its fields, how many of them must be there, what splits them."""

    names: list[str]
    needed: int
    separator: str

    @property
    def wrong(self) -> str:
        return f"not {len(self.names)} fields split by {self.separator!r}"


def _split(block: Block, row: _Row, raw: Raw, report: Report) -> pl.DataFrame:
    """Split the lines of a file without quotes; rows with another number of fields are counted."""
    lines = pl.Series("text", [block.text]).str.split("\n").explode().to_frame()
    lines = lines.with_row_index("line", offset=block.first_line).filter(pl.col("text") != "")
    fields = pl.col("text").str.count_matches(row.separator, literal=True) + 1
    fits = fields.is_between(row.needed, len(row.names))
    wrong = lines.filter(~fits)
    report.skip(row.wrong, len(wrong), where=raw, line=first_line(wrong["line"]))
    split = pl.col("text").str.split_exact(row.separator, len(row.names) - 1)
    frame = lines.filter(fits).select("line", split.struct.rename_fields(row.names)).unnest("text")
    return frame.with_columns(pl.col(row.names[row.needed :]).fill_null(""))


def _quoted(block: Block, row: _Row, raw: Raw, report: Report) -> pl.DataFrame:
    """Parse CSV with quotes by polars, or by the `csv` module where a row does not fit."""
    names, last = row.names, row.names[row.needed - 1]
    try:
        frame = pl.read_csv(
            block.text.encode(),
            has_header=False,
            separator=row.separator,
            schema=dict.fromkeys(names, pl.String),
        )
    except (pl.exceptions.PolarsError, ValueError):
        return _csv_rows(block, row, raw, report)
    blank_row = pl.all_horizontal(pl.col(names).is_null())
    if frame.select((pl.col(last).is_null() & ~blank_row).any()).item():  # fields may be missing
        return _csv_rows(block, row, raw, report)
    breaks = pl.sum_horizontal(pl.col(names).str.count_matches("\n", literal=True).fill_null(0))
    line = (breaks + 1).cum_sum().shift(1, fill_value=0) + block.first_line
    return (
        frame.with_columns(line.alias("line"))
        .filter(~blank_row)
        .with_columns(pl.col(names).fill_null(""))
    )


def _csv_rows(block: Block, row: _Row, raw: Raw, report: Report) -> pl.DataFrame:
    csv.field_size_limit(LONGEST_LINE)
    text = block.text.replace("\r", " ")  # only \n ends a row, as for polars
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=row.separator)
    rows, line, width = [], block.first_line, len(row.names)
    for fields in reader:
        if row.needed <= len(fields) <= width:
            rows.append((line, *fields, *[""] * (width - len(fields))))
        elif fields:
            report.skip(row.wrong, where=raw, line=line)
        line = block.first_line + reader.line_num
    schema = {"line": pl.UInt32, **dict.fromkeys(row.names, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")

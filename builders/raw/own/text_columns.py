"""CSV, JSON lines and Parquet to columns of text, with the line (or row) of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import columns, delimited, files
from usermirrorer.builders.raw.report import Report

#: Between the values of a list that became text: no text that people write has it.
UNIT = "\x1f"
_ROWS = 250_000
_DEEPEST = 4  # objects inside objects


def locate(path: Path) -> files.Raw:
    """Return the raw file of a path, which may be `archive.zip!member` or a zip with one file.

    Raises:
        UserError: if it is not there, or an archive holds several files.
    """
    archive, sign, member = str(path).partition("!")
    if not Path(archive).is_file():
        raise UserError("does not exist", where=archive, fix="Mend `path`, or name the folder.")
    if not archive.lower().endswith(".zip"):
        return files.Raw(path)
    inside = files.locate(Path(archive), "*")
    if sign:
        inside = [raw for raw in inside if raw.member == member]
    if len(inside) != 1:
        names = ", ".join(raw.member for raw in files.locate(Path(archive), "*")[:5])
        raise UserError("names no single file", where=path, fix=f"Write archive.zip!ONE of {names}")
    return inside[0]


def read(
    raw: files.Raw,
    about: Mapping[str, Any],
    report: Report,
    needed: Sequence[str],
    select: Sequence[pl.Expr | str],
    checks: columns.Checks,
) -> pl.DataFrame:
    """Read the selected columns of a file; rows that do not fit are counted.

    Args:
        raw: The file.
        about: `format`, `delimiter`, `encoding` and `quoted`.
        report: Counts the rows left out.
        needed: Columns that `select` reads; all are text.
        select: What to keep.
        checks: On the selected columns.
    """
    kind = about.get("format", "csv")
    if kind == "csv":
        return delimited.read_delimited(
            *(raw, report, list(needed), select, checks),
            separator=about.get("delimiter", ",").replace("\\t", "\t"),
            quoted=about.get("quoted", True) not in (False, "false"),
            encodings=(about.get("encoding", "utf-8"),),
        )
    frames = _parquet(raw, needed) if kind == "parquet" else _json(raw, needed, about, report)
    return columns.checked(frames, raw, report, select, checks)


def names(raw: files.Raw, about: Mapping[str, Any]) -> list[str]:
    """Return the names of a file's columns."""
    kind = about.get("format", "csv")
    if kind == "parquet":
        with _whole(raw):
            return list(_scan(raw).collect_schema())
    if kind == "jsonl":
        text = next(files.blocks(raw, encodings=(about.get("encoding", "utf-8"),))).text
        rows = (_flat(row) for line in text.split("\n")[:1000] if (row := _object(line)))
        return list(dict.fromkeys(key for row in rows for key in row))
    separator = about.get("delimiter", ",").replace("\\t", "\t")
    return delimited.header(raw, separator, (about.get("encoding", "utf-8"),))


def _scan(raw: files.Raw) -> pl.LazyFrame:
    if raw.member or raw.path.name.lower().endswith(".gz"):
        raise UserError("Parquet inside an archive is not read", where=raw, fix="Unpack it.")
    with files.opened(raw):  # so that it is in the record of what was read
        return pl.scan_parquet(raw.path)


def parquet_beginning(raw: files.Raw, rows: int) -> pl.DataFrame:
    """Return the first rows of a Parquet file as text.

    Raises:
        UserError: if it is cut off, or lies in an archive.
    """
    with _whole(raw):
        return as_text(_scan(raw).head(rows).collect())


@contextlib.contextmanager
def _whole(raw: files.Raw) -> Iterator[None]:
    try:
        yield
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"is no whole Parquet file: {why}", where=raw) from error


def _parquet(raw: files.Raw, needed: Sequence[str]) -> Iterator[pl.DataFrame]:
    most = files.most_read() and _ROWS
    with _whole(raw):
        scan = _scan(raw).select(needed)
        frame = (scan.head(most) if most else scan).collect()
    for first in range(0, len(frame), _ROWS):
        yield as_text(frame.slice(first, _ROWS)).with_row_index("line", offset=first + 1)


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return every column as text: times as ISO, lists joined by `UNIT`, missing as empty.

    Bytes are text where they are UTF-8, as Spark writes it; what no text stands for is empty.
    """
    return frame.select(_text(pl.col(name), kind).fill_null("") for name, kind in _kinds(frame))


def _kinds(frame: pl.DataFrame) -> list[tuple[str, Any]]:
    return list(frame.schema.items())


def _text(column: pl.Expr, kind: Any) -> pl.Expr:
    if isinstance(kind, pl.List | pl.Array):
        listed = column.arr.to_list() if isinstance(kind, pl.Array) else column
        each = _text(pl.element(), kind.inner)
        return listed.list.eval(each).list.join(UNIT, ignore_nulls=True)
    if isinstance(kind, pl.Datetime):
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f" + ("%:z" if kind.time_zone else ""))
    if isinstance(kind, pl.Struct):
        return column.struct.json_encode()
    if kind == pl.Binary:
        return column.map_batches(_of_bytes, return_dtype=pl.String)
    if kind in (pl.Float32, pl.Float64):  # 1e15 as people write it
        whole = column.cast(pl.Int64, strict=False)
        same = whole.is_not_null() & (whole.cast(pl.Float64) == column) & (column.abs() < 9e15)
        return pl.when(same).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
    nothing = kind.is_nested() or kind == pl.Object  # maps among them
    return pl.lit("").alias(column.meta.output_name()) if nothing else column.cast(pl.String)


def _of_bytes(values: pl.Series) -> pl.Series:
    """Bytes as the UTF-8 text that they hold, null where they hold none."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, [_utf8(value) for value in values], pl.String)


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _json(
    raw: files.Raw, needed: Sequence[str], about: Mapping[str, Any], report: Report
) -> Iterator[pl.DataFrame]:
    for block in files.blocks(raw, encodings=(about.get("encoding", "utf-8"),)):
        try:
            if "\n\n" in block.text:
                raise ValueError
            frame = pl.read_ndjson(block.text.encode(), infer_schema_length=None)
            reached = {name: _reached(frame, name) for name in needed}
            gone = [pl.lit("").alias(name) for name, column in reached.items() if column is None]
            there = frame.select(c.alias(n) for n, c in reached.items() if c is not None)
            yield as_text(there).with_columns(gone).with_row_index("line", offset=block.first_line)
        except (pl.exceptions.PolarsError, ValueError):
            yield lines(block, raw, needed, report)


def _reached(frame: pl.DataFrame, name: str) -> pl.Expr | None:
    """Return a column, or a field inside of one: `customer.id`; None if it is not there."""
    if name in frame.columns:
        if isinstance(frame.schema[name], pl.Struct):
            raise ValueError  # rows in which it is no object may have a value: line by line
        return pl.col(name)
    first, *inside = name.split(".")
    if first not in frame.columns:
        return None
    column = pl.col(first)
    for part in inside:
        column = column.struct.field(part)
    return column


def lines(
    block: files.Block, raw: files.Raw, needed: Sequence[str], report: Report
) -> pl.DataFrame:
    """Read line by line, the way that tells which line is wrong."""
    rows = []
    for line, text in enumerate(block.text.split("\n"), block.first_line):
        if not text.strip():
            continue
        values = _object(text)
        if values is None:
            report.skip("is not JSON with named fields", where=raw, line=line)
            continue
        flat = _flat(values)
        rows.append((line, *(_plain(flat.get(name)) for name in needed)))
    schema = {"line": pl.UInt32, **dict.fromkeys(needed, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _object(text: str) -> dict[str, Any] | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _flat(values: dict[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    """Return an object's values by name; of objects inside by `name.inner`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value and depth < _DEEPEST:
            flat |= _flat(value, f"{before}{name}.", depth + 1)
        else:
            flat[f"{before}{name}"] = value
    return flat


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return UNIT.join(_plain(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 9e15:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)

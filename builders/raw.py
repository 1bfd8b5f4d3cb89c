"""Raw files of any size to frames: found, decompressed, checked and counted block by block.

A raw file is a plain file, a gzip file, or a member of a zip archive; none is unpacked to disk. It
is read in blocks of `BLOCK` bytes cut at line ends, so that memory holds one block of text beside
the columns that are kept. Every row that cannot be used is counted in the `Report` with its line.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import fnmatch
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from usermirrorer.builders.errors import UserError
from usermirrorer.builders.sources import Report

BLOCK = 32 << 20
#: Longest line, or quoted field with line breaks. Longer ones mean that the file is not what it
#: should be (another delimiter of lines, a quote that is never closed).
LONGEST_LINE = 64 << 20

#: reason -> expression that is true for good rows.
Checks = Mapping[str, pl.Expr]


@dataclass(frozen=True)
class Raw:
    """A raw file: a file on disk, or `member` of the zip archive `path`."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """File name without its folders and without `.gz`."""
        return Path(self.member or self.path.name).name.removesuffix(".gz")

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)


def locate(folder: Path, *patterns: str) -> list[Raw]:
    """Return all raw files, in `folder` or zip archives in it, that match the first such pattern.

    Patterns are file names with `*` for any text, without `.gz`; folders inside do not matter. If
    `folder` is a file, it is looked at alone. A file found unpacked hides its copy in an archive.

    Raises:
        UserError: if the folder is missing or no file matches any pattern.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError("does not exist", where=folder, fix="Give the folder of the raw files.")
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    found = [Raw(path) for path in files if path.suffix != ".zip"]
    archives = [path for path in files if path.suffix == ".zip"]
    found += [raw for archive in archives for raw in _members(archive)]
    for pattern in patterns:
        matching = [raw for raw in found if fnmatch.fnmatchcase(raw.name, pattern)]
        if loose := [raw for raw in matching if not raw.member] or matching:
            return loose
    raise UserError(
        f"none of {', '.join(patterns)} is there (also as .gz, or inside a .zip)", where=folder
    )


def one(folder: Path, *patterns: str) -> Raw:
    """Return the only raw file that matches; see `locate`.

    Raises:
        UserError: if none or several match.
    """
    found = locate(folder, *patterns)
    if len(found) > 1:
        names = ", ".join(str(raw) for raw in found[:3])
        raise UserError(
            f"{patterns[0]} is there more than once: {names}", where=folder, fix="Keep one."
        )
    return found[0]


def has(folder: Path, *patterns: str) -> bool:
    """Say whether `locate` would find a file."""
    try:
        return bool(locate(folder, *patterns))
    except UserError:
        return False


def _members(archive: Path) -> list[Raw]:
    try:
        with zipfile.ZipFile(archive) as opened:
            names = sorted(name for name in opened.namelist() if not name.endswith("/"))
    except zipfile.BadZipFile as error:
        raise UserError("is not a whole zip archive", where=archive, fix=_AGAIN) from error
    return [Raw(archive, name) for name in names if not name.startswith("__MACOSX")]


_AGAIN = "Download it again."
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


@contextlib.contextmanager
def opened(raw: Raw) -> Iterator[BinaryIO]:
    """Open a raw file as decompressed bytes.

    Raises:
        UserError: if it is cut off, damaged, or not of the format that its name says.
    """
    with contextlib.ExitStack() as stack:
        try:
            if raw.member:
                archive = stack.enter_context(zipfile.ZipFile(raw.path))
                stream: Any = io.BufferedReader(stack.enter_context(archive.open(raw.member)))
            else:
                stream = stack.enter_context(raw.path.open("rb"))
            if (raw.member or raw.path.name).endswith(".gz"):
                start = stream.peek(2)[:2]
                if start != b"\x1f\x8b":
                    raise UserError("is not a gzip file", where=raw, fix=_AGAIN)
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            yield stream
        except _BROKEN as error:
            raise UserError(f"is cut off or damaged: {error}", where=raw, fix=_AGAIN) from error
        except (PermissionError, IsADirectoryError) as error:
            raise UserError(f"cannot be read: {error.strerror}", where=raw) from error


@dataclass(frozen=True)
class Block:
    """Whole lines of a file as UTF-8 text, and the number of the first of them (from 1)."""

    first_line: int
    text: str


def blocks(
    raw: Raw, *, quoted: bool = False, encodings: Sequence[str] = ("utf-8",)
) -> Iterator[Block]:
    r"""Yield the `Block`s of a text file; each ends at a line end, `\r\n` is read as `\n`.

    Args:
        raw: The file.
        quoted: Whether `"..."` may hold line breaks; then a block ends outside of quotes.
        encodings: Tried in this order for each block.

    Raises:
        UserError: if the file is empty, damaged, not text in any of the encodings, or has an
            endless line.
    """
    line, rest = 1, b""
    with opened(raw) as stream:
        while chunk := stream.read(BLOCK):
            data = rest + chunk
            end = _line_end(data, quoted)
            if end == 0 and len(data) > LONGEST_LINE:
                what = "a line or quoted field" if quoted else "a line"
                raise UserError(
                    f"{what} is longer than {LONGEST_LINE >> 20} MB", where=f"{raw}:{line}"
                )
            rest = data[end:]
            if end:
                yield Block(line, _decoded(data[:end], raw, line, encodings))
                line += data.count(b"\n", 0, end)
    if rest:
        if quoted and rest.count(b'"') % 2:
            raise UserError("a quote is never closed", where=f"{raw}:{line}", fix=_AGAIN)
        yield Block(line, _decoded(rest, raw, line, encodings))
    elif line == 1:
        raise UserError("is empty", where=raw, fix=_AGAIN)


def _line_end(data: bytes, quoted: bool) -> int:
    """Index behind the last line end of `data` that lies outside of quotes, 0 if there is none."""
    end = data.rfind(b"\n") + 1
    if not quoted:
        return end
    quotes = data.count(b'"', 0, end)
    while end and quotes % 2:
        earlier = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', earlier, end)
        end = earlier
    return end


def _decoded(data: bytes, raw: Raw, line: int, encodings: Sequence[str]) -> str:
    data = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
    for encoding in encodings:
        try:
            return data.decode(encoding).replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            bad = line + data.count(b"\n", 0, error.start)
    raise UserError(f"is not {' or '.join(encodings)} text", where=f"{raw}:{bad}", fix=_AGAIN)


def delimited(
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

    return _collect(frames(), raw, report, select, checks)


def _header(head: str, raw: Raw, columns: Sequence[str], separator: str) -> list[str]:
    names = [name.strip().strip('"') for name in head.split(separator)]
    if missing := [column for column in columns if column not in names]:
        hint = f" (is it not split by {separator!r}?)" if len(names) == 1 else ""
        raise UserError(f"column(s) {', '.join(missing)} are missing{hint}", where=f"{raw}:1")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"column(s) {', '.join(twice)} are named twice", where=f"{raw}:1")
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
    report.skip(row.wrong, len(wrong), where=raw, line=_first(wrong["line"]))
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


def json_lines(
    raw: Raw,
    report: Report,
    schema: Mapping[str, Any],
    select: Sequence[pl.Expr | str],
    checks: Checks,
    *,
    python_literals: bool = False,
) -> pl.DataFrame:
    """Read a file of one JSON object a line.

    Args:
        raw: The file.
        report: Counts the rows left out.
        schema: Fields to read and their types: String, Float64, Boolean, and lists and structs of
            strings. Other fields are ignored, missing ones are null.
        select: What to keep, computed from these fields.
        checks: On the selected columns.
        python_literals: The lines are Python dict literals instead, read without evaluation.

    Raises:
        UserError: if the file is damaged or no row can be used.
    """

    def frames() -> Iterator[pl.DataFrame]:
        for block in blocks(raw):
            if "\n\n" not in block.text:
                with contextlib.suppress(pl.exceptions.PolarsError, _NotJsonError):
                    text = _literals_to_json(block.text) if python_literals else block.text
                    frame = pl.read_ndjson(text.encode(), schema=schema)
                    yield frame.with_row_index("line", offset=block.first_line)
                    continue
            yield _objects(block, raw, report, schema, python_literals)

    return _collect(frames(), raw, report, select, checks)


def _objects(
    block: Block, raw: Raw, report: Report, schema: Mapping[str, Any], python_literals: bool
) -> pl.DataFrame:
    """Parse line by line, the way that tells which line is wrong."""
    kind = "a Python literal" if python_literals else "JSON"
    parse = _literal if python_literals else json.loads
    rows: dict[str, list[Any]] = {name: [] for name in ("line", *schema)}
    for line, text in enumerate(block.text.split("\n"), block.first_line):
        if not text.strip():
            continue
        try:
            found = parse(text)
            if not isinstance(found, dict):
                raise ValueError
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            report.skip(f"is not {kind} with named fields", where=raw, line=line)
            continue
        rows["line"].append(line)
        for name, dtype in schema.items():
            rows[name].append(_as(found.get(name), dtype))
    return pl.DataFrame(rows, schema={"line": pl.UInt32, **schema})


#: A quoted string on one line of a Python literal, or a word; and what JSON escapes otherwise.
_TOKEN = re.compile(
    r"u?'(?P<single>[^'\\\n]*(?:\\.[^'\\\n]*)*)'"
    r"|u?\"(?P<double>[^\"\\\n]*(?:\\.[^\"\\\n]*)*)\""
    r"|[A-Za-z]+"
)
_HEX = "[0-9a-fA-F]"
_TO_ESCAPE = re.compile(rf"\\(?:x{_HEX}{{2}}|u{_HEX}{{4}}|U{_HEX}{{8}}|.)|\"", re.S)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_SAME_IN_JSON = ("\\n", "\\t", "\\r", "\\\\", '\\"')


class _NotJsonError(Exception):
    """A Python literal has something that is not translated to JSON."""


def _literals_to_json(text: str) -> str:
    """Translate Python dict literals of the usual kind to JSON, ten times as fast to read.

    Only quotes, escapes and `True`, `False`, `None` are rewritten; what then is not JSON is left to
    `ast.literal_eval`.
    """
    return _TOKEN.sub(_json_token, text)


def _json_token(token: re.Match[str]) -> str:
    inside = token["single"] if token["single"] is not None else token["double"]
    if inside is None:
        return _WORDS.get(token.group(), token.group())
    if "\\" in inside or '"' in inside:
        inside = _TO_ESCAPE.sub(_json_escape, inside)
    return f'"{inside}"'


def _json_escape(escape: re.Match[str]) -> str:
    found = escape.group()
    if found in _SAME_IN_JSON or found[:2] == "\\u":
        return found
    if found == '"':
        return '\\"'
    if found == "\\'":
        return "'"
    if found[:2] in ("\\x", "\\U") and len(found) > 2:
        code = int(found[2:], 16)
        if code < 0x110000:
            return json.dumps(chr(code))[1:-1]
    raise _NotJsonError


def _literal(text: str) -> Any:
    with contextlib.suppress(_NotJsonError, ValueError):
        return json.loads(_literals_to_json(text))
    return ast.literal_eval(text)


def _as(value: Any, dtype: Any) -> Any:
    """Return a parsed value as `dtype`, None where it is of another kind."""
    if isinstance(dtype, pl.List) and isinstance(value, list):
        return [_as(v, dtype.inner) for v in value]
    if isinstance(dtype, pl.Struct) and isinstance(value, dict):
        return {field.name: _as(value.get(field.name), field.dtype) for field in dtype.fields}
    return None if dtype.is_nested() else _plain(value, dtype)


def _plain(value: Any, dtype: Any) -> Any:
    if value is None or isinstance(value, (dict, list, tuple, set)):
        return None
    if dtype == pl.String:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        return text.encode("utf-8", "replace").decode()  # lone surrogates cannot be stored
    try:
        return float(value) if dtype == pl.Float64 else bool(value)
    except (ValueError, OverflowError):
        return None


def _collect(
    frames: Iterator[pl.DataFrame],
    raw: Raw,
    report: Report,
    select: Sequence[pl.Expr | str],
    checks: Checks,
) -> pl.DataFrame:
    """Keep the selected columns of the rows that pass all checks."""
    kept, why = [], ""
    for frame in frames:
        chosen = frame.select("line", *select)
        if chosen.select(
            pl.all_horizontal(pl.lit(True), *checks.values()).fill_null(False).all()
        ).item():
            kept.append(chosen.drop("line"))
            continue
        for reason, good in checks.items():
            bad = chosen.filter(~good.fill_null(False))
            if len(bad):
                line = _first(bad["line"])
                why = why or f", the first because: {reason} (line {line})"
                report.skip(reason, len(bad), where=raw, line=line)
                chosen = chosen.filter(good.fill_null(False))
        kept.append(chosen.drop("line"))
    if not any(len(frame) for frame in kept):
        raise UserError(f"none of its rows can be used{why or _reason(raw, report)}", where=raw)
    return pl.concat(kept)


def _reason(raw: Raw, report: Report) -> str:
    """Why the first row of a file was left out, while it was parsed."""
    name = f"{Path(str(raw)).name}: "
    found = [(line, key) for key, line in report.first_line.items() if key.startswith(name)]
    line, key = min(found, default=(0, ""))
    return f", the first because: {key.removeprefix(name)} (line {line})" if key else ""


def _first(lines: pl.Series) -> int:
    return int(lines[0]) if len(lines) else 0


def unique(frame: pl.DataFrame, key: str, report: Report, where: object) -> pl.DataFrame:
    """Keep the first row of each `key`, counting the others."""
    kept = frame.unique(key, keep="first", maintain_order=True)
    report.skip(f"duplicate {key}", len(frame) - len(kept), where=where)
    return kept


def known(
    interactions: pl.DataFrame, other: pl.DataFrame, key: str, report: Report, where: object
) -> pl.DataFrame:
    """Keep the interactions whose `key` is in `other`, counting the rest.

    Raises:
        UserError: if none is left.
    """
    kept = interactions.join(other.select(key), on=key, how="semi", maintain_order="left")
    what = key.removesuffix("_id")
    if len(interactions) and not len(kept):
        raise UserError(f"every interaction is of an unknown {what}", where=where)
    report.skip(f"interaction of an unknown {what}", len(interactions) - len(kept), where=where)
    return kept


def once(interactions: pl.DataFrame, report: Report, where: object) -> pl.DataFrame:
    """Drop exact repetitions: the same user, item and time."""
    kept = interactions.unique(
        ["user_id", "item_id", "timestamp"], keep="first", maintain_order=True
    )
    report.skip("the same interaction again", len(interactions) - len(kept), where=where)
    return kept


def users_of(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return the users of interactions, in order of appearance, for sources without profiles."""
    return interactions.select("user_id").unique(maintain_order=True)


def utc(seconds: pl.Expr) -> pl.Expr:
    """Unix seconds (any number) to the canonical time; numbers outside of 1900 to 2200 are null."""
    whole = seconds.cast(pl.Float64, strict=False)
    safe = pl.when(whole.is_between(-2.2e9, 7.3e9)).then(whole)
    return (safe * 1000).round().cast(pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def parsed_time(text: pl.Expr, pattern: str) -> pl.Expr:
    """Text to the canonical time by a strptime `pattern` (UTC unless it says), null if it fails."""
    time = text.str.to_datetime(pattern, time_unit="ms", strict=False)
    if "%z" in pattern:
        return time.dt.convert_time_zone("UTC")
    return time.dt.replace_time_zone("UTC")


def parsed_day(text: pl.Expr, pattern: str, zone: str = "UTC") -> pl.Expr:
    """Text to the canonical time of the day's start in `zone`, null if it is not of `pattern`."""
    day = text.str.to_date(pattern, strict=False).cast(pl.Datetime("ms"))
    return day.dt.replace_time_zone(zone).dt.convert_time_zone("UTC")


def between_years(first: int, last: int, column: str = "timestamp") -> dict[str, pl.Expr]:
    """Check that a time lies from the start of `first` to the end of `last`."""
    time = pl.col(column)
    return {f"{column} outside of {first} to {last}": time.dt.year().is_between(first, last)}


def filled(*names: str) -> dict[str, pl.Expr]:
    """Check that columns of text are not empty."""
    return {f"empty {name}": pl.col(name).fill_null("") != "" for name in names}

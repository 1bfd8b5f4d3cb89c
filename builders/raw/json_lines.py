"""JSON lines, or Python literals, to frames; lines that cannot be read are counted.

Python literals are never evaluated.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from usermirrorer.builders.raw.columns import Checks, checked
from usermirrorer.builders.raw.files import Block, Raw, blocks
from usermirrorer.builders.raw.report import Report


def read_json_lines(
    raw: Raw,
    report: Report,
    schema: Mapping[str, Any],
    select: Sequence[pl.Expr | str],
    checks: Checks,
    *,
    python_literals: bool = False,
) -> pl.DataFrame:
    """Read a file of one JSON object per line.

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

    return checked(frames(), raw, report, select, checks)


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
            values = parse(text)
            if not isinstance(values, dict):
                raise ValueError
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            report.skip(f"is not {kind} with named fields", where=raw, line=line)
            continue
        rows["line"].append(line)
        for name, dtype in schema.items():
            rows[name].append(_as(values.get(name), dtype))
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
    written = escape.group()
    if written in _SAME_IN_JSON or written[:2] == "\\u":
        return written
    if written == '"':
        return '\\"'
    if written == "\\'":
        return "'"
    if written[:2] in ("\\x", "\\U") and len(written) > 2:
        code = int(written[2:], 16)
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

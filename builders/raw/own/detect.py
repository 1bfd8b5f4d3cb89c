"""What a file is: its format, delimiter, encoding, columns, and the format of its times."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import delimited, files
from usermirrorer.builders.raw.own import text_columns, values
from usermirrorer.builders.raw.own.check import nearest, schema
from usermirrorer.builders.raw.report import Report

_LOOKED_AT = 1 << 20
_ROWS = 5_000
_ENCODINGS = ("utf-8", "gb18030", "shift_jis", "euc_kr", "cp1252", "latin-1")
_DELIMITERS = (",", "\t", ";", "|")
_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d")
_SHORT = ("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y")
_CLOCKS = (" %H:%M:%S", " %H:%M", " %H:%M:%S%.f", " %I:%M:%S %p", " %I:%M %p", "")
_NAMED = ("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y")
_MORE = (
    "%Y年%m月%d日",
    "%Y年%m月%d日 %H:%M:%S",
    *(day + clock for day in _NAMED for clock in ("", " %H:%M:%S", " %H:%M", " %I:%M %p")),
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S UTC %Y",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
    "%Y%m%d%H%M%S",
    "%Y%m%dT%H%M%SZ",
    "%Y%m%dT%H%M%S",
    "%Y-%m",
    "%Y/%m",
    "%m/%Y",
    "%b %Y",
)


@dataclass(frozen=True)
class Looked:
    """A file that was looked into: what it is, and its first rows as text."""

    path: Path
    about: dict[str, str]
    sample: pl.DataFrame
    guesses: tuple[str, ...]  # which of `about` were not certain


def look(path: Path, given: dict[str, str] | None = None) -> Looked:
    """Look into a file.

    Args:
        path: The file.
        given: `delimiter` or `encoding` that are known.

    Raises:
        UserError: if it is missing, empty, or nothing that is read.
    """
    raw = text_columns.locate(path)
    with files.opened(raw) as stream:
        start = stream.read(_LOOKED_AT)
    if not start.strip():
        raise UserError("is empty", where=raw)
    if start.startswith(b"PAR1"):
        frame = text_columns.parquet_beginning(raw, _ROWS)
        return Looked(path, {"format": "parquet"}, frame, ())
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:1000]:
        raise UserError("is no text that is read", where=raw, fix="Save it as UTF-8.")
    known, guesses = _checked(given or {}), []
    if "encoding" not in known:
        known["encoding"] = _encoding(start)
        if known["encoding"] != "utf-8":
            guesses.append("encoding")
    whole = start if len(start) < _LOOKED_AT else start[: start.rfind(b"\n") + 1]
    text = whole.decode(known["encoding"], errors="replace").removeprefix("\ufeff")
    if re.match(r"\s*\[\s*(\{|\[|$)", text):
        raise UserError(
            "is one JSON list, which is not read", where=raw, fix="Write one object a line."
        )
    if text.lstrip().startswith("{"):
        about = {"format": "jsonl", "encoding": known["encoding"]}
    else:
        about = {"format": "csv", "delimiter": known.get("delimiter") or _delimiter(text)}
        about["encoding"] = known["encoding"]
        guesses += ["delimiter"] if "delimiter" not in known else []
        if _unquoted(text, about["delimiter"]):
            about["quoted"] = "false"
            guesses.append("quoted")
    return Looked(path, about, _sample(raw, about, text), tuple(guesses))


def _checked(given: Mapping[str, str]) -> dict[str, str]:
    """Return what is given of text files, as a definition would take it."""
    known = {key: value.replace("\\t", "\t") for key, value in given.items()}
    rules = schema()["$defs"]["file"]["properties"]
    if known.get("encoding", "utf-8") not in rules["encoding"]["enum"]:
        fix = nearest(known["encoding"], rules["encoding"]["enum"])
        raise UserError(f"{known['encoding']!r} is no encoding that is read", fix=fix)
    if not re.search(rules["delimiter"]["pattern"], known.get("delimiter", ",")):
        fix = rules["delimiter"]["description"]
        raise UserError(f"{known['delimiter']!r} cannot split fields", fix=fix)
    return known


def _unquoted(text: str, delimiter: str) -> bool:
    r"""Say whether quotes are but signs: `12\t7" single` has one, and yet all of its fields."""
    lines = [line for line in text.split("\n")[:_ROWS] if line.strip()]
    odd = [line for line in lines if line.count('"') % 2]
    width = lines[0].count(delimiter) if lines else 0
    return bool(odd) and all(line.count(delimiter) == width for line in odd)


def _sample(raw: files.Raw, about: dict[str, str], text: str) -> pl.DataFrame:
    named = text_columns.names(raw, about)
    if about["format"] == "jsonl":
        block = files.Block(1, text)
        frame = text_columns.lines(block, raw, named, Report())
        return frame.drop("line").head(_ROWS)
    plain = text.replace("\r\n", "\n").replace("\r", " ")  # as `delimited` reads it
    apart: Any = {"delimiter": about["delimiter"]}
    if about.get("quoted") == "false":
        apart["quoting"] = csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(plain), **apart)
    try:
        rows = [row for _, row in zip(range(_ROWS + 1), reader, strict=False)][1:]
    except csv.Error as error:
        raise UserError(f"cannot be read: {error}", where=f"{raw}:{reader.line_num}") from error
    fitting = [row for row in rows if len(row) == len(named)]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(delimited.named_twice(twice), where=f"{raw}:1")
    if not any(rows):
        raise UserError("has a header and no rows", where=raw)
    if not fitting:
        raise UserError(
            f"no row has the {len(named)} field(s) of the first line, split by "
            f"{about['delimiter']!r}",
            where=f"{raw}:1",
            fix="The first line must name the columns; or name the --delimiter.",
        )
    frame = pl.DataFrame(fitting, schema=dict.fromkeys(named, pl.String), orient="row")
    if sum(_is_value(name, frame[name]) for name in named) * 2 >= len(named):
        raise UserError(
            "its first line seems to hold values, not the names of columns",
            where=f"{raw}:1",
            fix="Add a line with the names.",
        )
    return frame


def _is_value(name: str, column: pl.Series) -> bool:
    """Say whether what stands for a name is one more value of its column."""
    text, number = filled(column), r"^-?\d+(\.\d+)?$"
    if not len(text) or not name:
        return False
    numbers = bool(re.match(number, name)) and text.str.contains(number).all()
    return numbers or bool((text == name).any())


def _encoding(start: bytes) -> str:
    """Return the first encoding that the text fits; of Asian ones that with common characters."""
    body = start.removeprefix(b"\xef\xbb\xbf")
    body = body[: body.rfind(b"\n") + 1] or body
    try:
        body.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    high = sum(byte >= 0x80 for byte in body)
    best = ("cp1252", 0.0)
    for encoding in _ENCODINGS[1:4]:
        try:
            text = body.decode(encoding)
        except UnicodeDecodeError:
            continue
        common = sum(_is_common(sign, encoding) for sign in text)
        share = 2 * common / max(high, 1)
        best = (encoding, share) if share > max(best[1], 0.8) else best
    if best[0] != "cp1252":
        return best[0]
    try:
        body.decode("cp1252")
        return "cp1252"
    except UnicodeDecodeError:
        return "latin-1"


def _is_common(sign: str, encoding: str) -> bool:
    if encoding == "gb18030":
        try:
            return sign >= "\u4e00" and 0xB0 <= sign.encode("gb2312")[0] <= 0xD7
        except UnicodeEncodeError:
            return False
    kana, hangul = "\u3040" <= sign <= "\u30ff", "\uac00" <= sign <= "\ud7a3"
    return kana if encoding == "shift_jis" else hangul


def _delimiter(text: str) -> str:
    """Return the sign that splits most rows into as many fields as the first has."""
    scores = {}
    for sign in _DELIMITERS:
        reader = csv.reader(io.StringIO(text.replace("\r\n", "\n")), delimiter=sign)
        try:
            widths = [len(row) for _, row in zip(range(200), reader, strict=False) if row]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            same = Counter(widths)[widths[0]] / len(widths)
            scores[sign] = (same > 0.9, widths[0] * same)
    return max(scores, key=lambda sign: scores[sign]) if scores else ","


def filled(column: pl.Series) -> pl.Series:
    """Return what a column states: without what stands for missing values."""
    text = column.str.strip_chars()
    return text.filter(~text.is_in(list(values.MISSING)))


def time_format(column: pl.Series) -> tuple[str, bool]:
    """Return the format of a column of times ("" if it is none), and whether it is certain."""
    text = filled(column)
    if not len(text):
        return "", False
    number = text.cast(pl.Float64, strict=False)
    if number.null_count() <= len(text) // 50:
        middle = float(number.drop_nulls().median() or 0)  # type: ignore[arg-type]
        for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
            if 3e8 * factor <= middle <= 5e9 * factor:
                return f"epoch-{unit}", True
        if not any(10**n * 190_001 <= middle <= 10**n * 210_012 for n in (2, 8)):
            return "", False
    days = (*_DAYS, *_SHORT)
    candidates = ["iso", *(day + clock for day in days for clock in _CLOCKS), *_MORE]
    share = {how: _share(text, how) for how in candidates}
    best = max(share.values())
    fitting = [how for how in candidates if share[how] == best]
    if best < 0.9:
        return "", False
    rivals = [how for how in fitting[1:] if how.replace("%", "")[:2] != fitting[0]]
    certain = "%y" not in fitting[0]  # of which century?
    return fitting[0], certain and len({_order(how) for how in [fitting[0], *rivals]}) == 1


def _order(how: str) -> str:
    return "".join(re.findall(r"%([dmYy])", how)) or how


def _share(text: pl.Series, how: str) -> float:
    frame = text.alias("text").to_frame()
    try:
        made = frame.select(values.moment(pl.col("text"), how, "UTC")).to_series()
    except pl.exceptions.PolarsError:
        return 0.0
    good = made.dt.year().is_between(1970, 2100).sum()
    return float(good or 0) / len(text)


def number_type(column: pl.Series) -> dict[str, Any]:
    """Return the type of a column: text, integer, number (with its decimal sign) or yes-no."""
    text = filled(column)
    if not len(text):
        return {"type": "text"}
    if set(text.str.to_lowercase().unique()) <= {"true", "false", "yes", "no"}:
        return {"type": "yes-no"}
    whole = text.str.contains(r"^-?\d{1,15}$")
    rest = text.filter(~whole)
    some = len(rest) <= len(text) // 50 and rest.cast(pl.Float64, strict=False).is_null().all()
    if some and not text.str.contains(r"^0\d").any():  # a few may be no numbers at all
        return {"type": "integer"}
    if text.cast(pl.Float64, strict=False).null_count() <= len(text) // 50:
        return {"type": "number"} if not text.str.contains(r"^0\d").any() else {"type": "text"}
    if text.str.contains(r"^-?\d{1,3}(\.\d{3})*(,\d+)?$|^-?\d+,\d+$").mean() >= 0.98:  # type: ignore[operator]
        return {"type": "number", "decimal": ","}
    return {"type": "text"}


def overlap(one: pl.Series, other: pl.Series) -> float:
    """Return which share of the values of one column the other holds."""
    ids, known = (
        pl.select(values.whole(pl.lit(filled(column)))).to_series().unique()
        for column in (one, other)
    )
    return int(ids.is_in(known.implode()).sum()) / len(ids) if len(ids) else 0.0


def alike(names: Sequence[str], words: Sequence[str]) -> dict[str, float]:
    """Return how much each name says one of the words: 1 the first word itself, 0 nothing."""
    scores = {}
    for name in names:
        plain = re.sub(r"[^\w]+|_", "", name.lower())
        parts = re.sub(r"(?<=[a-z])(?=[A-Z])|\W+|_", " ", name).lower().split()
        same = [1 - 0.02 * i for i, word in enumerate(words) if plain == word]
        inside = [
            0.6 - 0.01 * i for i, word in enumerate(words) if word in parts or _part(word, plain)
        ]
        scores[name] = max([*same, *inside, 0.0])
    return scores


def _part(word: str, plain: str) -> bool:
    return not word.isascii() and word in plain

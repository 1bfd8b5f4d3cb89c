"""Make raw item and user text safe and short: item text is data, never prompt structure."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

#: Chat-template control tokens of the common model families. A space is put behind their opening
#: sign, so that no tokenizer reads them as control tokens while people still can read the text.
_CONTROL_TOKEN = re.compile(
    r"<(?=\|)|<(?=/?s>)|<(?=(?:start|end)_of_turn>)|<(?=(?:unk|pad|bos|eos)>)|\[(?=/?INST\])", re.I
)
_LABEL_LIKE = re.compile(r"\[\s*([A-Za-z])\s*\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPACES = re.compile(r"\s+")
_NESTING = 8  # &amp;amp;... of more levels is left as it stands
_TAIL = " ,;:-"  # not left in front of an ellipsis
_START = 256  # characters that `clean` looks at beyond eight times its limit
#: Letters, digits and signs that `clean` passes unchanged, so that text of these alone can be
#: cleaned a column at a time. The signs `&`, `<` and `[` begin what it changes.
_PLAIN = r"\s!-%'-;=-Z\\-~À-ɏ‐-‧一-鿿、-〜ァ-ヺ"
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")

_UNITS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
)


def clean(text: object, limit: int = 0) -> str:
    """Return one printable line that cannot pass for a label, a heading or a control token.

    HTML entities are decoded and tags dropped, control characters removed, whitespace (line breaks
    too) becomes single spaces, `[A]` becomes `(A)`, and chat control tokens are broken up. Missing
    values (None, NaN) give "".

    Args:
        text: Anything; non-strings are converted.
        limit: Longest result in characters, 0 for no limit; longer text is cut at a word boundary
            and ends with an ellipsis.
    """
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return ""
    # A limit also bounds the work: a title of 10 MB is not worth more than its beginning.
    start = str(text)[: _START + 8 * limit] if limit else str(text)
    plain = start
    for _ in range(_NESTING):  # entities may hide tags, invisible characters may hide entities
        before = plain
        plain = _TAG.sub(_keep_control_token, _printable(html.unescape(plain)))
        if plain == before:
            break
    plain = _CONTROL_TOKEN.sub(lambda m: m.group() + " ", plain)
    plain = _LABEL_LIKE.sub(r"(\1)", plain)
    return cut(_SPACES.sub(" ", plain).strip(), limit)


def broken_token(token: str) -> str:
    """Return a control token as people still read it and no tokenizer does: `< |im_end|>`."""
    return f"{token[0]} {token[1:]}"


def _keep_control_token(tag: re.Match[str]) -> str:
    return tag.group() if _CONTROL_TOKEN.match(tag.group()) else " "


def _printable(text: str) -> str:
    """Compose characters, turn control characters into spaces, drop invisible ones."""
    if text.isascii():
        return _CONTROL.sub(" ", text)
    shown = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in text
        if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn") or c in "\u200d\u200c"
    )
    return unicodedata.normalize("NFC", shown)


def clean_column(column: pl.Expr, limit: int = 0) -> pl.Expr:
    """Return `clean` of a string column: at column speed for plain text, by value for the rest."""
    import polars as pl

    return column.map_batches(lambda text: _clean_series(text, limit), return_dtype=pl.String)


def _clean_series(text: pl.Series, limit: int) -> pl.Series:
    import polars as pl

    start = text.str.slice(0, _START + 8 * limit) if limit else text
    plain = ~start.str.contains(f"[^{_PLAIN}]").fill_null(False)
    spaced = start.fill_null("").str.replace_all(r"\s{2,}|[^\S ]", " ").str.strip_chars()
    done = _cut_series(spaced, limit) if limit else spaced
    if plain.all():
        return done
    rest = [clean(value, limit) for value in start.filter(~plain)]
    return done.scatter((~plain).arg_true(), pl.Series(rest, dtype=pl.String))


def _cut_series(text: pl.Series, limit: int) -> pl.Series:
    """`cut` of a column: on a word boundary if that keeps more than half of the limit."""
    import polars as pl

    head = pl.col("text").str.slice(0, limit)
    words = head.str.replace(" [^ ]*$", "")
    on_boundary = head.str.contains(" ", literal=True) & (words.str.len_chars() > limit // 2)
    shorter = (
        pl.when(on_boundary)
        .then(words)
        .otherwise(head.str.head(limit - 1))
        .str.strip_chars_end(_TAIL)
        + "…"
    )
    rows = (text.str.len_chars() > limit).arg_true()
    if not len(rows):
        return text
    long = pl.DataFrame({"text": text.gather(rows)}).select(shorter).to_series()
    return text.scatter(rows, long)


def cut(text: str, limit: int) -> str:
    """Cut `text` to at most `limit` characters on a word boundary (0: no limit)."""
    if not limit or len(text) <= limit:
        return text
    boundary = text.rfind(" ", 0, limit)
    return text[: boundary if boundary > limit // 2 else limit - 1].rstrip(_TAIL) + "…"


def ago(seconds: float) -> str:
    """Say a time difference as in appendix E.1: `just now`, `3 minutes ago`, ..., `1 year ago`.

    Args:
        seconds: Age of the event at the scene's time; negative ages are a leak.

    Raises:
        ValueError: if the event lies in the future.
    """
    if seconds < 0:
        raise ValueError(f"an event {-seconds:.0f} s after the scene cannot be in its history")
    for unit, size in _UNITS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"

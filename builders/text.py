"""Make raw item and user text safe and short: item text is data, never prompt structure."""

from __future__ import annotations

import html
import re
import unicodedata

#: Chat-template control tokens of the common model families. A space is put behind their opening
#: sign, so that no tokenizer reads them as control tokens while people still can read the text.
_CONTROL_TOKEN = re.compile(
    r"<(?=\|)|<(?=/?s>)|<(?=(?:start|end)_of_turn>)|<(?=(?:unk|pad|bos|eos)>)|\[(?=/?INST\])", re.I
)
_LABEL_LIKE = re.compile(r"\[\s*([A-Za-z])\s*\]")
_SPACES = re.compile(r"\s+")
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
    if text is None or text != text:  # None or NaN
        return ""
    plain = html.unescape(html.unescape(str(text)))
    plain = _TAG.sub(lambda m: m.group() if _CONTROL_TOKEN.match(m.group()) else " ", plain)
    plain = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in unicodedata.normalize("NFC", plain)
        if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn") or c in "\u200d\u200c"
    )
    plain = _CONTROL_TOKEN.sub(lambda m: m.group() + " ", plain)
    plain = _LABEL_LIKE.sub(r"(\1)", plain)
    return cut(_SPACES.sub(" ", plain).strip(), limit)


def cut(text: str, limit: int) -> str:
    """Cut `text` to at most `limit` characters on a word boundary (0: no limit)."""
    if not limit or len(text) <= limit:
        return text
    head = text[: limit - 1]
    boundary = head.rfind(" ")
    return (head[:boundary] if boundary > limit // 2 else head).rstrip(" ,;:-") + "…"


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

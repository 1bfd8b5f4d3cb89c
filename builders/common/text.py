"""Make raw item and user text safe and short: item text is data, never prompt structure.

What a character is, is asked of one fixed table of Unicode (that of the library `unicodedata2`) and
not of Python's, which differs between its versions: the same text is cleaned to the same bytes
everywhere. Only what shows is kept. Joiners and variation selectors are kept where they change what
is seen: inside emoji, and in scripts whose letters join.
"""

from __future__ import annotations

import functools
import html
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

#: Chat-template control tokens of the common model families. A space is put behind their opening
#: sign, so that no tokenizer reads them as control tokens while people still can read the text.
_CONTROL_TOKEN = re.compile(
    r"<(?=\|)|<(?=/?s>)|<(?=(?:start|end)_of_turn>)|<(?=(?:unk|pad|bos|eos)>)|\[(?=/?INST\])", re.I
)
_LABEL_LIKE = re.compile(r"[\[［]\s*([^\s\[\]［］]{1,2}?)\s*[\]］]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPACES = re.compile(r"\s+")
_NESTING = 8  # &amp;amp;... of more levels is left as it stands
_TAIL = " ,;:-"  # not left in front of an ellipsis
_START = 256  # characters that `clean` looks at beyond eight times its limit
#: Letters, digits and signs that `clean` passes unchanged, so that text of these alone can be
#: cleaned a column at a time. The signs `&`, `<` and `[` begin what it changes.
_PLAIN = r"\s!-%'-;=-Z\\-~À-ɏ‐-‧一-鿿、-〜ァ-ヺ"
_UNPLAIN = re.compile(f"[^{_PLAIN}&<[]")
#: Blank as a space is: what stands around them stays apart.
_BLANKS = "\u2800\u3164\uffa0"
#: No control characters for Unicode, and yet nothing or a mere box is seen of them.
_UNSEEN = "\ufffc\U0001d159\U00016fe4"
_IN_CONTEXT = re.compile("[\u200c\u200d\ufe0f\U000e0020-\U000e007f]")
#: A tag; one with attributes may be long, as an image with its address is. Scripts and styles of a
#: page go with what they hold.
_TAG = re.compile(
    r"<(script|style)\b[^<>]*>[^<]{0,4000}</\1\s*>"
    r"|</?[A-Za-z][^<>]{0,200}>|<[A-Za-z][\w:-]*\s[^<>=]{0,200}=[^<>]{0,4000}>",
    re.I,
)

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
    plain = _LABEL_LIKE.sub(_no_label, plain)
    # What is cut off may leave a joiner with nothing to join.
    return _joined(cut(_SPACES.sub(" ", plain).strip(), limit))


def broken_token(token: str) -> str:
    """Return a control token as people still read it and no tokenizer does: `< |im_end|>`."""
    return f"{token[0]} {token[1:]}"


def _keep_control_token(tag: re.Match[str]) -> str:
    return tag.group() if _CONTROL_TOKEN.match(tag.group()) else " "


def _no_label(bracketed: re.Match[str]) -> str:
    """Put round brackets around what is, or looks like, one letter of the Latin alphabet."""
    inner = bracketed.group(1)
    letter = inner if inner.isascii() else skeleton(inner)
    return (
        f"({inner})"
        if len(letter) == 1 and letter.isalpha() and letter.isascii()
        else bracketed.group()
    )


def _printable(text: str) -> str:
    """Compose characters, turn control characters into spaces, drop what does not show."""
    if not _UNPLAIN.search(text):
        return _CONTROL.sub(" ", text)
    import unicodedata2

    return unicodedata2.normalize("NFC", _joined(text.translate(_shown())))


def _joined(text: str) -> str:
    """Drop joiners, selectors and tags where they change nothing that is seen."""
    if text.isascii() or not _IN_CONTEXT.search(text):
        return text
    return _context().sub(lambda kept: kept["kept"] or "", text)


@functools.cache
def _shown() -> dict[int, str | int | None]:
    """Return the table by which characters are kept, dropped or made spaces; it fills with use."""
    import regex
    import unicodedata2

    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")

    class Table(dict[int, str | int | None]):
        def __missing__(self, code: int) -> str | int | None:
            self[code] = self.fate(code, chr(code))
            return self[code]

        def fate(self, code: int, character: str) -> str | int | None:
            kind = unicodedata2.category(character)
            if kind in ("Cc", "Zl", "Zp", "Zs") or character in _BLANKS:
                return " "
            if _IN_CONTEXT.match(character):
                return code
            unseen = kind[0] == "C" or character in _UNSEEN or ignorable.match(character)
            return None if unseen else code

    return Table()


@functools.cache
def _context() -> re.Pattern[str]:
    """Return the expression of what depends on its neighbours; `kept` is where it shows.

    Non-joiners and joiners after UTS 46 and RFC 5892 (appendix A), and where they show without a
    virama: at the ends of words whose letters join, and before a virama (Bengali, Kannada).
    """
    import regex

    picture = r"(?:\p{Emoji_Presentation}|(?=\p{Emoji})\p{Extended_Pictographic}\uFE0F?)\p{EMod}?"
    joins, joined, mark = r"[\p{jt=D}\p{jt=L}]", r"[\p{jt=D}\p{jt=R}]", r"\p{jt=T}*"
    flags = "|".join(
        "".join(chr(0xE0000 + ord(letter)) for letter in f"gb{country}")
        for country in ("eng", "sct", "wls")
    )
    kept = (
        rf"\U0001F3F4(?:{flags})\U000E007F",
        r"[0-9#*]\uFE0F\u20E3",
        rf"{picture}(?:\u200D{picture})*",
        rf"(?<={joins}{mark})\u200C(?={mark}{joined})",
        r"(?<=\p{ccc=9})[\u200C\u200D](?=\p{L})",
        r"(?<=\p{ccc=9})\u200D(?!\S)",
        r"(?<=\p{L})\u200D(?=\p{ccc=9})",
        rf"(?<={joins}{mark})\u200D(?!{mark}[\p{{jt=D}}\p{{jt=R}}\p{{jt=C}}])",
        rf"(?<![\p{{jt=D}}\p{{jt=L}}\p{{jt=C}}]{mark})\u200D(?={mark}{joined})",
    )
    return regex.compile(rf"(?P<kept>{'|'.join(kept)})|{_IN_CONTEXT.pattern}")


def skeleton(text: str) -> str:
    """Return what texts that look alike have in common: the skeleton of UTS 39.

    Letters are those of the library `confusable_homoglyphs`; joiners, selectors, white space at the
    ends or in a row and the width of letters (of scripts written in squares) make no difference.
    Capital and small letters do.
    """
    import unicodedata2

    bare = unicodedata2.normalize("NFD", _WIDTHS.sub(_usual_width, text)).translate(_shown())
    bare = _IN_CONTEXT.sub("", bare)
    alike = unicodedata2.normalize("NFD", bare.translate(_prototypes()))
    return _SPACES.sub(" ", alike).strip()


#: Forms of letters and signs that are only wider or narrower than usual.
_WIDTHS = re.compile("[\uff01-\uffee]+")


def _usual_width(forms: re.Match[str]) -> str:
    import unicodedata2

    return unicodedata2.normalize("NFKC", forms.group())


@functools.cache
def _prototypes() -> dict[int, str]:
    """Return the character or characters that stand for each confusable one.

    The library's table is symmetric, and each of its groups a star: what several are confused with,
    or what has several characters, is the prototype of the others.
    """
    from confusable_homoglyphs.confusables import confusables_data

    # Marks of direction stand around letters of scripts written from the right, and are no part.
    neighbours = {
        sign.strip("\u200e"): {other["c"].strip("\u200e") for other in others}
        for sign, others in confusables_data.items()
    }

    def rank(sign: str) -> tuple[int, int, bool, str]:
        return len(sign), len(neighbours[sign]), sign.isascii(), sign

    table: dict[int, str] = {}
    for sign, others in neighbours.items():
        best = max(others, key=rank)
        if len(sign) == 1 and rank(best) > rank(sign):
            table[ord(sign)] = best
    return {code: best.translate(table) for code, best in table.items()}


def numbered_by_looks(texts: Sequence[str]) -> np.ndarray:
    """Return a number for each text, equal for those that look alike or differ in letter case.

    Returns:
        int64 [number of texts]; only equality means something.
    """
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys = [[(0, text.lower()), (1, skeleton(text))] for text in texts]
    known: dict[tuple[int, str], int] = {}
    edges = np.array([[known.setdefault(key, len(known)) for key in both] for both in keys])
    if not len(edges):
        return np.empty(0, np.int64)
    size = len(known)
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), (size, size))
    return connected_components(graph, directed=False)[1][edges[:, 0]].astype(np.int64)


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


_FOLDERS = re.compile(r"(?<![\w/.:~-])/(?:[^\s/:,;'\"()]+/)+")


def without_folders(text: str) -> str:
    """Cut each absolute path in a text to its last part."""
    return _FOLDERS.sub("", text)


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

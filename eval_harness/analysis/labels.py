"""Factors and styles in the words of decisions -> their names, merged by stated rules.

A line such as `Internal States (Boredom, Curiosity); Time of Day` is split at commas, semicolons,
bars and line breaks outside brackets, and at "and" between known words; headings of the prompt
(`groups`) give way to what stands behind them, other brackets and explanations behind a colon are
dropped. A term is then

    name       a name of the table (`factor_labels.yaml`), but for case, signs and spaces
    synonym    one of the words that the table lists for a name
    embedding  nearest to a name or synonym with at least the given cosine (only with an encoder)
    none       neither: it is counted as `Others`, and keeps its words in the table of terms
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from usermirrorer.builders.common.errors import UserError

OTHERS = "Others"
TABLE = Path(__file__).with_name("factor_labels.yaml")
Kind = Literal["factors", "styles"]
Rule = Literal["name", "synonym", "embedding", "none"]
#: Bounds on what one decision may say, and on what is embedded and read.
MOST_TEXT, MOST_TERMS, LONGEST_TERM, MOST_EMBEDDED = 2_000, 12, 80, 20_000
MOST_TABLE = 2**20

_OPEN, _CLOSE, _BETWEEN = "([", ")]", ",;|\n"
_HEAD = re.compile(r"[(\[:]")
_AND = re.compile(r"\s+(?:and|&)\s+", re.I)
_SIGNS = re.compile(r"[\W_]+")


class Merged(NamedTuple):
    """What a term counts as.

    `nearest` is the name whose words are nearest to it and `similarity` their cosine, where an
    encoder was asked.
    """

    name: str
    rule: Rule
    nearest: str = ""
    similarity: float | None = None


def normal(text: str) -> str:
    """Return a term without case, signs and superfluous spaces."""
    return " ".join(_SIGNS.sub(" ", text.casefold()).split())


@dataclass(frozen=True)
class Merging:
    """The rules by which terms become names.

    Args:
        words: Kind -> normal form of a name or synonym -> name.
        names: Kind -> normal form of a name -> name.
        groups: Normal forms of headings.
        table: File of the synonym table.
        embedder: Encoder that merges what the table lacks; "" for none.
        threshold: Least cosine for that.
    """

    words: Mapping[Kind, Mapping[str, str]]
    names: Mapping[Kind, Mapping[str, str]]
    groups: Collection[str]
    table: Path = TABLE
    embedder: str = ""
    threshold: float = 0.6

    @classmethod
    def of(cls, table: Path | None = None, embedder: str = "", threshold: float = 0.6) -> Merging:
        """Read a synonym table, by default the package's.

        Raises:
            UserError: if it is no such table, or a word stands for two names.
        """
        if not 0 < threshold <= 1:
            raise UserError(f"{threshold} is no cosine between 0 and 1", where="--threshold")
        file = table or TABLE
        read = _read(file)
        groups = read.get("groups", [])
        if not isinstance(groups, list) or not all(isinstance(g, str) for g in groups):
            raise UserError("`groups` is no list of texts", where=file)
        words: dict[Kind, dict[str, str]] = {}
        names: dict[Kind, dict[str, str]] = {}
        for kind in ("factors", "styles"):
            words[kind], names[kind] = _words(read.get(kind), kind, file)
        return cls(words, names, {normal(g) for g in groups}, file, embedder, threshold)

    @property
    def settings(self) -> dict[str, Any]:
        """What a page says of the rules."""
        from usermirrorer.builders.common.storage import file_hash

        rules: dict[str, Any] = {"synonyms": self.table.name, "table": file_hash(self.table)}
        return rules | {"embedder": self.embedder, "threshold": self.threshold}

    def terms(self, text: str) -> list[str]:
        """Return the terms of a line of factors, as written, each once."""
        terms: dict[str, str] = {}
        for piece in self._pieces(text[:MOST_TEXT], 0):
            term = " ".join(piece.split())[:LONGEST_TERM].strip(" \t.*-\"'`[]()")
            if normal(term):
                terms.setdefault(normal(term), term)
        return list(terms.values())[:MOST_TERMS]

    def _pieces(self, text: str, depth: int) -> Iterable[str]:
        for piece in _split(text):
            head, inside = _apart(piece)
            if inside and depth < 3 and self._gives_way(head, inside):
                yield from self._pieces(inside, depth + 1)
                continue
            parts = _AND.split(head)
            whole = normal(head) in self.words["factors"]
            known = all(normal(part) in self.words["factors"] for part in parts)
            yield from parts if known and not whole else [head]

    def _gives_way(self, head: str, inside: str) -> bool:
        """Say whether what is behind a head counts in its place."""
        if not normal(head) or normal(head) in self.groups:
            return True
        words = self.words["factors"]
        return normal(head) not in words and normal(inside) in words

    def merge(self, terms: Iterable[str], kind: Kind) -> dict[str, Merged]:
        """Return what each term counts as, by its normal form.

        Raises:
            UserError: if the encoder cannot be loaded.
        """
        merged: dict[str, Merged] = {}
        left: list[str] = []
        for key in dict.fromkeys(normal(term) for term in terms):
            if key in self.names[kind]:
                merged[key] = Merged(self.names[kind][key], "name")
            elif key in self.words[kind]:
                merged[key] = Merged(self.words[kind][key], "synonym")
            else:
                merged[key] = Merged(OTHERS, "none")
                left.append(key)
        return merged | (self._nearest(left[:MOST_EMBEDDED], kind) if self.embedder else {})

    def _nearest(self, terms: Sequence[str], kind: Kind) -> dict[str, Merged]:
        """Merge terms by the cosine of their embeddings with those of the table's words."""
        if not terms:
            return {}
        from usermirrorer.builders.common import assets
        from usermirrorer.builders.scenes.embed import embed

        known = list(self.words[kind])
        vectors = embed([*known, *terms], assets.resolve_model(self.embedder))
        cosines = vectors[len(known) :] @ vectors[: len(known)].T
        merged = {}
        for term, row in zip(terms, cosines, strict=True):
            nearest, cosine = self.words[kind][known[int(row.argmax())]], float(row.max())
            near = cosine >= self.threshold
            rule: Rule = "embedding" if near else "none"
            merged[term] = Merged(nearest if near else OTHERS, rule, nearest, cosine)
        return merged


def _split(text: str) -> Iterable[str]:
    """Yield the pieces of a text between separators that are not in brackets."""
    depth, piece = 0, ""
    for sign in text:
        depth += (sign in _OPEN) - (sign in _CLOSE and depth > 0)
        if sign in _BETWEEN and not depth:
            yield piece
            piece = ""
        else:
            piece += sign
    yield piece


def _apart(piece: str) -> tuple[str, str]:
    """Return what stands before a bracket or colon, and what is in or behind it."""
    match = _HEAD.search(piece)
    if not match:
        return piece.strip(), ""
    inside = piece[match.end() :].strip()
    return piece[: match.start()].strip(), inside[:-1] if inside[-1:] in tuple(_CLOSE) else inside


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        if file.stat().st_size > MOST_TABLE:
            raise UserError(f"is larger than {MOST_TABLE:,} bytes", where=file)
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("does not exist", where=file) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"is not YAML: {error}", where=file) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file) from error
    if not isinstance(read, dict):
        raise UserError("is no table of `groups`, `factors` and `styles`", where=file)
    return read


def _words(table: Any, kind: str, file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of a kind by every word for them, and by themselves."""
    if not isinstance(table, dict) or not table:
        raise UserError(f"`{kind}` is no table of names and their synonyms", where=file)
    words: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, synonyms in table.items():
        several = [] if synonyms is None else synonyms
        every = [name, *several] if isinstance(several, list) else []
        texts = [word for word in every if isinstance(word, str) and normal(word)]
        if not texts or len(texts) < len(every):
            raise UserError(f"{name!r} of `{kind}` has no list of texts", where=file)
        for word in texts:
            if words.setdefault(normal(word), name) != name:
                told = f"{word!r} stands for {words[normal(word)]!r} and {name!r}"
                raise UserError(told, where=file)
        names[normal(name)] = name
    return words, names

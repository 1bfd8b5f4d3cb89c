"""Conditions such as `watch_ratio >= 0.5 and device != 'bot'`: parsed, never evaluated as code.

or-part: and-part {or and-part}     and-part: not-part {and not-part}
not-part: [not] comparison | [not] ( or-part )
comparison: column (== != < <= > >=) value     value: number 'text' true false null
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.own.check import nearest

LONGEST = 1000
DEEPEST = 20
_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?(?![\w.]))"
    r"|(?P<text>'[^']*'|\"[^\"]*\")|(?P<column>`[^`]+`)|(?P<word>[^\W\d]\w*)"
    r"|(?P<sign><=|>=|==|!=|=|<|>|\(|\)))"
)
_COMPARISONS = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NULL = object()
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": _NULL}


def condition(text: str, types: Mapping[str, pl.DataType | type], where: str) -> pl.Expr:
    """Return a condition as an expression; it is false where a value is missing.

    Args:
        text: The condition.
        types: Column -> type of its values.
        where: File and line, for errors.

    Raises:
        UserError: if it cannot be understood, or names a column that is not there.
    """
    return _Parser(text, types, where).parse().fill_null(False)


class _Parser:
    def __init__(self, text: str, types: Mapping[str, Any], where: str) -> None:
        self._text, self._types, self._where = text, types, where
        self._tokens = self._split(text)
        self._at = 0

    def _split(self, text: str) -> list[tuple[str, str]]:
        if len(text) > LONGEST:
            self._fail(f"is longer than {LONGEST} characters")
        tokens, at, end = [], 0, len(text.rstrip())
        while at < end:
            token = _TOKEN.match(text, at)
            kind = token.lastgroup if token else None
            if token is None or kind is None:
                return self._fail(f"cannot be read at {text[at : at + 12].strip()!r}")
            tokens.append((kind, str(token.group(kind))))
            at = token.end()
        return tokens

    def _fail(self, why: str) -> Any:
        raise UserError(
            f"the condition {self._text[:80]!r} {why}",
            where=self._where,
            fix="Write e.g.: watch_ratio >= 0.5 and device != 'bot'.",
        )

    def parse(self) -> pl.Expr:
        result = self._or(0)
        if self._at < len(self._tokens):
            self._fail(f"goes on unexpectedly with {self._tokens[self._at][1]!r}")
        return result

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            self._fail("breaks off")
        self._at += 1
        return self._tokens[self._at - 1]

    def _takes(self, *words: str) -> bool:
        there = self._at < len(self._tokens) and self._tokens[self._at][0] in ("word", "sign")
        if there and self._tokens[self._at][1].lower() in words:
            self._at += 1
            return True
        return False

    def _or(self, depth: int) -> pl.Expr:
        result = self._and(depth)
        while self._takes("or"):
            result = result | self._and(depth)
        return result

    def _and(self, depth: int) -> pl.Expr:
        result = self._not(depth)
        while self._takes("and"):
            result = result & self._not(depth)
        return result

    def _not(self, depth: int) -> pl.Expr:
        if depth > DEEPEST:
            self._fail("is nested too deep")
        if self._takes("not"):
            return ~self._not(depth + 1)
        if self._takes("("):
            inside = self._or(depth + 1)
            if not self._takes(")"):
                self._fail("lacks a closing bracket")
            return inside
        return self._comparison()

    def _comparison(self) -> pl.Expr:
        kind, name = self._next()
        if kind not in ("word", "column"):
            self._fail(f"needs a column where {name!r} stands")
        name = name.strip("`")
        if name not in self._types:
            self._fail(f"names {name!r}, which is no column. {nearest(name, self._types)}")
        _, sign = self._next()
        if sign not in _COMPARISONS:
            self._fail(f"needs a comparison where {sign!r} stands")
        value = self._value(name)
        if value is _NULL:
            if sign not in ("==", "=", "!="):
                self._fail("compares null with < or >")
            column = pl.col(name)
            return column.is_not_null() if sign == "!=" else column.is_null()
        return _COMPARISONS[sign](pl.col(name), pl.lit(value))

    def _value(self, column: str) -> Any:
        kind, text = self._next()
        value: Any = float(text) if kind == "number" else text[1:-1]
        if kind == "word" and text.lower() in _WORDS:
            value = _WORDS[text.lower()]
        elif kind not in ("number", "text"):
            self._fail(f"needs a value where {text!r} stands (quote texts)")
        wanted: Any = str if self._types[column] == pl.String else float
        wanted = bool if self._types[column] == pl.Boolean else wanted
        if value is not _NULL and not isinstance(value, wanted):
            names = {str: "text", float: "a number", bool: "true or false"}
            self._fail(f"compares {column} with {text}, but its values are {names[wanted]}")
        return value

"""JSON of strangers: what can be stored and sent on, or a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

#: Levels of nesting, and digits of a whole number: what a file's size and SQLite can be.
DEPTH, DIGITS = 64, 18


def plain_json(data: bytes) -> Any:
    """Read JSON that this server can hold.

    Args:
        data: Bytes whose number the caller has bounded.

    Raises:
        ValueError: if it is not JSON in UTF-8, nested too deeply, or has numbers or letters that
            are none: NaN, 1e999, thousands of digits, lone surrogates.
    """
    try:
        text = data.decode()
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_refuse_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > DEPTH:
        _check_depth(value)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()  # fails for a lone surrogate
    return value


def _whole(digits: str) -> int:
    return int(digits) if len(digits) <= DIGITS else _refuse_number(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_number(digits)


def _refuse_number(digits: str) -> NoReturn:
    raise ValueError(f"not a number that can be stored: {digits[:40]}")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")

"""What an analysis returns: tables of plain numbers, each column explained, and notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: How the values of a column are shown: `share` in percent, `points` (a difference of shares) with
#: its sign, `bits` and `number` with three digits, `count` with none, `p` as a p-value.
Form = Literal["text", "count", "share", "points", "bits", "number", "p"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        name: Its key in each row.
        text: What it means, in a few words.
        form: How it is shown.
        interval: Whether rows also have its 95 % interval, as `<name>_low` and `<name>_high`.
    """

    name: str
    text: str
    form: Form = "text"
    interval: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Its keys in a row."""
        ends = (f"{self.name}_low", f"{self.name}_high") if self.interval else ()
        return (self.name, *ends)


@dataclass(frozen=True)
class Table:
    """A titled table; every row has the keys of every column, None where not known."""

    title: str
    text: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def stored(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        head = [
            {"name": c.name, "text": c.text, "form": c.form, "interval": c.interval}
            for c in self.columns
        ]
        rows = [
            {key: _plain(row.get(key)) for c in self.columns for key in c.keys} for row in self.rows
        ]
        return {"title": self.title, "text": self.text, "columns": head, "rows": rows}


def _plain(value: Any) -> Any:
    """Return a value that JSON has: numpy's numbers as Python's, what is not finite as None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Result:
    """What an analysis says.

    Args:
        tables: By name; each becomes a CSV file.
        notes: What a reader has to know, one sentence each.
        published: Tables of the paper's printed numbers, by name.
        settings: What was asked for.
    """

    tables: Mapping[str, Table]
    notes: Sequence[str] = ()
    published: Mapping[str, Table] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def ends(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """Return the cells of a column with an interval."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}

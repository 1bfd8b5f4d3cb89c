"""Rows of raw files that are left out, counted by reason with the line of the first bad one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from usermirrorer.builders.common.errors import UserError


@dataclass
class Report:
    """Counts bad rows by reason, so that none is dropped in silence.

    With `strict`, the first bad row is an error instead. `skipped` counts rows by `file: reason`,
    `first_line` holds the line of the first of them where it is known. `not_chosen` counts, in the
    same way, sound rows that by a source's rule are no behaviors; they are never an error.
    """

    strict: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, int] = field(default_factory=dict)
    not_chosen: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, rows: int = 1, *, where: object = "", line: int = 0) -> None:
        """Count `rows` skipped rows of the file `where`, the first of them on `line` (0: unknown).

        Raises:
            UserError: with `strict`, if there is any such row.
        """
        if rows <= 0:
            return
        if self.strict:
            raise UserError(
                f"{rows} bad row(s): {reason}",
                where=f"{where}:{line}" if line else where,
                fix="Mend the file, or run without --strict to leave such rows out.",
            )
        key = f"{Path(str(where)).name}: {reason}" if where else reason
        self.skipped[key] += rows
        if line:
            self.first_line.setdefault(key, line)

    def leave_out(self, reason: str, rows: int, *, where: object) -> None:
        """Count sound rows of the file `where` that by a source's rule are no behaviors."""
        if rows > 0:
            self.not_chosen[f"{Path(str(where)).name}: {reason}"] += rows

    def lines(self) -> list[str]:
        """Return one readable line per reason, the most frequent first."""
        first = self.first_line
        return [
            f"{key}: {rows:,} row(s) left out"
            + (f", first on line {first[key]:,}" if key in first else "")
            for key, rows in (self.skipped + self.not_chosen).most_common()
        ]

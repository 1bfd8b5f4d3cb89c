"""The one error type that users see as a single line."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do.

    The command line prints it as one line on stderr and exits with code 1; `--debug` adds the
    traceback.

    Args:
        what: What is wrong, one clause, no trailing full stop.
        where: File, `file:line`, repository or model it concerns.
        fix: What the reader should do next.
    """

    def __init__(self, what: str, *, where: object = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__(str(self))

    def __str__(self) -> str:
        """Return `where: what (fix)` on one line."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return " ".join((f"{head}. {self.fix}" if self.fix else head).split())

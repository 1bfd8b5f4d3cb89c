"""Progress bars of the stages that take more than a few seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich import progress as bars
from rich.console import Console


@contextlib.contextmanager
def bar(text: str, total: int, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar with the time left; yields a function that adds to it."""
    columns = (
        bars.TextColumn("  {task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    shown = bars.Progress(*columns, console=console or Console(stderr=True), transient=True)
    with shown:
        task = shown.add_task(text, total=total)
        yield lambda amount=1, resumed=False: shown.advance(task, amount)

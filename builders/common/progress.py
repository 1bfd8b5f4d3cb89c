"""Progress bars of the stages that take more than a few seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich import progress as bars
from rich.console import Console


@contextlib.contextmanager
def bar(text: str, total: int, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar with the time left; yields a function that adds to it.

    The function takes an amount, whether an earlier run had done it (then it does not count as
    speed), and what to tell beside the bar.
    """
    columns = (
        bars.TextColumn("  {task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[told]}"),
    )
    shown = bars.Progress(
        *columns,
        console=console or Console(stderr=True),
        transient=True,
        speed_estimate_period=600,  # parts may take minutes
    )
    with shown:
        task = shown.add_task(text, total=total, told="")

        def advance(amount: int = 1, resumed: bool = False, told: str = "") -> None:
            if resumed:
                shown.reset(task, completed=int(shown.tasks[0].completed) + amount, total=total)
            else:
                shown.update(task, advance=amount, told=told)

        yield advance

"""Progress of the steps that take more than a few seconds: bars for people, lines for logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress as bars
from rich.console import Console

EVERY = 60  # seconds between the lines of a step in a log
#: Adds to a step: an amount, whether an earlier run had done it, and what to tell beside it.
Advance = Callable[..., None]


@contextlib.contextmanager
def bar(text: str, total: int, console: Console | None = None) -> Iterator[Advance]:
    """Show how far a step has come; yields a function that adds to it.

    On a terminal this is a bar with the time left, gone when the step ends. Anywhere else (a file,
    a pipe) nothing is redrawn: a line a minute says how far it is and the time left, and one with
    the step's time is printed when it has succeeded.

    Args:
        text: What is done, as `embedding items`.
        total: How many units there are.
        console: Where to show it; by default standard error.

    Yields:
        A function that takes an amount, whether an earlier run had done it (then it does not count
        as speed), and what to tell beside the bar.
    """
    shown = console or Console(stderr=True)
    with _drawn(text, total, shown) if shown.is_terminal else _line(text, total, shown) as advance:
        yield advance


@contextlib.contextmanager
def _drawn(text: str, total: int, console: Console) -> Iterator[Advance]:
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
        console=console,
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


@contextlib.contextmanager
def _line(text: str, total: int, console: Console) -> Iterator[Advance]:
    start, done, before, last = time.monotonic(), 0, 0, ""
    said, first = start, (start, 0)  # the first unit may hold the loading of a model

    def advance(amount: int = 1, resumed: bool = False, told: str = "") -> None:
        nonlocal done, before, last, said, first
        done += amount
        before += amount if resumed else 0
        last = told or last
        now = time.monotonic()
        if done == amount or resumed:
            first = (now, done)
        if now - said >= EVERY and first[1] < done < total:
            left = (total - done) * (now - first[0]) / (done - first[1])
            said = now
            console.print(
                f"  {text}: {done:,} of {total:,}, {span(left)} left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    yield advance
    kept = f", {before:,} of them by an earlier run" if before else ""
    line = f"  {text}: {done:,} in {span(time.monotonic() - start)}{kept}"
    whole = f"{line}, {last}" if last else line
    # Never wrapped: a log is read and searched by lines.
    console.print(whole, highlight=False, markup=False, soft_wrap=True)


def span(seconds: float) -> str:
    """Say how long something took: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

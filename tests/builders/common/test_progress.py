"""Progress: a bar on a terminal, one line with its time anywhere else."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from usermirrorer.builders.common import progress


def shown(terminal: bool) -> str:
    """Return what a step of 40 units, 10 of them done before, leaves in a file or a terminal."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=40)
    with progress.bar("embedding items", 40, console) as advance:
        advance(10, resumed=True)
        for _ in range(30):
            advance(told="about 7 texts per second, and more words than a narrow terminal holds")
    return file.getvalue()


def test_a_log_has_one_line_for_a_step():
    said = shown(terminal=False)
    assert re.fullmatch(
        r"  embedding items: 40 in 0\.\d s, 10 of them by an earlier run, about 7 texts .* holds\n",
        said,
    )


def test_a_log_of_a_long_step_says_how_far_it_is_and_the_time_left(monkeypatch):
    clock = iter([0, 900, *range(950, 10_000, 50)])  # the first unit waits for a model
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    with progress.bar("embedding items", 5_000, Console(file=file)) as advance:
        for _ in range(5):
            advance(1_000)
    assert file.getvalue().splitlines() == [
        "  embedding items: 2,000 of 5,000, 2 min 30 s left",
        "  embedding items: 4,000 of 5,000, 50 s left",
        "  embedding items: 5,000 in 19 min 10 s",
    ]


def test_a_terminal_has_a_bar_with_the_time_left_that_goes_away():
    said = shown(terminal=True)
    assert "embedding items" in said and "━" in said and "earlier run" not in said
    assert said.endswith("\x1b[2K")  # the last line is taken away


def test_without_a_terminal_standard_error_has_lines_and_no_bars():
    code = "from usermirrorer.builders.common.progress import bar\n"
    code += "with bar('first', 2) as more:\n    more(2)\n"
    code += "with bar('second [x]', 1) as more:\n    more()\n"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert re.fullmatch(r"  first: 2 in .* s\n  second \[x\]: 1 in .* s\n", ran.stderr)
    assert "\x1b" not in ran.stderr and ran.stdout == ""


def test_a_step_that_fails_is_not_told_as_done():
    file = io.StringIO()
    with (
        pytest.raises(ValueError, match="stop"),
        progress.bar("training", 3, Console(file=file)) as advance,
    ):
        advance()
        raise ValueError("stop")
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7_800, "2 h 10 min"),
    ],
)
def test_times_are_said_in_units_that_suit_them(seconds, text):
    assert progress.span(seconds) == text

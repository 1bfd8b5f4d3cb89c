"""What a simulator's choices took is kept part by part, so that a kill loses none of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from usermirrorer.recipes.interact.pipeline import _clock, _timed


def test_seconds_of_a_killed_run_count_together_with_those_of_the_next(tmp_path: Path) -> None:
    clock, told = tmp_path / "seconds.json", []
    first = _timed(clock, "these", lambda scenes, resumed: told.append((scenes, resumed)))
    time.sleep(0.05)
    first(64, False)  # and here it is killed
    kept = _clock(clock, "these")
    assert (kept["scenes"], kept["seconds"] >= 0.05) == (64, True)
    again = _timed(clock, "these", lambda scenes, resumed: told.append((scenes, resumed)))
    again(64, True)
    time.sleep(0.05)
    again(36, False)
    both = _clock(clock, "these")
    assert both["scenes"] == 100
    assert both["seconds"] - kept["seconds"] == pytest.approx(0.05, abs=0.04)
    assert told == [(64, False), (64, True), (36, False)]


def test_seconds_of_other_questions_do_not_count(tmp_path: Path) -> None:
    clock = tmp_path / "seconds.json"
    _timed(clock, "these", lambda scenes, resumed: None)(64, False)
    assert _clock(clock, "others")["scenes"] == 0

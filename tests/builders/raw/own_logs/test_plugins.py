"""Sources of other distributions: found by entry point; a broken one is told, no more."""

from __future__ import annotations

import os
import subprocess
import sys

MODULE = """\
from usermirrorer.builders.raw.source import Source, Tables

def read(folder, report):
    raise NotImplementedError

SOURCE = Source("club_games", "boardgames", "Board games", "https://example.org", "CC0", True, "",
                {"plays.jsonl": "plays"}, read, templates={"profile": "", "history": "{{ title }}",
                "exposure": "{{ title }}"})
"""


def installed(folder, name, points):
    """Write what an installer leaves: a module and a dist-info with entry points."""
    own = folder / f"{name}-1.0.dist-info"
    own.mkdir(parents=True)
    (own / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (own / "entry_points.txt").write_text(f"[usermirrorer.sources]\n{points}\n")
    (folder / f"{name}.py").write_text(MODULE)


def sources(folder, *arguments):
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "sources", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_distribution_adds_a_source(tmp_path):
    installed(tmp_path, "clubplugin", "games = clubplugin:SOURCE")
    told = sources(tmp_path)
    assert told.returncode == 0 and "warning" not in told.stderr
    row = next(line for line in told.stdout.splitlines() if line.startswith("club_games"))
    assert "CC0" in row and "https://example.org" in row  # one row a line, nothing folded


def test_a_broken_plugin_is_one_line_and_breaks_nothing(tmp_path):
    installed(tmp_path, "gone", "a = gone:NOTHING\nb = nowhere:SOURCE")
    installed(tmp_path, "double", "steam = double:SOURCE\nagain = double:SOURCE")
    told = sources(tmp_path, "steam")
    assert told.returncode == 0 and "Steam" in told.stdout
    lines = told.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("warning: plugin ") for line in lines)

"""The command line: instant help, one-line errors, no half-written output."""

from __future__ import annotations

import subprocess
import sys

import pytest

from usermirrorer.recipes.cli import COMMANDS, app

RUN = [sys.executable, "-m", "usermirrorer.recipes.cli"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words], capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner\n"
        "from usermirrorer.recipes.cli import app\n"
        "out = CliRunner().invoke(app, ['--help']).output\n"
        "heavy = {'torch', 'transformers', 'datasets', 'polars', 'pandas', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), out)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("[]")
    assert all(f"  {name} " in told for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name):
    ctx = app.make_context("usermirrorer", [name], resilient_parsing=True)
    command = app.get_command(ctx, name)
    assert command is not None and command.help


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["scenes", "movielens", "/nowhere", "--out", "x"], "/nowhere"),
        (["scenes", "nothing", "/nowhere", "--out", "x"], "no source is called 'nothing'"),
        (["validate", "/nowhere.parquet"], "is no file, folder or dataset"),
        (["decide", "/no.parquet", "--model", "/no", "--out", "x"], "/no.parquet: does not exist"),
        (["distil", "/no.parquet", "--weak", "w", "--strong", "s", "--out", "x"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_1(words, told):
    ran = run(*words)
    assert ran.returncode == 1
    assert told in ran.stderr and ran.stderr.startswith("error: ")
    assert len(ran.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback():
    assert "Traceback" in run("--debug", "scenes", "movielens", "/nowhere", "--out", "x").stderr


def test_a_misspelt_command_is_named():
    ran = run("quickstrat")
    assert ran.returncode == 2 and "quickstrat" in ran.stderr

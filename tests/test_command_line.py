"""The command line: instant help, one-line errors, no half-written output."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.product import commands
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


#: What prints no rows and no counts: a path, an address, one sentence, or a file's own text.
ONE_LINE = {
    *("eval-results", "eval-tasks", "eval-yaml", "export", "fetch", "report", "serve"),
    *("release build", "release push", "release pull", "release verify", "release collect"),
    *("hub serve", "hub token create", "hub token revoke"),
}


def test_every_command_that_prints_rows_or_counts_prints_them_as_json_too():
    told = {
        name: any("--json" in option.opts for option in command.params)
        for name, command in commands()
    }
    assert {name for name, has in told.items() if not has} == ONE_LINE


@pytest.mark.parametrize("name", [name for name, _ in commands(app)])
def test_every_command_says_what_it_does(name):
    ran = dict(commands(app))[name]
    assert ran.get_short_help_str(200)


@pytest.mark.parametrize(
    "words", [["sources"], ["distil", "--strategies"], ["hub", "token", "list", "--root", "HUB"]]
)
def test_a_piped_table_has_one_row_a_line_however_narrow(words, tmp_path):
    label = "long " * 30
    run("hub", "token", "create", "someone", "--root", str(tmp_path), "--label", label)
    words = [str(tmp_path) if word == "HUB" else word for word in words]
    piped = subprocess.run(
        [*RUN, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    as_json = run(words[0], "--json", *words[1:]) if words[0] != "hub" else run(*words, "--json")
    rows = json.loads(as_json.stdout)
    assert rows and len(piped.stdout.splitlines()) == 1 + len(rows)

"""The README's walk from two CSV files to a served simulator, its own commands, at a small size."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
#: What makes the commands small enough for a test.
SMALLER = {
    "usermirrorer scenes": "--interactions 2000 --train 24 --test 16",
    "python recipes/sft.py": "--max_pairs 4 --train_last_layers 1",
    "usermirrorer serve": "--port 0",
}


def walk() -> tuple[str, list[list[str]], list[str]]:
    """Return the README's code that writes the files, its commands, and what curl sends."""
    section = (CHECKOUT / "README.md").read_text().partition("## Your own logs")[2]
    section = section.partition("\n## ")[0]
    code = re.search(r"python - <<'EOF'\n(.*?)\nEOF\n", section, re.S)
    assert code
    after = section[code.end() :].partition("```")[0].replace("\\\n", " ")
    lines = [line.partition("  #")[0].strip(" &") for line in after.splitlines() if line.strip()]
    commands = [shlex.split(line) for line in lines]
    return code[1], commands[:-1], commands[-1]


def smaller(words: list[str]) -> list[str]:
    start = " ".join(words[:2])
    words = [*words, *SMALLER.get(start, "").split()]
    if words[0] == "usermirrorer":
        return [sys.executable, "-m", "usermirrorer.recipes.cli", *words[1:]]
    return [sys.executable, *words[1:]]


@pytest.mark.slow
def test_the_walk_of_the_readme_ends_in_a_served_simulator(tmp_path):
    code, commands, asked = walk()
    (tmp_path / "recipes").symlink_to(CHECKOUT / "recipes")
    settings = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    told = {"cwd": tmp_path, "env": settings, "text": True}
    subprocess.run([sys.executable, "-"], input=code, check=True, **told)
    *made, served = commands
    assert [words[1] for words in made if words[0] == "usermirrorer"] == [
        *("new", "scenes", "validate")
    ]
    for words in made:
        done = subprocess.run(smaller(words), capture_output=True, check=False, **told)
        assert done.returncode == 0, (words, done.stderr[-2000:])
    with subprocess.Popen(smaller(served), stdout=subprocess.PIPE, **told) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().strip()
            body = asked[asked.index("-d") + 1].encode()
            path = next(word for word in asked if "http://" in word).partition("8765")[2]
            request = urllib.request.Request(
                address + path, body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=300) as reply:
                choice = json.load(reply)
        finally:
            server.terminate()
    (answer,) = choice["choices"]
    assert len(answer["probabilities"]) == len(json.loads(body)["exposure"])

"""Promise: small standard files say what the rest of the project says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: The pattern that PEP 723 gives.
_HEADER = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_a_recipe_says_what_uv_has_to_install_for_it(stage):
    """This version of the package, with the extra for training, for the same Pythons."""
    (block,) = _HEADER.finditer((ROOT / "recipes" / f"{stage}.py").read_text(encoding="utf-8"))
    assert block["type"] == "script"
    lines = block["content"].splitlines()
    header = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    (wanted,) = map(Requirement, header["dependencies"])
    assert (wanted.name, wanted.extras) == (PROJECT["name"], {"train"})
    assert "train" in PROJECT["optional-dependencies"]
    assert str(wanted.specifier) == f"=={PROJECT['version']}"
    assert header["requires-python"] == PROJECT["requires-python"]


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])


def test_pre_commit_checks_with_the_versions_that_ci_has():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    ruff, local = hooks["repos"]
    assert ruff["rev"] == f"v{pinned['ruff']}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    assert [hook["entry"] for hook in local["hooks"]] == [".venv/bin/mypy"]

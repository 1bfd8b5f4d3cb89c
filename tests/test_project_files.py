"""Promise: small standard files say what the rest of the project says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def _pins(file: str) -> dict[str, tuple[str, str]]:
    """Return name -> version and marker of each line that pins one."""
    pins = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith(("#", " ")):
            pinned = Requirement(line.partition("#")[0].rstrip("\\ "))
            (version,) = pinned.specifier
            pins[canonicalize_name(pinned.name)] = (version.version, str(pinned.marker or ""))
    return pins


def _wanted(*extras: str) -> set[str]:
    """Return what the project requires with some of its extras."""
    every = set(PROJECT["dependencies"])
    for extra in extras:
        for words in PROJECT["optional-dependencies"][extra]:
            own = Requirement(words)
            every |= _wanted(*own.extras) if own.name == PROJECT["name"] else {words}
    return every


def test_the_lock_file_is_of_these_requirements_and_constraints():
    locked, tried = _pins("requirements.lock"), _pins("constraints.txt")
    for words in _wanted("all", "dev"):
        wanted = Requirement(words)
        if wanted.name != "torch":  # chosen apart, for the machine
            version, _ = locked[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(version), f"{words}: {version} is locked"
    differ = {name: pin for name, pin in locked.items() if tried.get(name, pin)[0] != pin[0]}
    assert not differ
    untried = {name for name, (_, marker) in locked.items() if name not in tried and not marker}
    assert untried <= {"setuptools"}  # which `pip freeze` does not name


def test_the_lock_file_knows_every_file_by_its_hash_and_no_place_to_get_it_from():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name, (version, _) in _pins("requirements.lock").items():
        block = text.partition(f"\n{name}=={version}")[2].partition(
            "\n",
        )[2]
        assert block.lstrip().startswith("--hash=sha256:"), name
    assert "://" not in text and "@" not in text

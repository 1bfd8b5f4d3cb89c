"""lm_eval finds the tasks without --include_path because they are files of this distribution."""

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = "lm_eval/tasks/usermirror"


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_every_task_file_is_installed_beside_lm_evals_own(tmp_path, kind):
    """Both kinds of install put the files into site-packages and record them for uninstalling."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    (copy / "README.md").touch()
    build = (
        f"from setuptools import build_meta as b; "
        f"b.build_{kind}({str(tmp_path)!r})"
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, env={**os.environ})
    ours = {p.name for p in (ROOT / "eval_harness" / "tasks").iterdir() if p.is_file()}
    assert {p.name for p in (target / FOLDER).iterdir()} == ours
    record = next(target.glob("usermirrorer-*.dist-info/RECORD")).read_text()
    assert all(f"{FOLDER}/{name}," in record for name in ours)
    with zipfile.ZipFile(wheel) as archive:
        assert not any(n.startswith(("hub/", "builders/")) for n in archive.namelist())


def test_python_named_by_the_task_files_can_be_imported():
    for file in (ROOT / "eval_harness" / "tasks").glob("_*_yaml"):
        for line in file.read_text().splitlines():
            if "!function" in line:
                module, _, name = line.split("!function ")[1].rpartition(".")
                assert hasattr(importlib.import_module(module), name)

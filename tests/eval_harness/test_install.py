"""lm_eval finds the tasks without --include_path because they are files of this distribution."""

import importlib
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import lm_eval
import pytest

from .test_task import SOURCES

ROOT = Path(__file__).parents[2]
FOLDER = "lm_eval/tasks/usermirror"
FAMILY = {f"usermirror_{source}" for source in SOURCES}
DIRECT = {f"usermirror-direct_{source}" for source in SOURCES}


@pytest.fixture(params=["wheel", "editable"])
def wheel(request, tmp_path):
    """The distribution of a copy of the checkout, built as pip builds it."""
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
    code = f"from setuptools import build_meta as b; b.build_{request.param}({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return next(tmp_path.glob("*.whl"))


def test_every_task_file_is_installed_beside_lm_evals_own(wheel, tmp_path):
    """Both kinds of install put the files into site-packages and record them for uninstalling."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    ours = {p.name for p in (ROOT / "eval_harness" / "tasks").iterdir() if p.is_file()}
    assert {p.name for p in (target / FOLDER).iterdir()} == ours
    record = next(target.glob("usermirrorer-*.dist-info/RECORD")).read_text()
    assert all(f"{FOLDER}/{name}," in record for name in ours)
    with zipfile.ZipFile(wheel) as archive:
        assert not any(n.startswith(("hub/", "builders/")) for n in archive.namelist())


@pytest.mark.slow
def test_lm_eval_lists_and_validates_the_tasks_until_they_are_uninstalled(wheel, tmp_path):
    """In an environment of its own: install, `lm_eval ls`, `lm_eval validate`, uninstall."""
    site = environment(tmp_path / "env")
    before = files(site)
    pip("install", "--no-deps", "--no-index", str(wheel), env=tmp_path / "env")
    assert listed(tmp_path / "env") == FAMILY | DIRECT
    validated = lm_eval_command(
        tmp_path / "env", "validate", "--tasks", "usermirror,usermirror_mind"
    )
    assert "All tasks found and valid" in validated
    pip("uninstall", "--yes", "usermirrorer", env=tmp_path / "env")
    assert files(site) == before
    assert not (site / FOLDER).exists()
    folder = ROOT / "eval_harness" / "tasks"
    assert listed(tmp_path / "env", "--include_path", str(folder)) == FAMILY | DIRECT


def environment(folder: Path) -> Path:
    """Make an environment with an lm_eval of its own that has no other tasks (it lists faster)."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    original = Path(lm_eval.__file__).parent
    shutil.copytree(original, site / "lm_eval", ignore=_other_tasks)
    return site


def _other_tasks(folder: str, names: list[str]) -> list[str]:
    inside = Path(folder)
    tasks = inside.name == "tasks" and inside.parent.name == "lm_eval"
    return [n for n in names if n == "__pycache__" or (tasks and (inside / n).is_dir())]


def files(site: Path) -> set[str]:
    return {
        p.relative_to(site).as_posix()
        for p in site.rglob("*")
        if p.is_file() and p.suffix != ".pyc"
    }


def pip(*words: str, env: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(env / "bin" / "python"), "--quiet"]
    subprocess.run([*command, *words], check=True, capture_output=True, text=True)


def lm_eval_command(env: Path, *words: str) -> str:
    """Run its lm_eval; the packages that this needs are borrowed while it runs."""
    (site,) = env.glob("lib/python*/site-packages")
    borrowed = site / "borrowed.pth"
    borrowed.write_text(str(Path(lm_eval.__file__).parents[1]))
    try:
        command = [str(env / "bin" / "python"), "-m", "lm_eval", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    finally:
        borrowed.unlink()


def listed(env: Path, *words: str) -> set[str]:
    """Names of our tasks in the table that `lm_eval ls subtasks` prints."""
    rows = lm_eval_command(env, "ls", "subtasks", *words).splitlines()
    names = {row.split("|")[1].strip() for row in rows if row.count("|") > 1}
    return {name for name in names if name.startswith("usermirror")}


def test_python_named_by_the_task_files_can_be_imported():
    for file in (ROOT / "eval_harness" / "tasks").glob("_*_yaml"):
        for line in file.read_text().splitlines():
            if "!function" in line:
                module, _, name = line.split("!function ")[1].rpartition(".")
                assert hasattr(importlib.import_module(module), name)

"""Wheel, sdist and editable install are whole, and lm_eval finds the tasks of each.

It does so without --include_path because they are files of this distribution.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import lm_eval
import pytest

from tests.product import FOLDERS

from .test_task import SOURCES

ROOT = Path(__file__).parents[2]
FOLDER = "lm_eval/tasks/usermirror"
FAMILY = {f"usermirror_{source}" for source in SOURCES}
DIRECT = {f"usermirror-direct_{source}" for source in SOURCES}
TASKS = {path.stem for path in (ROOT / "eval_harness" / "tasks").glob("usermirror*_*.yaml")}


@pytest.fixture
def checkout(tmp_path):
    """A copy of what git has, or would have, of the product: no build output, no tests."""
    copy = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).exists() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def build(kind: str, checkout: Path, folder: Path) -> Path:
    """Build a `wheel`, `editable` or `sdist` as pip does; return the file."""
    code = f"from setuptools import build_meta as b; print(b.build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True, text=True
    )
    return folder / done.stdout.splitlines()[-1]


def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(params=["wheel", "editable", "sdist"])
def wheel(request, checkout, tmp_path):
    """The distribution of a checkout: a wheel, an editable one, or a wheel by way of an sdist."""
    if request.param != "sdist":
        return build(request.param, checkout, tmp_path)
    source = unpacked(build("sdist", checkout, tmp_path), tmp_path / "source")
    return build("wheel", source, tmp_path)


def test_every_task_file_is_installed_beside_lm_evals_own(wheel, tmp_path):
    """Every kind of install puts the files into site-packages, recorded for uninstalling."""
    target = tmp_path / "site"
    install(wheel, target)
    ours = {p.name for p in (ROOT / "eval_harness" / "tasks").iterdir() if p.is_file()}
    assert {p.name for p in (target / FOLDER).iterdir()} == ours
    record = next(target.glob("usermirrorer-*.dist-info/RECORD")).read_text()
    assert all(f"{FOLDER}/{name}," in record for name in ours)
    with zipfile.ZipFile(wheel) as archive:
        assert not any(n.startswith(("hub/", "builders/", "src/")) for n in archive.namelist())


def test_a_wheel_holds_everything_that_the_packages_read(checkout, tmp_path):
    """Code, templates, pages, configurations and `py.typed`.

    Slurm's scripts stay behind, and results that README links to.
    """
    with zipfile.ZipFile(build("wheel", checkout, tmp_path)) as archive:
        packed = set(archive.namelist())
    package = checkout / "src" / "usermirrorer"
    tracked = {
        f"usermirrorer/{path.relative_to(checkout).as_posix()}"
        for folder in FOLDERS
        for path in (checkout / folder).rglob("*")
        if path.is_file() and path.suffix not in (".sh", ".slurm") and "results" not in path.parts
    }
    assert not any("/results/" in name for name in packed)
    tasks = {name for name in tracked if name.endswith("_yaml")}  # installed for lm_eval alone
    assert len(tracked) > 250 and tracked - tasks <= packed
    assert {f"usermirrorer/{path.name}" for path in package.glob("*.*")} <= packed
    assert "usermirrorer/py.typed" in packed


def test_an_sdist_gives_the_wheel_that_the_checkout_gives(checkout, tmp_path):
    (tmp_path / "direct").mkdir()
    direct = build("wheel", checkout, tmp_path / "direct")
    source = unpacked(build("sdist", checkout, tmp_path), tmp_path / "source")
    assert contents(build("wheel", source, tmp_path)) == contents(direct)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if "RECORD" not in name}


def test_an_installed_wheel_runs_without_its_checkout(checkout, tmp_path):
    target = tmp_path / "site"
    install(build("wheel", checkout, tmp_path), target)
    shutil.rmtree(checkout)
    code = (
        "import usermirrorer as u\n"
        "from usermirrorer.builders.decisions.prompts import messages\n"
        "from usermirrorer.model_cards import model_card\n"
        "s = dict(profile='Age 30.', history=['Alien'], exposure=['Heat', 'Dune'])\n"
        "print(u.__file__, 'Alien' in messages(s, 'decision')[1]['content'])"
    )
    environment = os.environ | {"PYTHONPATH": str(target)}
    ran = [sys.executable, "-c", code], [sys.executable, "-m", "usermirrorer.recipes.cli", "-h"]
    outputs = [
        subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for command in ran
    ]
    assert outputs[0].split() == [str(target / "usermirrorer" / "__init__.py"), "True"]
    assert "quickstart" in outputs[1]


def test_an_editable_install_runs_the_checkouts_own_files(checkout, tmp_path):
    """Changed code counts at once, and a new file is there without installing again."""
    venv.create(tmp_path / "env")
    pip("install", "--no-deps", "--no-index", str(build("editable", checkout, tmp_path)),
        env=tmp_path / "env")  # fmt: skip
    (checkout / "hub" / "new.py").write_text("print('new')\n")
    (checkout / "builders" / "common" / "text.py").write_text("print('changed')\n")
    code = "import usermirrorer.hub.new, usermirrorer.builders.common.text"
    done = subprocess.run(
        [str(tmp_path / "env" / "bin" / "python"), "-W", "ignore", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["new", "changed"]


@pytest.mark.slow  # two processes that import all of training
@pytest.mark.parametrize("how", [["recipes/dpo.py"], ["-m", "usermirrorer.recipes.dpo"]])
def test_accelerate_launches_a_recipe_from_a_checkout(how):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = subprocess.run(
        [*command, *how, "--model_name_or_path", "m", "--trust_remote_code", "--bf16", "false"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "error: --trust_remote_code: code from model repositories is never run" in done.stderr


def install(wheel: Path, target: Path) -> None:
    """Install the files of a wheel into a folder of its own."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)


@pytest.mark.slow
def test_lm_eval_lists_and_validates_the_tasks_until_they_are_uninstalled(wheel, tmp_path):
    """In an environment of its own: install, `lm_eval ls`, `lm_eval validate`, uninstall."""
    site = environment(tmp_path / "env")
    before = files(site)
    pip("install", "--no-deps", "--no-index", str(wheel), env=tmp_path / "env")
    assert listed(tmp_path / "env") == TASKS >= FAMILY | DIRECT
    validated = lm_eval_command(
        tmp_path / "env", "validate", "--tasks", "usermirror,usermirror_mind"
    )
    assert "All tasks found and valid" in validated
    pip("uninstall", "--yes", "usermirrorer", env=tmp_path / "env")
    assert files(site) == before
    assert not (site / FOLDER).exists()
    folder = ROOT / "eval_harness" / "tasks"
    assert listed(tmp_path / "env", "--include_path", str(folder)) == TASKS


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

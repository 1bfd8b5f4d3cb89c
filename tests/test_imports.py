"""Who may import whom: the table in CONTRIBUTING.md is the law, and no two modules need each other.

Imports inside functions and under `if TYPE_CHECKING` count like all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter

from tests.product import FOLDERS, ROOT, modules

_OURS = "usermirrorer."
_ROW = re.compile(r"^\| `([a-z_.]+)` \|[^|]+\| ([^|]+) \|$", re.MULTILINE)


def imported(tree: ast.AST, known: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield each module of the product that a syntax tree imports, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix(_OURS) in known else str(node.module) for n in names]
        else:
            continue
        yield from ((n.removeprefix(_OURS), node.lineno) for n in names if n.startswith(_OURS))


def graph() -> dict[str, dict[str, int]]:
    """Return module -> imported module -> line, over the whole product."""
    known = modules()
    return {
        name: {n: line for n, line in imported(tree, known) if n != name}
        for name, (_, tree) in known.items()
    }


def room(module: str) -> str:
    """Return the room of a module: a package inside `builders`, else a folder of the top level."""
    first, _, rest = module.partition(".")
    inner = f"{first}.{rest.partition('.')[0]}"
    inside = first == "builders" and rest and (ROOT / inner.replace(".", "/")).is_dir()
    return inner if inside else first


def table() -> dict[str, list[str]]:
    """Return room -> patterns of the rooms that it may import, as CONTRIBUTING.md lists them."""
    rows = _ROW.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return {name: re.findall(r"`([a-z_.*]+)`", allowed) for name, allowed in rows}


def arrows(edges: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], str]:
    """Return (room, imported room) -> one place where that happens."""
    return {
        (room(name), room(other)): f"{name.replace('.', '/')}.py:{line} imports {other}"
        for name, others in edges.items()
        for other, line in others.items()
        if room(name) != room(other)
    }


def test_every_import_of_the_product_names_a_module_that_is_there():
    known = modules()
    missing = [
        f"{name}:{line} imports {other}"
        for name, others in graph().items()
        for other, line in others.items()
        if other not in known
    ]
    assert not missing


def test_rooms_import_only_what_the_table_in_contributing_lists():
    allowed = table()
    unlisted = [
        place
        for (source, target), place in arrows(graph()).items()
        if not any(fnmatchcase(target, pattern) for pattern in allowed.get(source, ()))
    ]
    assert not unlisted, "not in the table of CONTRIBUTING.md: " + "; ".join(unlisted)


def test_the_table_lists_every_room_and_no_arrow_that_nothing_uses():
    used, allowed = set(arrows(graph())), table()
    assert set(allowed) == {room(name) for name in modules()}
    unused = [
        (source, pattern)
        for source, patterns in allowed.items()
        for pattern in patterns
        if not any(source == s and fnmatchcase(target, pattern) for s, target in used)
    ]
    assert not unused


def test_no_arrow_leads_upwards():
    """The table stands from the ground up: a room may import the rooms of earlier rows only."""
    floors = list(table())
    for source, target in arrows(graph()):
        assert floors.index(target) < floors.index(source), f"{source} imports {target}"


def test_no_two_modules_need_each_other():
    order = TopologicalSorter({name: set(others) for name, others in graph().items()})
    try:
        order.prepare()
    except CycleError as error:
        raise AssertionError("a circle of imports: " + " <- ".join(error.args[1])) from None


def test_the_folders_are_the_subpackages_in_a_plain_checkout():
    """Editors and type checkers follow `usermirrorer.X` by tracked links; nothing is generated."""
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--stage", "src"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    links = {line.split("\t")[1] for line in tracked.splitlines() if line.startswith("120000")}
    assert links == {f"src/usermirrorer/{folder}" for folder in FOLDERS}
    assert "\tsrc/usermirrorer/py.typed\n" in tracked
    for folder in FOLDERS:
        assert (ROOT / "src/usermirrorer" / folder).resolve() == ROOT / folder
    code = "import usermirrorer.recipes as r; print(r.__file__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=ROOT / "src", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.strip() == str(ROOT / "src/usermirrorer/recipes/__init__.py")

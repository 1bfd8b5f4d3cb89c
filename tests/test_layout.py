"""The code can be read: no long functions, and each package says what is in it."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase

from tests.product import modules

LONGEST = 50


def test_no_function_is_longer_than_fifty_lines():
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    long = [
        f"{path.name}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path, tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, functions) and node.end_lineno - node.lineno >= LONGEST
    ]
    assert not long


def test_a_package_names_its_modules_and_none_that_is_gone():
    """Contributors read a folder from its `__init__.py`: what it lists has to be there, and all."""
    for path, tree in modules().values():
        if path.name != "__init__.py" or not (text := ast.get_docstring(tree)):
            continue
        inside = {file.name for file in path.parent.glob("[a-z]*.py")}
        deeper = {file.name for file in path.parent.rglob("*.py")}
        listed = set(re.findall(r"(?<![/\w])[a-z][a-z_*]*\.py\b", text))
        if not listed:  # a folder in which the code looks for its modules, such as the sources
            continue
        gone = {name for name in listed if not any(fnmatchcase(i, name) for i in deeper)}
        assert not gone, f"{path.parent.name} lists {sorted(gone)}"
        left_out = {name for name in inside if not any(fnmatchcase(name, i) for i in listed)}
        assert not left_out, f"{path.parent.name} leaves out {sorted(left_out)}"

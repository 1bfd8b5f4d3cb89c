"""The product's own source files and commands, for the tests that read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from usermirrorer.recipes.cli import app

ROOT = Path(__file__).parents[1]
FOLDERS = ("builders", "eval_harness", "model_cards", "hub", "recipes")


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Return name without `usermirrorer.` -> file and syntax tree, of every module of the product.

    A package has the name of its folder.
    """
    parsed = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            parsed[name] = (path, ast.parse(path.read_text(encoding="utf-8")))
    return parsed


def commands(group: click.Command = app, *words: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command of the command line with its words, those of groups by both."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            inside = group.get_command(context, name)
            assert inside is not None
            yield from commands(inside, *words, name)
    else:
        yield " ".join(words), group

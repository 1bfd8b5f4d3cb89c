"""Pages of the site: the READMEs as they stand, and one page of docstrings for each package."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "usermirrorer"
#: File of the repository -> page, in the order of the menu.
READMES = {
    "README.md": "index.md",
    "eval_harness/tasks/README.md": "tasks.md",
    "recipes/README.md": "recipes.md",
    "hub/README.md": "hub.md",
    "CONTRIBUTING.md": "contributing.md",
}
TITLES = {
    "index.md": "Start",
    "tasks.md": "Scoring",
    "recipes.md": "Training",
    "hub.md": "Releases and the Hub",
    "contributing.md": "Contributing",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
#: Drawing them would ask another host for a script.
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```\n", re.M | re.S)


def on_config(config: Any) -> Any:
    """Write the menu."""
    packages = [{name: page} for name, page, _ in references()]
    config.nav = [{TITLES[page]: page} for page in READMES.values()] + [{"Reference": packages}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, page in READMES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=readable(text, source)))
    for name, page, modules in references():
        parts = [f"# {name}", overview(name), *(f"::: usermirrorer.{name}.{m}" for m in modules)]
        files.append(File.generated(config, page, content="\n\n".join(parts)))
    return files


def overview(name: str) -> str:
    """Return the docstring of a package; its list of modules, in columns, stays one."""
    path = PACKAGE.joinpath(*name.split("."), "__init__.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    blocks = re.split(r"\n\n+", text)
    listed = [bool(re.search(r"^ *\S+(, \S+)*  +\S", block, re.M)) for block in blocks]
    return "\n\n".join(
        f"```text\n{block}\n```" if columns else block
        for block, columns in zip(blocks, listed, strict=True)
    )


def readable(text: str, source: str) -> str:
    """Return a README whose links lead to pages; links to files that are none become text."""

    def link(match: re.Match[str]) -> str:
        target, _, part = match[2].partition("#")
        if not target or "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = READMES.get(path)
        return f"[{match[1]}]({page}{'#' + part if part else ''})" if page else match[1]

    return _LINK.sub(link, _DIAGRAM.sub("", text))


def references() -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, page and modules of each package."""
    # Packages are reached by links, which `rglob` does not follow.
    for room in sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()):
        for folder in sorted({path.parent for path in room.resolve().rglob("*.py")}):
            inside = folder.relative_to(room.resolve()).parts
            if not (folder / "__init__.py").is_file() or any("-" in part for part in inside):
                continue
            name = ".".join((room.name, *inside))
            modules = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
            yield name, f"reference/{name}.md", modules

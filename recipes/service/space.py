"""The page as a static Space: files that any web server can show, asking a service elsewhere."""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import atomic
from usermirrorer.recipes.service.pages import EXAMPLE, FOLDER, PARTS, policy_of_space

_HEADER = """---
title: {title}
emoji: 🪞
colorFrom: blue
colorTo: indigo
sdk: static
app_file: index.html
pinned: false
license: apache-2.0
---

# {title}

"""
_ABOUT = """What would this person choose? The page asks a service of a simulator, started by
`usermirrorer serve --model MODEL --allow-origin ADDRESS-OF-THIS-PAGE`. Give the page its address,
and its token if it wants one. What is typed goes nowhere else, and nothing is stored.
"""


def card_of_space(title: str, about: str) -> str:
    """Return the card of a static Space.

    Args:
        title: Without signs that mean something in YAML.
        about: What follows its heading.
    """
    return _HEADER.format(title=title) + about


def export_space(folder: Path, *, endpoint: str = "", title: str = "User simulator") -> Path:
    """Write a static Space into a folder, which must be new or empty.

    Args:
        folder: To make.
        endpoint: Address of the service that the page asks at first.
        title: Of the Space.

    Raises:
        UserError: if the folder holds something, or the address is none.
    """
    if endpoint and urlsplit(endpoint).scheme not in ("http", "https"):
        raise UserError(f"{endpoint!r} is no address", where="--endpoint")
    if any(c in title for c in "\n\r:#{}[]\"'"):
        raise UserError("has signs that a card's header cannot hold", where="--title")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError("is not empty", where=folder, fix="Name a new folder.")
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    guard = html.escape(policy_of_space(), quote=True)
    head = f'<meta http-equiv="Content-Security-Policy" content="{guard}">'
    page = page.replace("<head>", f"<head>\n  {head}", 1).replace("/page/", "page/")
    page = page.replace(
        'name="endpoint" content=""', f'name="endpoint" content="{html.escape(endpoint)}"'
    ).replace('data-where="service"', 'data-where="space"')
    with atomic(folder) as temporary:
        (temporary / "page").mkdir(parents=True)
        (temporary / "index.html").write_text(page, encoding="utf-8")
        (temporary / "README.md").write_text(card_of_space(title, _ABOUT), encoding="utf-8")
        for name in PARTS:
            shutil.copyfile(FOLDER / name, temporary / "page" / name)
        shutil.copyfile(EXAMPLE, temporary / "page" / "example.json")
    return folder

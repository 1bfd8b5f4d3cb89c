"""The corpus of hostile inputs: JSON files beside this one, that say what repeats."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest


def entries(name: str) -> list[Any]:
    """Return the entries of a corpus as parameters of a test, each under its own name."""
    rows = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    return [pytest.param(row, id=row["name"]) for row in rows]


def text_of(row: dict[str, Any]) -> str:
    """Return the text of an entry: `text`, or `head`, `repeat` so many `times`, `tail`."""
    if "text" in row:
        return str(row["text"])
    return str(row.get("head", "") + row["repeat"] * row["times"] + row.get("tail", ""))


def commit(client: httpx.Client, repo: str, files: dict[str, str]) -> httpx.Response:
    """Commit small files to a repository named as in addresses of the API."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "x"}}]
    for path, text in files.items():
        content = base64.b64encode(text.encode()).decode()
        value = {"path": path, "content": content, "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    return client.post(f"/api/{repo}/commit/main", content="\n".join(map(json.dumps, lines)))

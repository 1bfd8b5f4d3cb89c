"""The corpus of hostile inputs: JSON files beside this one, that say what repeats."""

from __future__ import annotations

import base64
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hub.attacks.world import (
    COLLECTIONS,
    ORGANISATION,
    REPOSITORIES,
    World,
    large_file,
    make,
    make_collection,
    sha256_of,
)


def rows(name: str) -> list[dict[str, Any]]:
    """Return the entries of a file of the corpus."""
    text = (Path(__file__).parent / f"{name}.json").read_text()
    return list(json.loads(text))


def entries(name: str) -> list[Any]:
    """Return the entries of a corpus as parameters of a test, each under its own name."""
    return [pytest.param(row, id=row["name"]) for row in rows(name)]


def text_of(row: dict[str, Any]) -> str:
    """Return the text of an entry: `text`, or `head`, `repeat` so many `times`, `tail`."""
    if "text" in row:
        return str(row["text"])
    return str(row.get("head", "") + row["repeat"] * row["times"] + row.get("tail", ""))


#: What reads JSON: one address of each kind.
JSON_ADDRESSES = (
    *("/api/repos/create", "/api/repos/move", "/api/validate-yaml", "/api/collections"),
    *(f"/api/datasets/lab/open/{end}/main" for end in ("paths-info", "preupload", "tag", "commit")),
    *("/api/datasets/lab/open/branch/new", "/datasets/lab/open.git/info/lfs/objects/batch"),
    "/datasets/lab/open.git/info/lfs/objects/verify",
)


def odd() -> dict[str, list[Any]]:
    """Return what is odd in addresses, queries, headers and JSON, by where it is put."""
    lists = json.loads((Path(__file__).parent / "odd.json").read_text())
    return {
        name: [text_of(v) if isinstance(v, dict) and "repeat" in v else v for v in values]
        for name, values in lists.items()
    }


def commit(client: httpx.Client, repo: str, files: dict[str, str]) -> httpx.Response:
    """Commit small files to a repository named as in addresses of the API."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "x"}}]
    for path, text in files.items():
        content = base64.b64encode(text.encode()).decode()
        value = {"path": path, "content": content, "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    return client.post(f"/api/{repo}/commit/main", content="\n".join(map(json.dumps, lines)))


@dataclass(frozen=True)
class Call:
    """A row of `calls.json`: a route, the right that it asks for, and an example of its use."""

    call: str
    right: str
    of: str = "repository"
    body: Any = None
    lines: tuple[Any, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    status: tuple[int, ...] = (200,)

    def __str__(self) -> str:
        return " ".join([self.call, self.right, *self.parameters.values()])

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.right in ("write", "namespace")

    @property
    def lists(self) -> bool:
        """Whether it shows what there is."""
        return self.call in (
            *("GET /", "GET /api/{kinds}", "GET /api/collections"),
            "GET /api/settings/repositories",
        )

    def targets(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what can be asked for by this row: names, and what is special about each."""
        if self.right in ("none", "everybody", "signed in", "namespace"):
            return [("open", {})]
        return list((COLLECTIONS if self.of == "collection" else REPOSITORIES).items())

    @property
    def kind(self) -> str:
        """What kind of repository its example is about."""
        return "dataset" if "{kinds}" in self.call or "api/" in self.call else "model"

    def values(self, world: World, name: str) -> dict[str, str]:
        """Return what stands for the names in braces, for the organisation's thing of this name."""
        values = {"kinds": "datasets", "kind": self.kind, "namespace": ORGANISATION, "name": name}
        values |= {"revision": "main", "right": "read", "repo_id": "1", "day": "1"}
        values |= {"prefix": "default", "xorb": "f" * 64, "oid": sha256_of(self.kind, name)}
        values |= {"path": "README.md", "branch": "made", "reference": "made"}
        values |= world.collections.get(name, {"slug": f"no-{9:024x}", "item": f"{9:024x}"})
        return values | self.parameters

    def content(self, world: World, name: str) -> str | None:
        """Return the body of the example."""
        if self.body is None and not self.lines:
            return None
        values = self.values(world, name)
        text = "\n".join(map(json.dumps, self.lines or (self.body,)))
        text = re.sub(r'"\{size\}"', str(len(large_file(self.kind, name))), text)
        return re.sub(r"\{(namespace|name|kind|oid)\}", lambda match: values[match[1]], text)

    def send(self, client: httpx.Client, world: World, name: str) -> httpx.Response:
        """Send the example, for the organisation's thing of this name."""
        method, path = self.call.split(" ")
        values, content = self.values(world, name), self.content(world, name)
        address = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], path)
        headers = {"Content-Type": "application/json"} if content else {}
        return client.request(method, address, content=content, headers=headers)

    def disposable(self, client: httpx.Client, world: World) -> str:
        """Make something new of the organisation's on which the example can be played."""
        if self.right == "namespace":
            return "open"
        name = f"once-{next(_numbers)}"
        if self.of == "collection":
            make_collection(client, world, name, {})
        else:
            make(client, self.kind, name, {})
        return name


_numbers = itertools.count()


def calls() -> list[Call]:
    """Return the rows of `calls.json`."""
    made = []
    for row in rows("calls"):
        parameters = {str(key): str(value) for key, value in row.pop("with", {}).items()}
        more = {key: tuple(row.pop(key)) for key in ("lines", "status") if key in row}
        made.append(Call(**row, **more, parameters=parameters))
    return made

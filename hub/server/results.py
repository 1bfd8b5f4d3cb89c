"""Evaluation results that model repositories carry, and the leaderboards made of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pygit2
from fastapi import APIRouter, Request

from usermirrorer.hub.server import access, cards, derived, history, trees
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.foreign_yaml import plain_yaml
from usermirrorer.hub.server.routing import kind_of, open_repo
from usermirrorer.hub.server.store import Repo

router = APIRouter()
_FOLDER = ".eval_results"
#: Bytes of all files read, and of one entry as JSON; entries of a repository.
_BYTES, _ENTRY, _ENTRIES = 1 << 20, 4 << 10, 2000


def remember(repo: pygit2.Repository, revision: str = "main") -> None:
    """Read what listings, leaderboards and pages need of a branch, so that they find it read."""
    with contextlib.suppress(OSError, ValueError, KeyError, pygit2.GitError):  # read again later
        if (commit := history.resolve(repo, revision)) is not None:
            cards.listed_card(repo, commit)
            read(repo, commit)


def read(repo: pygit2.Repository, commit: pygit2.Commit) -> list[dict[str, Any]]:
    """Return the entries of `.eval_results/*.yaml`: `filename` and `data`, or `error` if broken."""
    folder = history.entry(repo, commit, _FOLDER)
    if folder is None or not folder.is_folder:
        return []
    results: list[dict[str, Any]] = derived.record(
        Path(repo.path).parent, "results", folder.oid, lambda: list(_read(repo, commit))
    )
    return results


def _read(repo: pygit2.Repository, commit: pygit2.Commit) -> Iterator[dict[str, Any]]:
    left, entries = _BYTES, _ENTRIES
    for file in trees.walk(repo, commit, _FOLDER, recursive=False):
        if file.is_folder or file.lfs or not file.path.endswith((".yaml", ".yml")):
            continue
        left -= max(file.size, 256)  # small files cost as well
        if left < 0 or entries <= 0:
            yield {"filename": file.path, "error": f"results are more than {_BYTES} bytes"}
            return
        try:
            rows = _entries(history.content(repo, file))[:entries]
        except ValueError as error:
            yield {"filename": file.path, "error": str(error)}
            continue
        entries -= len(rows)
        yield from ({"filename": file.path, "data": row} for row in rows)


def _entries(data: bytes) -> list[dict[str, Any]]:
    rows = plain_yaml(data)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not a list of entries")
    for row in rows:
        dataset, value = row.get("dataset"), row.get("value")
        named = isinstance(dataset, dict) and {"id", "task_id"} <= dataset.keys()
        if not named or isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("an entry needs dataset.id, dataset.task_id and a value")
        if len(json.dumps(row)) > _ENTRY:
            raise ValueError(f"an entry is at most {_ENTRY} bytes")
    return rows


def leaderboard(request: Request, dataset: Repo) -> list[dict[str, Any]]:
    """Return the results of all models that the visitor may see, best first in each task."""
    rows = [
        {**_row(model, data), "filename": filename}
        for model, filename, data in _visible(request)
        if _dataset_of(data) == dataset.full_name.lower()
    ]
    rows.sort(key=lambda row: (row["taskId"], -row["value"], row["modelId"]))
    ranks: dict[str, int] = {}
    for row in rows:
        row["rank"] = ranks[row["taskId"]] = ranks.get(row["taskId"], 0) + 1
    return rows


def datasets_with_results(request: Request) -> set[str]:
    """Return the names, in small letters, of the datasets on which visible models have results."""
    return {_dataset_of(data) for _, _, data in _visible(request)}


def _visible(request: Request) -> Iterator[tuple[Repo, str, dict[str, Any]]]:
    """Yield (model, file, entry) of all results that the visitor may see."""
    user = access.visitor(request)
    mine = user.name.lower() if user else ""
    for model in access.store_of(request).repos("kind = 'model'"):
        if model.private and model.namespace.lower() != mine:
            continue
        try:
            repo = open_repo(request, model)
            commit = history.resolve(repo, "main")
            results = read(repo, commit) if commit is not None else []
        except (access.HubError, KeyError, pygit2.GitError):  # damaged: `hub check` names it
            continue
        for result in results:
            if "data" in result:
                yield model, result["filename"], result["data"]


def _dataset_of(data: dict[str, Any]) -> str:
    return str(data["dataset"]["id"]).lower()


def _row(model: Repo, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "modelId": model.full_name,
        "taskId": str(data["dataset"]["task_id"]),
        "value": data["value"],
        "verified": False,
        "source": data.get("source"),
        "notes": data.get("notes"),
        "author": {"type": "user", "name": model.namespace, "fullname": model.namespace},
    }


@router.get(REPO + "/leaderboard")
def get(request: Request, kinds: str, namespace: str, name: str) -> list[dict[str, Any]]:
    """List the results of models on a benchmark dataset."""
    return leaderboard(request, access.readable(request, kind_of(kinds), namespace, name))

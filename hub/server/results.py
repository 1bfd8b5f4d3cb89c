"""Evaluation results that model repositories carry, and the leaderboards made of them."""

from __future__ import annotations

from typing import Any

import pygit2
from fastapi import APIRouter, Request

from usermirrorer.hub.server import access, history
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.cards import plain_yaml
from usermirrorer.hub.server.routing import commit_of, kind_of, open_repo
from usermirrorer.hub.server.store import Repo

router = APIRouter()
_FOLDER, _LIMIT = ".eval_results", 1 << 20


def read(repo: pygit2.Repository, commit: pygit2.Commit) -> list[dict[str, Any]]:
    """Return the entries of `.eval_results/*.yaml`: `filename` and `data`, or `error` if broken."""
    folder = history.entry(repo, commit, _FOLDER)
    if folder is None or not folder.is_folder:
        return []
    results: list[dict[str, Any]] = []
    for file in history.walk(repo, commit, _FOLDER, recursive=False):
        if file.path.endswith((".yaml", ".yml")) and not file.lfs and file.size <= _LIMIT:
            try:
                rows = _entries(history.content(repo, file))
                results += [{"filename": file.path, "data": row} for row in rows]
            except ValueError as error:
                results.append({"filename": file.path, "error": str(error)})
    return results


def _entries(data: bytes) -> list[dict[str, Any]]:
    rows = plain_yaml(data)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not a list of entries")
    for row in rows:
        dataset = row.get("dataset")
        named = isinstance(dataset, dict) and {"id", "task_id"} <= dataset.keys()
        if not named or not isinstance(row.get("value"), int | float):
            raise ValueError("an entry needs dataset.id, dataset.task_id and a value")
    return rows


def leaderboard(request: Request, dataset: Repo) -> list[dict[str, Any]]:
    """Return the results of all models that the visitor may see, best first in each task."""
    user = access.visitor(request)
    mine = user.name.lower() if user else ""
    rows = []
    for model in access.store_of(request).repos("kind = 'model'"):
        if model.private and model.namespace.lower() != mine:
            continue
        repo = open_repo(request, model)
        for result in read(repo, commit_of(repo, "main")):
            data = result.get("data", {})
            if str(data.get("dataset", {}).get("id", "")).lower() == dataset.full_name.lower():
                rows.append({**_row(model, data), "filename": result["filename"]})
    rows.sort(key=lambda row: (row["taskId"], -row["value"], row["modelId"]))
    ranks: dict[str, int] = {}
    for row in rows:
        row["rank"] = ranks[row["taskId"]] = ranks.get(row["taskId"], 0) + 1
    return rows


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

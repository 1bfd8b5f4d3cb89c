"""What the files of a model's weights hold, in one answer: the headers of its safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pygit2
from fastapi import APIRouter, Request

from usermirrorer.hub.server import access, history, objects
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.foreign_json import plain_json
from usermirrorer.hub.server.routing import commit_of, kind_of, open_repo

router = APIRouter()
#: Bytes of an index, of all headers together, and files that one index may name.
_INDEX, _HEADERS, _SHARDS = 8 << 20, 32 << 20, 1000
_LENGTH = 8  # bytes in which a file says how long its header is


@router.get(REPO + "/safetensors-metadata/{path:below}")
def headers(request: Request, kinds: str, namespace: str, name: str, path: str) -> dict[str, Any]:
    """Return the `index` at `path` on main, without its long map, and the `headers` of its files.

    Raises:
        HubError: 404 if a file is not there, 422 if one is not what it should be, 413 if they are
            too long to be sent in one answer.
    """
    record = access.readable(request, kind_of(kinds), namespace, name, files=True)
    folder = store_of(request).folder(record)
    repo = open_repo(request, record)
    commit = commit_of(repo, "main")
    left, told = _HEADERS, {}
    try:
        index = plain_json(_read(folder, repo, commit, path, 0, _INDEX))
        shards = sorted(set(index["weight_map"].values()))
        if len(shards) > _SHARDS:
            raise HubError(413, f"An index names at most {_SHARDS} files here")
        for shard in shards:
            file = f"{path.rpartition('/')[0]}/{shard}".strip("/")
            length = int.from_bytes(_read(folder, repo, commit, file, 0, _LENGTH), "little")
            if length > left:
                raise HubError(413, f"The headers have more than {_HEADERS} bytes")
            left -= length
            told[shard] = plain_json(_read(folder, repo, commit, file, _LENGTH, length))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HubError(422, f"{path[:200]!r} is no index of safetensors files") from None
    metadata = index.get("metadata")
    return {"index": {"metadata": metadata} if metadata is not None else {}, "headers": told}


def _read(
    folder: Path, repo: pygit2.Repository, commit: pygit2.Commit, path: str, start: int, most: int
) -> bytes:
    """Return at most so many bytes of a file.

    Raises:
        HubError: 404 if it is not there.
    """
    entry = history.entry(repo, commit, path)
    if entry is None or entry.is_folder:
        raise HubError(404, f"{path[:200]!r} does not exist on this revision", "EntryNotFound")
    if entry.lfs is None:
        return history.content(repo, entry)[start : start + most]
    try:
        return b"".join(objects.read_blocks(objects.path_of(folder, entry.lfs[0]), start, most))
    except FileNotFoundError:
        raise HubError(404, f"The content of {path[:200]!r} was deleted", "EntryNotFound") from None

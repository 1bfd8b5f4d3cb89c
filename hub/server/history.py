"""Commits, trees and references of one repository: bare git through libgit2.

A commit is built from objects alone; moving its branch is the single step that makes it visible.
Callers hold the repository's lock while they change references.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType, SortMode

from usermirrorer.hub.server import disk, drafts, objects, trees
from usermirrorer.hub.server.trees import BadName, Change, Entry, Missing, check_path

__all__ = ["BadName", "Change", "Conflict", "Entry", "Missing", "NameTaken", "check_path"]

# Objects and references reach the disk before a call returns.
pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, True)
# Large folders are read once for each open repository, not once for each path in them.
pygit2.option(pygit2.enums.Option.SET_CACHE_OBJECT_LIMIT, ObjectType.TREE, 64 << 20)

#: Paths that go to large-file storage whatever their size, as on the public Hub.
LARGE = (
    *("parquet", "safetensors", "arrow", "bin", "gguf", "onnx", "npy", "npz", "gz", "zst", "zip"),
    *("tar", "7z", "xz", "png", "jpg", "jpeg", "gif", "webp", "wav", "mp3", "flac", "mp4", "pdf"),
)
#: Longest reference that libgit2 takes, and part of one that is a file's name (with `.lock`).
_REFERENCE, _REFERENCE_PART = 1000, 240
#: A commit's id, and what may stand for it.
_ID, _SHORT_ID = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{7,40}")
_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)


class Conflict(Exception):
    """The branch is not where the client thought it was."""


class NameTaken(Exception):
    """There is a branch or tag of this name."""


def create(git: Path, author: str) -> None:
    """Make a bare repository whose `main` holds `.gitattributes`."""
    pygit2.init_repository(git, bare=True, initial_head="main")
    change = Change("put", ".gitattributes", write_blob(git, _ATTRIBUTES.encode()))
    commit(git, "main", [change], author=author, message="initial commit")


def open_(git: Path) -> pygit2.Repository:
    """Open a bare repository; cheap, one for each request."""
    return pygit2.Repository(str(git), pygit2.enums.RepositoryOpenFlag.BARE)


def write_blob(git: Path, data: bytes) -> str:
    """Store `data` (not visible until a commit names it) and return its object id."""
    return drafts.store_object(open_(git).odb, git, ObjectType.BLOB, data)


def resolve(repo: pygit2.Repository, revision: str) -> pygit2.Commit | None:
    """Return the commit that a branch, tag, full reference or id names, else None.

    The first seven digits of an id are enough, if no other object begins with them. A whole id
    means that commit, whatever branch or tag an earlier version let be called so.
    """
    if _ID.fullmatch(revision) and (commit_ := _commit_of(repo, revision)):
        return commit_
    names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
    if revision.startswith("refs/"):
        names.append(revision)
    for name in names:
        if commit_ := _commit_at(repo, name):
            return commit_
    return _commit_of(repo, revision) if _SHORT_ID.fullmatch(revision) else None


def _commit_of(repo: pygit2.Repository, oid: str) -> pygit2.Commit | None:
    """Return the commit whose id begins so, None if there is none, or more than one."""
    with contextlib.suppress(KeyError, ValueError, pygit2.GitError):
        target = repo.get(oid)
        return target if isinstance(target, pygit2.Commit) and target.tree is not None else None
    return None


def _commit_at(repo: pygit2.Repository, name: str) -> pygit2.Commit | None:
    """Return where a full reference leads, None if it does not exist or is broken."""
    try:
        if not _can_be(name):
            return None
        commit_ = repo.references[name].peel(pygit2.Commit)
        return commit_ if commit_.tree is not None else None
    except (KeyError, ValueError, pygit2.GitError):
        return None


def _can_be(name: str) -> bool:
    """Say whether git can have a full reference of this name, and the file system its file."""
    sizes = [len(part.encode()) for part in name.split("/")]
    fits = max(sizes) <= _REFERENCE_PART and sum(sizes) + len(sizes) <= _REFERENCE
    return fits and "\0" not in name and pygit2.reference_is_valid_name(name)


def has_reference(repo: pygit2.Repository, name: str) -> bool:
    """Say whether there is a full reference, e.g. `refs/heads/main`, broken or not."""
    try:
        return _can_be(name) and name in repo.references
    except (ValueError, pygit2.GitError):  # it is broken, or below one that is there: `main/x`
        return name in list(repo.references)


def entry(repo: pygit2.Repository, commit_: pygit2.Commit, path: str) -> Entry | None:
    """Return what lies at `path`, None if nothing does ("" is the root folder)."""
    if not path:
        return Entry("", str(commit_.tree.id), 0, is_folder=True)
    try:
        return trees.entry_of(repo.odb, path, commit_.tree[path])
    except (KeyError, ValueError, pygit2.GitError):
        return None


def content(repo: pygit2.Repository, file: Entry) -> bytes:
    """Return the bytes that git holds for a file; of a large file, its pointer.

    Raises:
        Missing: if the repository is damaged.
    """
    try:
        return repo[file.oid].peel(pygit2.Blob).data
    except (KeyError, pygit2.GitError):
        raise Missing(f"The content of {file.path} is missing or damaged") from None


def commit(
    git: Path,
    branch: str,
    changes: Iterable[Change],
    *,
    author: str,
    message: str,
    parent: str | None = None,
    draft: drafts.Draft | None = None,
) -> str:
    """Put `changes` on top of a branch and move it there; return the new commit's id.

    Args:
        git: The bare repository.
        branch: A branch; it is made if the repository is empty.
        changes: Steps in order.
        author: User name.
        message: Title, and after an empty line a description.
        parent: The commit the client started from.
        draft: Where the new files are that `changes` name, if they are not in the repository yet.

    Raises:
        Conflict: if the branch has moved on from `parent`.
        Missing: if the branch, or a path to delete, does not exist.
        BadName: if a path cannot be in a repository.
    """
    if draft is None:
        with drafts.begin(git) as new:
            return commit(
                git, branch, changes, author=author, message=message, parent=parent, draft=new
            )
    repo = draft.repo
    name = f"refs/heads/{branch}"
    head = _commit_at(repo, name)
    if head is None and list(repo.references):
        raise Missing(f"there is no branch {branch!r}")
    if parent is not None and (head is None or str(head.id) != parent):
        raise Conflict("A commit has happened since. Please refresh and try again.")
    tree = trees.changed(repo, head.tree if head is not None else None, changes)
    signature = pygit2.Signature(author, f"{author}@localhost", int(time.time()), 0)
    parents = [head.id] if head is not None else []
    made = repo.create_commit(None, signature, signature, message, tree, parents)
    draft.publish()
    open_(git).references.create(name, made, force=True)
    return str(made)


def squash(git: Path, branch: str, *, author: str, message: str) -> str:
    """Let a branch hold one commit without parents, with the files of its last; return its id.

    Commits of before stay readable by id, and by the other branches and tags that have them.
    """
    repo = open_(git)
    name = f"refs/heads/{branch}"
    tree = repo.references[name].peel(pygit2.Commit).tree_id
    signature = pygit2.Signature(author, f"{author}@localhost", int(time.time()), 0)
    made = repo.create_commit(None, signature, signature, message, tree, [])
    repo.references.create(name, made, force=True)
    return str(made)


def reference_names(repo: pygit2.Repository) -> list[str]:
    """Return the full names of all branches and tags that are not broken."""
    groups = references(repo).items()
    return [f"refs/{group}/{name}" for group, names in groups for name in names]


def references(repo: pygit2.Repository) -> dict[str, dict[str, str]]:
    """Return {"heads": {name: commit}, "tags": {name: commit}}; a broken one is left out."""
    groups: dict[str, dict[str, str]] = {"heads": {}, "tags": {}}
    for name in sorted(repo.references):
        for group, names in groups.items():
            prefix = f"refs/{group}/"
            if name.startswith(prefix) and (commit_ := _commit_at(repo, name)):
                names[name.removeprefix(prefix)] = str(commit_.id)
    return groups


def add_reference(
    git: Path, group: str, name: str, target: pygit2.Commit, *, message: str = "", author: str = ""
) -> None:
    """Make a branch (`heads`) or tag (`tags`); a tag with a message is an annotated one.

    Raises:
        NameTaken: if there is one of this name, or one that cannot be beside it.
        BadName: if git cannot have it.
    """
    full = f"refs/{group}/{name}"
    # What would be taken for an option, another reference, or a commit.
    other = name.startswith(("-", "refs/heads/", "refs/tags/")) or _ID.fullmatch(name)
    if not name or other or not _can_be(full):
        raise BadName(f"not a reference name: {name[:200]!r}")
    repo = open_(git)
    if has_reference(repo, full):
        raise NameTaken(f"Reference {name!r} already exists")
    try:
        if message:
            tagger = pygit2.Signature(author, f"{author}@localhost", int(time.time()), 0)
            repo.create_tag(name, target.id, ObjectType.COMMIT, tagger, message)
        else:
            repo.references.create(full, target.id)
    except (pygit2.GitError, OSError, ValueError) as error:
        if disk.refusal(error):
            raise
        raise NameTaken(f"Reference {name!r} cannot be beside those that are there") from error


def remove_reference(git: Path, group: str, name: str) -> None:
    """Remove a branch or tag; its commits stay readable by id.

    Raises:
        Missing: if there is none.
    """
    full = f"refs/{group}/{name}"
    repo = open_(git)
    if not has_reference(repo, full):
        raise Missing(f"Reference {name!r} does not exist")
    repo.references.delete(full)


def log(repo: pygit2.Repository, start: pygit2.Commit) -> Iterator[pygit2.Commit]:
    """Yield the commits from `start` back to the first."""
    return repo.walk(start.id, SortMode.TOPOLOGICAL)


def last_changes(
    repo: pygit2.Repository, start: pygit2.Commit, paths: Iterable[str]
) -> dict[str, pygit2.Commit]:
    """Return for each path the newest commit, from `start` back, that changed it."""
    changed: dict[str, pygit2.Commit] = {}
    open_paths = {path: _id(start, path) for path in paths}
    newest = start
    for older in log(repo, start):
        for path in [p for p, oid in open_paths.items() if _id(older, p) != oid]:
            changed[path] = newest
            del open_paths[path]
        if not open_paths:
            break
        newest = older
    return {**changed, **dict.fromkeys(open_paths, newest)}


def _id(commit_: pygit2.Commit, path: str) -> str:
    try:
        return str(commit_.tree[path].id)
    except KeyError:
        return ""


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """Say how a new file is to be sent: `regular` inside the commit, or `lfs` beforehand."""
    ending = path.rpartition(".")[2].lower()
    large = ending in LARGE or size > 5 * objects.BLOCK or b"\0" in sample
    return "lfs" if large and size else "regular"

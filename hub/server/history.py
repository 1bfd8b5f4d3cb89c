"""Commits, trees and references of one repository: bare git through libgit2.

A commit is built from objects alone; moving its branch is the single step that makes it visible.
Callers hold the repository's lock while they change references.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import FileMode, ObjectType, SortMode

from usermirrorer.hub.server import objects

# Objects and references reach the disk before a call returns.
pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, True)

#: Paths that go to large-file storage whatever their size, as on the public Hub.
LARGE = (
    *("parquet", "safetensors", "arrow", "bin", "gguf", "onnx", "npy", "npz", "gz", "zst", "zip"),
    *("tar", "7z", "xz", "png", "jpg", "jpeg", "gif", "webp", "wav", "mp3", "flac", "mp4", "pdf"),
)
_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)


class Conflict(Exception):
    """The branch is not where the client thought it was, or a name is taken."""


class Missing(Exception):
    """A path that should be there is not."""


class BadName(Exception):
    """A path or reference name that git, or a safe checkout, cannot have."""


@dataclass(frozen=True)
class Entry:
    """One file or folder of a commit. `oid` is git's; `lfs` is (SHA-256, size) of a large file."""

    path: str
    oid: str
    size: int
    is_folder: bool = False
    lfs: tuple[str, int] | None = None

    @property
    def etag(self) -> str:
        """What names the content: SHA-256 of a large file, else git's object id."""
        return self.lfs[0] if self.lfs else self.oid


@dataclass(frozen=True)
class Change:
    """One step of a commit. `action`: put (with `oid`), delete or delete_folder."""

    action: str
    path: str
    oid: str = ""


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
    return str(open_(git).create_blob(data))


def resolve(repo: pygit2.Repository, revision: str) -> pygit2.Commit | None:
    """Return the commit that a branch, tag, full reference or 40-digit id names, else None."""
    names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
    if revision.startswith("refs/"):
        names.append(revision)
    for name in names:
        if commit_ := _commit_at(repo, name):
            return commit_
    if len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        target = repo.get(revision)
        return target if isinstance(target, pygit2.Commit) else None
    return None


def _commit_at(repo: pygit2.Repository, name: str) -> pygit2.Commit | None:
    """Return where a full reference leads, None if it does not exist or is broken."""
    try:
        if not pygit2.reference_is_valid_name(name):
            return None
        return repo.references[name].peel(pygit2.Commit)
    except (KeyError, ValueError, pygit2.GitError):
        return None


def entry(repo: pygit2.Repository, commit_: pygit2.Commit, path: str) -> Entry | None:
    """Return what lies at `path`, None if nothing does ("" is the root folder)."""
    if not path:
        return Entry("", str(commit_.tree.id), 0, is_folder=True)
    try:
        return _entry(path, commit_.tree[path])
    except (KeyError, ValueError):
        return None


def walk(
    repo: pygit2.Repository, commit_: pygit2.Commit, path: str = "", *, recursive: bool = True
) -> Iterator[Entry]:
    """Yield files and folders below `path`, in git's order."""
    tree = commit_.tree[path] if path else commit_.tree
    for item in tree.peel(pygit2.Tree):
        below = _entry(f"{path}/{item.name}" if path else str(item.name), item)
        yield below
        if recursive and below.is_folder:
            yield from walk(repo, commit_, below.path)


def content(repo: pygit2.Repository, file: Entry) -> bytes:
    """Return the bytes that git holds for a file; of a large file, its pointer."""
    return repo[file.oid].peel(pygit2.Blob).data


def _entry(path: str, item: pygit2.Object) -> Entry:
    if not isinstance(item, pygit2.Blob):
        return Entry(path, str(item.id), 0, is_folder=True)
    lfs = objects.parse_pointer(item.data) if item.size < 1024 else None
    return Entry(path, str(item.id), lfs[1] if lfs else item.size, lfs=lfs)


def commit(
    git: Path,
    branch: str,
    changes: Iterable[Change],
    *,
    author: str,
    message: str,
    parent: str | None = None,
) -> str:
    """Put `changes` on top of a branch and move it there; return the new commit's id.

    Args:
        git: The bare repository.
        branch: A branch; it is made if the repository is empty.
        changes: Steps in order.
        author: User name.
        message: Title, and after an empty line a description.
        parent: The commit the client started from.

    Raises:
        Conflict: if the branch has moved on from `parent`.
        Missing: if the branch, or a path to delete, does not exist.
        BadName: if a path cannot be in a repository.
    """
    repo = open_(git)
    name = f"refs/heads/{branch}"
    head = repo.references[name].peel(pygit2.Commit) if name in repo.references else None
    if head is None and list(repo.references):
        raise Missing(f"there is no branch {branch!r}")
    if parent is not None and (head is None or str(head.id) != parent):
        raise Conflict("A commit has happened since. Please refresh and try again.")
    index = pygit2.Index()
    if head is not None:
        index.read_tree(head.tree)
    for change in changes:
        _apply(index, change)
    tree = index.write_tree(repo)
    signature = pygit2.Signature(author, f"{author}@localhost", int(time.time()), 0)
    parents = [head.id] if head is not None else []
    made = repo.create_commit(None, signature, signature, message, tree, parents)
    repo.references.create(name, made, force=True)
    return str(made)


def _apply(index: pygit2.Index, change: Change) -> None:
    check_path(change.path)
    if change.action == "put":
        _replace_clashes(index, change.path)
        index.add(pygit2.IndexEntry(change.path, pygit2.Oid(hex=change.oid), FileMode.BLOB))
        return
    inside = f"{change.path}/"
    gone = [
        e.path
        for e in index
        if (
            e.path.startswith(inside) if change.action == "delete_folder" else e.path == change.path
        )
    ]
    if not gone:
        raise Missing("A file with this name doesn't exist")
    for path in gone:
        index.remove(path)


def _replace_clashes(index: pygit2.Index, path: str) -> None:
    """Refuse a path that would make a file out of a folder or a folder out of a file."""
    parts = path.split("/")
    parents = {"/".join(parts[:n]) for n in range(1, len(parts))}
    if any(parent in index for parent in parents):
        raise BadName(f"a folder in {path!r} is a file")
    if path not in index and any(e.path.startswith(f"{path}/") for e in index):
        raise BadName(f"{path!r} is a folder")


def check_path(path: str) -> None:
    """Refuse paths that git or a safe checkout cannot have.

    Raises:
        BadName: if it is absolute, leaves the repository, touches `.git`, has control signs.
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path) > 1024
        or "\\" in path
        or any(ord(c) < 32 or c == "\x7f" for c in path)
        or any(p in ("", ".", "..") or p.lower() == ".git" or len(p) > 255 for p in parts)
    )
    if bad:
        raise BadName(f"not a path of a repository: {path[:200]!r}")


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
        Conflict: if the name is taken.
        BadName: if git cannot have it.
    """
    full = f"refs/{group}/{name}"
    if not name or name.startswith("-") or not pygit2.reference_is_valid_name(full):
        raise BadName(f"not a reference name: {name[:200]!r}")
    repo = open_(git)
    if full in repo.references:
        raise Conflict(f"Reference {name!r} already exists")
    try:
        if message:
            tagger = pygit2.Signature(author, f"{author}@localhost", int(time.time()), 0)
            repo.create_tag(name, target.id, ObjectType.COMMIT, tagger, message)
        else:
            repo.references.create(full, target.id)
    except (pygit2.GitError, ValueError) as error:
        raise Conflict(str(error)) from error


def remove_reference(git: Path, group: str, name: str) -> None:
    """Remove a branch or tag; its commits stay readable by id.

    Raises:
        Missing: if there is none.
    """
    full = f"refs/{group}/{name}"
    repo = open_(git)
    if not pygit2.reference_is_valid_name(full) or full not in repo.references:
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

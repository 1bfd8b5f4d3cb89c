"""The files of a commit as git's trees: change some, list them from anywhere, name them safely.

Work grows with what is changed or listed and with the folders that this touches, never with all
files of the repository.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pygit2
from pygit2.enums import FileMode

from usermirrorer.hub.server import objects

#: Longest path and longest part of one, in bytes: clients put `.metadata` and the like behind a
#: name, and file systems take 255. And most folders inside each other.
_PATH_LIMIT, _PART_LIMIT, _DEPTH = 1000, 240, 64
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
#: `.git` as Windows writes it short, and what file systems leave out of a name.
_GIT = re.compile(r"\.git|git~[0-9]+", re.IGNORECASE)
_LEFT_OUT = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


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


@dataclass
class _Folder:
    """A folder of the commit before and what becomes of its names: a file, a folder, nothing."""

    tree: pygit2.Tree | None = None
    edits: dict[str, str | _Folder | None] = field(default_factory=dict)

    def get(self, name: str) -> str | _Folder | None:
        """Return the object id of a file, a folder, or None."""
        if name in self.edits:
            return self.edits[name]
        if self.tree is None or name not in self.tree:
            return None
        item = self.tree[name]
        if not isinstance(item, pygit2.Tree):
            return str(item.id)
        self.edits[name] = below = _Folder(item)
        return below

    def is_empty(self) -> bool:
        """Say whether no file is left in it."""
        for edit in self.edits.values():
            if isinstance(edit, str) or (isinstance(edit, _Folder) and not edit.is_empty()):
                return False
        return self.tree is None or all(item.name in self.edits for item in self.tree)

    def new_names(self) -> list[str]:
        """Return the names that were not there before."""
        return [
            name
            for name, edit in self.edits.items()
            if edit is not None and (self.tree is None or name not in self.tree)
        ]


def changed(
    repo: pygit2.Repository, tree: pygit2.Tree | None, changes: Iterable[Change]
) -> pygit2.Oid:
    """Write the trees that come of `changes`, in order, and return the root's id.

    Raises:
        Missing: if a path to delete does not exist.
        BadName: if a path cannot be in a repository.
    """
    root = _Folder(tree)
    for change in changes:
        *parents, name = change.path.split("/")
        if change.action == "put":
            check_path(change.path)
            _put(root, parents, name, change)
        else:
            _delete(root, parents, name, folder=change.action == "delete_folder")
    return _write(repo, root, "") or repo.TreeBuilder().write()


def _put(root: _Folder, parents: Sequence[str], name: str, change: Change) -> None:
    folder = root
    for part in parents:
        below = folder.get(part)
        if isinstance(below, str):
            raise BadName(f"a folder in {change.path!r} is a file")
        if below is None:
            folder.edits[part] = below = _Folder()
        folder = below
    there = folder.get(name)
    if isinstance(there, _Folder) and not there.is_empty():
        raise BadName(f"{change.path!r} is a folder")
    folder.edits[name] = change.oid


def _delete(root: _Folder, parents: Sequence[str], name: str, *, folder: bool) -> None:
    inside: str | _Folder | None = root
    for part in parents:
        inside = inside.get(part) if isinstance(inside, _Folder) else None
    there = inside.get(name) if isinstance(inside, _Folder) else None
    if isinstance(there, _Folder) and there.is_empty():
        there = None
    if not isinstance(inside, _Folder) or not isinstance(there, _Folder if folder else str):
        raise Missing("A file with this name doesn't exist")
    inside.edits[name] = None


def _write(repo: pygit2.Repository, folder: _Folder, path: str) -> pygit2.Oid | None:
    """Write a changed folder; None if nothing is left in it."""
    _refuse_twins(folder, path)
    builder = repo.TreeBuilder(folder.tree) if folder.tree is not None else repo.TreeBuilder()
    for name, edit in folder.edits.items():
        oid: pygit2.Oid | None
        if isinstance(edit, _Folder):
            unchanged = edit.tree is not None and not edit.edits
            oid = edit.tree.id if unchanged and edit.tree else _write(repo, edit, f"{path}{name}/")
            mode = FileMode.TREE
        else:
            oid, mode = pygit2.Oid(hex=edit) if edit else None, FileMode.BLOB
        if oid is not None:
            builder.insert(name, oid, mode)
        elif builder.get(name) is not None:
            builder.remove(name)
    return builder.write() if len(builder) else None


def _refuse_twins(folder: _Folder, path: str) -> None:
    """Refuse new names that on other systems are those of their neighbours.

    Raises:
        BadName: if there is one.
    """
    new: dict[str, str] = {}
    for name in folder.new_names():
        edit = folder.edits[name]
        if isinstance(edit, _Folder) and edit.is_empty():
            continue
        if (twin := new.setdefault(_folded(name), name)) != name:
            raise _twins(path, name, twin)
    if not new or folder.tree is None:
        return
    for item in folder.tree:
        other = str(item.name)
        name = new.get(_folded(other), other)
        if name != other and folder.edits.get(other, "") is not None:
            raise _twins(path, name, other)


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _twins(path: str, name: str, twin: str) -> BadName:
    same = "cannot be beside each other on Windows and macOS"
    return BadName(f"{path + name!r} and {path + twin!r} {same}")


def check_path(path: str) -> None:
    """Refuse paths that git, a safe checkout or a client's download cannot have.

    Raises:
        BadName: saying what is wrong with it.
    """
    if wrong := _wrong(path):
        raise BadName(f"not a path of a repository: {path[:200]!r} {wrong}")


def _wrong(path: str) -> str:
    """Say what is wrong with a path, "" if nothing is."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not Unicode"
    parts = path.split("/")
    for bad, why in (
        (not path, "is empty"),
        (size > _PATH_LIMIT, f"is longer than {_PATH_LIMIT} bytes"),
        (len(parts) > _DEPTH, f"has more than {_DEPTH} folders inside each other"),
        (parts[:2] == [".cache", "huggingface"], "is where clients keep their own files"),
        ("\\" in path, "has a backslash"),
        (any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in path), "has a control sign"),
    ):
        if bad:
            return why
    return next((why for part in parts if (why := _wrong_part(part))), "")


def _wrong_part(part: str) -> str:
    bare = _LEFT_OUT.sub("", part)
    stem = bare.partition(":")[0].rstrip(". ")
    if part in ("", ".", ".."):
        return "has an empty part, '.' or '..'"
    if _GIT.fullmatch(stem):
        return "has a part that git keeps for itself"
    if len(part.encode()) > _PART_LIMIT:
        return f"has a part that is longer than {_PART_LIMIT} bytes"
    if part.endswith((".", " ")):
        return "has a part that ends with a dot or a space, which Windows drops"
    if _RESERVED.match(bare):
        return "has a part that is a device on Windows"
    return ""


def walk(
    repo: pygit2.Repository,
    commit: pygit2.Commit,
    path: str = "",
    *,
    recursive: bool = True,
    after: str = "",
    sizes: bool = True,
) -> Iterator[Entry]:
    """Yield the files and folders of a commit that lie below `path`, in git's order.

    Args:
        repo: Where it is.
        commit: The commit.
        path: A folder of it, "" for all.
        recursive: Also what is inside the folders.
        after: Begin behind this path, which needs no look at what is before it.
        sizes: Whether sizes and large files matter; without, no file is looked at.
    """
    odb = repo.odb
    tree = (commit.tree[path] if path else commit.tree).peel(pygit2.Tree)
    inside = after.removeprefix(f"{path}/" if path else "").split("/") if after else []
    stack = [(path, tree, _begin(tree, inside), inside)]
    while stack:
        prefix, here, index, behind = stack.pop()
        if index >= _length(here):
            continue
        item = here[index]
        name = str(item.name)
        stack.append((prefix, here, index + 1, []))
        full = f"{prefix}/{name}" if prefix else name
        reached = bool(behind) and name == behind[0]
        if not reached:
            yield entry_of(odb, full, item, sizes=sizes)
        if recursive and isinstance(item, pygit2.Tree):
            rest = behind[1:] if reached else []
            stack.append((full, item, _begin(item, rest), rest))


def _begin(tree: pygit2.Tree, behind: Sequence[str]) -> int:
    """Return where in a tree to go on: at the name that was reached, or at what follows it."""
    if not behind:
        return 0
    wanted = behind[0].encode(errors="surrogateescape")
    low, high = 0, _length(tree)
    if high and behind[0] in tree:
        wanted += b"/" if isinstance(tree[behind[0]], pygit2.Tree) else b""
    while low < high:
        middle = (low + high) // 2
        if _key(tree[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def _length(tree: pygit2.Tree) -> int:
    """Return how many items a tree has; one that is missing from a damaged repository has none."""
    try:
        return len(tree)
    except (KeyError, pygit2.GitError):
        return 0


def _key(item: pygit2.Object) -> bytes:
    """Return what git sorts by: a folder counts as if its name ended with a slash."""
    return (item.raw_name or b"") + (b"/" if isinstance(item, pygit2.Tree) else b"")


def entry_of(odb: pygit2.Odb, path: str, item: pygit2.Object, *, sizes: bool = True) -> Entry:
    """Describe an item of a tree; one whose content is missing has no size."""
    if not isinstance(item, pygit2.Blob):
        return Entry(path, str(item.id), 0, is_folder=True)
    if not sizes:
        return Entry(path, str(item.id), 0)
    try:
        _, size = odb.read_header(item.id)
        lfs = objects.parse_pointer(item.data) if size < objects.POINTER_LIMIT else None
    except (KeyError, ValueError, pygit2.GitError):
        return Entry(path, str(item.id), 0)
    return Entry(path, str(item.id), lfs[1] if lfs else size, lfs=lfs)

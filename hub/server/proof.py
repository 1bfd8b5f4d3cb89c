"""Prove what one repository's folder holds: every reference leads to files that are all there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from usermirrorer.builders.common.storage import file_hash
from usermirrorer.hub.server import history, objects
from usermirrorer.hub.server.folders import Finding

#: The kinds of findings: a reference that leads nowhere; content that is missing or wrong.
REFERENCE, CONTENT = "broken reference", "broken content"
_MAIN = "refs/heads/main"


def reference_files(git: Path) -> dict[str, Path]:
    """Return the references that have a file of their own; a lock of git is none."""
    files = (path for path in (git / "refs").rglob("*") if path.is_file())
    return {path.relative_to(git).as_posix(): path for path in files if path.suffix != ".lock"}


def tips(git: Path) -> tuple[dict[str, pygit2.Commit], list[str]]:
    """Return what each reference leads to, and the references that lead nowhere."""
    repo = history.open_(git)
    names = {name.decode("utf-8", "replace") for name in repo.raw_listall_references()}
    good, broken = {}, []
    for name in sorted(names | set(reference_files(git))):
        try:
            good[name] = repo.references[name].peel(pygit2.Commit)
        except (pygit2.GitError, KeyError, ValueError, OSError):
            broken.append(name)
    return good, broken


def problems(folder: Path, *, every_byte: bool = False) -> Iterator[Finding]:
    """Yield what is missing or broken in a repository's folder.

    Args:
        folder: The folder, with `git/` and `lfs/` below it.
        every_byte: Hash all content too, which reads everything once.
    """
    git = folder / "git"
    try:
        good, broken = tips(git)
    except pygit2.GitError as error:
        yield Finding(CONTENT, str(git), f"cannot be opened: {error}")
        return
    for name in broken:
        yield Finding(REFERENCE, str(git / name), "leads to no commit")
    if _MAIN not in good and _MAIN not in broken:
        yield Finding(REFERENCE, str(git / _MAIN), "is missing")
    seen: set[str] = set()
    for name, commit in good.items():
        for what in missing(folder, commit.id, seen, every_byte=every_byte):
            yield Finding(CONTENT, str(git / name), what)


def missing(
    folder: Path, tip: pygit2.Oid, seen: set[str], *, every_byte: bool = False
) -> Iterator[str]:
    """Yield what the history of a commit lacks; what `seen` names was looked at before."""
    repo = history.open_(folder / "git")
    odb, waiting = repo.odb, [tip]
    while waiting:
        oid = waiting.pop()
        if str(oid) in seen:
            continue
        seen.add(str(oid))
        try:
            kind, size = odb.read_header(oid)
            if kind == ObjectType.COMMIT:
                commit = repo[oid].peel(pygit2.Commit)
                waiting += [commit.tree_id, *commit.parent_ids]
            elif kind == ObjectType.TAG:
                waiting.append(repo[oid].peel(pygit2.Tag).target)
            elif kind == ObjectType.TREE:
                waiting += [item.id for item in repo[oid].peel(pygit2.Tree)]
            elif size < objects.POINTER_LIMIT or every_byte:
                yield from _wrong_file(folder, odb.read(oid)[1], every_byte)
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            yield f"lacks the object {oid}: {error}"


def _wrong_file(folder: Path, content: bytes, every_byte: bool) -> Iterator[str]:
    if (pointer := objects.parse_pointer(content)) is None:
        return
    oid, size = pointer
    there = objects.size_of(folder, oid)
    if there != size:
        has = "is missing" if there is None else f"has {there} bytes, not {size}"
        yield f"the large file {oid} {has}"
    elif every_byte and file_hash(objects.path_of(folder, oid)) != oid:
        yield f"the large file {oid} has other content"


def newest_loose_end(git: Path) -> str | None:
    """Return the newest commit whose tree is there and of which no other commit is the child."""
    repo = history.open_(git)
    commits: dict[str, pygit2.Commit] = {}
    for oid in repo.odb:
        try:
            if repo.odb.read_header(oid)[0] == ObjectType.COMMIT:
                commits[str(oid)] = repo[oid].peel(pygit2.Commit)
        except (pygit2.GitError, KeyError, ValueError, OSError):
            continue
    parents = {str(parent) for commit in commits.values() for parent in commit.parent_ids}
    ends = [c for oid, c in commits.items() if oid not in parents and c.tree_id in repo]
    return str(max(ends, key=lambda c: c.commit_time).id) if ends else None

"""Back a Hub up while its server runs; the backup is itself the folder of a Hub.

What makes this consistent without stopping anybody: content never changes once it is written, and
is on the disk before what refers to it. So the records are copied first (SQLite's own backup), then
of each repository the references, and only then the content that these need. Whatever comes in
meanwhile is in the next backup.

A second backup into the same folder copies only what is new. Until its last steps that folder is
the backup before: new repositories in it are marked as unborn, so that a Hub started on what a
kill left is the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pygit2

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.server import disk, folders, history, objects, proof, store
from usermirrorer.hub.server.store import Repo

#: In a folder: that it is a backup, and of what. The server that is started on it takes it away.
MARK = store.BACKUP_MARK


def backup(root: Path, target: Path) -> dict[str, Any]:
    """Copy a Hub's folder to `target` and prove the copy; the server may run and be written to.

    Args:
        root: The folder of the Hub.
        target: A new or empty folder, or one that an earlier backup of the same Hub made.

    Returns:
        How many repositories, references and files there are, how many files and bytes new, and
        `warnings`: what is broken in the Hub itself, and so in the copy.

    Raises:
        UserError: if either is not such a folder, or the copy is not whole.
    """
    root, target = root.resolve(), target.resolve()
    disk.keep_private()
    started = _prepare(root, target)
    held = store.lock(target)
    try:
        counts: dict[str, Any] = {"files": 0, "new_files": 0, "new_bytes": 0, "warnings": []}
        records = _copy_records(root, target)
        copied = {}
        for repo in records:
            with contextlib.suppress(_Gone):
                copied[repo.id] = (repo, _copy_repository(root, target, repo, counts))
        counts["warnings"] += _prove(root, target, copied)
        _finish(root, target, copied)
        counts["repositories"] = len(copied)
        counts["references"] = sum(len(references) for _, references in copied.values())
        mark = {"of": str(root), "started": started, "finished": time.time(), **counts}
        disk.write_file(target / MARK, json.dumps(mark, indent=1).encode())
    finally:
        held.close()
    return counts


class _Gone(Exception):
    """A repository was deleted while it was copied."""


def _prepare(root: Path, target: Path) -> float:
    started = time.time()
    if not (root / store.ACCOUNTS).exists():
        raise UserError("is not the folder of a Hub", where=root)
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise UserError("one folder lies in the other", where=target, fix="Choose another.")
    if target.exists() and any(target.iterdir()):
        try:
            of = json.loads((target / MARK).read_bytes())["of"]
        except (OSError, ValueError, KeyError, TypeError):
            of = ""
        if of != str(root):
            what = f"is a backup of {of}" if of else "is not empty, and no backup"
            raise UserError(what, where=target, fix="Choose a new folder.")
    (target / "repos").mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)
    disk.write_file(target / MARK, json.dumps({"of": str(root), "started": started}).encode())
    return started


def _copy_records(root: Path, target: Path) -> list[Repo]:
    """Copy accounts and records as they are at one moment, beside those of the backup before."""
    new = target / f"{store.ACCOUNTS}.new"
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_RDWR, 0o600))
    source, copy = sqlite3.connect(root / store.ACCOUNTS, timeout=30), sqlite3.connect(new)
    try:
        source.backup(copy)
        copy.row_factory = sqlite3.Row
        rows = copy.execute("select * from repos order by id").fetchall()
        return [Repo(**{**dict(row), "private": bool(row["private"])}) for row in rows]
    except sqlite3.DatabaseError as error:
        fix = f"See `usermirrorer hub check --root {root}`."
        raise UserError(f"cannot be copied: {error}", where=root, fix=fix) from error
    finally:
        source.close()
        copy.close()


def _copy_repository(
    root: Path, target: Path, repo: Repo, counts: dict[str, Any]
) -> dict[str, str]:
    """Copy the content that a repository has, and return its references as they were before.

    Raises:
        _Gone: if it was deleted meanwhile.
    """
    source, copy = (folder / "repos" / str(repo.id) for folder in (root, target))
    try:
        references, broken = _references(source / "git")
        counts["warnings"] += [f"{source / 'git' / name} leads to no commit" for name in broken]
        if not copy.exists():
            copy.mkdir()
            folders.mark(copy, folders.UNBORN)
        for part in ("git/objects", "git/refs", "lfs", "incoming"):
            (copy / part).mkdir(parents=True, exist_ok=True)
        for name in ("HEAD", "config"):
            disk.write_file(copy / "git" / name, (source / "git" / name).read_bytes())
        for path in _content(source):
            _copy(path, copy / path.relative_to(source), counts)
    except FileNotFoundError:
        if source.exists():
            raise
        raise _Gone from None
    return references


def _references(git: Path) -> tuple[dict[str, str], list[str]]:
    """Return name -> id of every reference (of an annotated tag, the tag's own), and broken ones.

    Raises:
        _Gone: if the repository was deleted meanwhile.
    """
    try:
        good, broken = proof.tips(git)
        repo = history.open_(git)
        return {name: str(repo.references[name].resolve().target) for name in good}, broken
    except (pygit2.GitError, KeyError):
        if git.exists():
            raise
        raise _Gone from None


def _content(source: Path) -> Iterator[Path]:
    """Yield the files that never change, an index after the pack that it is of."""
    for part in ("git/objects", "lfs"):
        present = [path for path in (source / part).rglob("*") if path.is_file()]
        named = [
            path
            for path in present
            if not path.name.startswith(("tmp_", ".")) and not path.parent.name.startswith("tmp_")
        ]
        yield from sorted(named, key=lambda path: (path.suffix == ".idx", path))


def _copy(source: Path, target: Path, counts: dict[str, Any]) -> None:
    """Copy a file unless it is there; a large file is proved by its name while it is read."""
    counts["files"] += 1
    size = source.stat().st_size
    if target.exists() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, digest = target.with_name(f".{target.name}.new"), hashlib.sha256()
    with source.open("rb") as old, temporary.open("wb") as new:
        while block := old.read(objects.BLOCK):
            digest.update(block)
            new.write(block)
        new.flush()
        os.fsync(new.fileno())
    if objects.OID.fullmatch(target.name) and digest.hexdigest() != target.name:
        counts["warnings"].append(f"{source} has another content than its name says")
    temporary.replace(target)
    disk.sync_folder(target.parent)
    counts["new_files"] += 1
    counts["new_bytes"] += size


def _finish(root: Path, target: Path, copied: dict[int, tuple[Repo, dict[str, str]]]) -> None:
    """Turn the folder from the backup before into this one."""
    new = target / f"{store.ACCOUNTS}.new"
    for repo, references in copied.values():
        folder = target / "repos" / str(repo.id)
        lines = [f"{oid} {name}\n" for name, oid in sorted(references.items())]
        text = "# pack-refs with: sorted \n" + "".join(lines)
        disk.write_file(folder / "git" / "packed-refs", text.encode())
        shutil.rmtree(folder / "git" / "refs")
        (folder / "git" / "refs" / "heads").mkdir(parents=True)
        folders.write_description(folder, repo)
    with contextlib.closing(sqlite3.connect(new)) as db:
        gone = [row[0] for row in db.execute("select id from repos") if row[0] not in copied]
        db.execute("pragma foreign_keys = on")
        db.executemany("delete from repos where id = ?", [(number,) for number in gone])
        db.executemany("insert or ignore into gone values (?)", [(number,) for number in gone])
        db.commit()
        db.execute("pragma journal_mode = delete")
    dead = [f for n, f in folders.numbered(target / "repos").items() if n not in copied]
    for folder in dead:  # deleted since the backup before
        folder.rename(folder.with_name(f"{folders.DELETED}{folder.name}"))
    if (root / "secret").exists():
        disk.write_file(target / "secret", (root / "secret").read_bytes())
    new.replace(target / store.ACCOUNTS)
    disk.sync_folder(target)
    for number in copied:
        (target / "repos" / str(number) / folders.UNBORN).unlink(missing_ok=True)
    for folder in (target / "repos").glob(f"{folders.DELETED}*"):
        store.erase_deleted(folder)


def _prove(root: Path, target: Path, copied: dict[int, tuple[Repo, dict[str, str]]]) -> list[str]:
    """Prove the content of the copy; return what is broken in the Hub itself.

    Raises:
        UserError: if the copy lacks what the Hub has. The backup before is then still one.
    """
    known = []
    for number, (_, references) in copied.items():
        source, copy = (folder / "repos" / str(number) for folder in (root, target))
        seen: set[str] = set()
        for name, oid in references.items():
            for what in proof.missing(copy, pygit2.Oid(hex=oid), seen):
                if what not in set(proof.missing(source, pygit2.Oid(hex=oid), set())):
                    fix = "Run the backup again."
                    raise UserError(f"the copy is not whole: {what}", where=copy, fix=fix)
                known.append(f"{source / 'git' / name} {what}")
    return known

"""Check the data folder of a Hub, and repair it without deleting anything.

The folders rule: records are made anew from what each repository's folder says of itself. Whatever
is in doubt moves to `quarantine/`, records as JSON, where it stays until somebody looks at it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pygit2

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.server import disk, folders, history, proof, store
from usermirrorer.hub.server.folders import Finding
from usermirrorer.hub.server.store import Repo

#: The kind of finding about `hub.sqlite` itself, and what can only be told.
ACCOUNTS, MODE = "accounts", "mode"


def check(root: Path, *, every_byte: bool = False) -> list[Finding]:
    """Return all that is not as it should be in a data folder; changes nothing.

    While a server runs, what it is about to do may show as something to be mended.

    Raises:
        UserError: if `root` is no data folder.
    """
    _is_hub(root)
    findings, records = _accounts(root)
    gone = [row["id"] for row in salvage(root / store.ACCOUNTS).get("gone", [])]
    findings += folders.compare(root, records, gone)
    for folder in folders.numbered(root / "repos").values():
        if folders.is_repository(folder) and not folders.marked(folder, folders.UNBORN):
            findings += proof.problems(folder, every_byte=every_byte)
    return findings + list(_open_to_others(root))


def repair(root: Path, *, dry_run: bool = False) -> list[Finding]:
    """Mend a data folder from what its folders say; nothing is deleted.

    Returns:
        What was found, each with what was done about it (or would be, with `dry_run`).

    Raises:
        UserError: if a server runs, or `root` is no data folder.
    """
    _is_hub(root)
    if dry_run:
        return [replace(finding, action=_plan(finding)) for finding in check(root)]
    disk.keep_private()
    held = store.lock(root)
    try:
        return list(_repair(root, root / "quarantine" / time.strftime("%Y%m%dT%H%M%S")))
    finally:
        held.close()


def _is_hub(root: Path) -> None:
    if not (root / "repos").is_dir() and not (root / store.ACCOUNTS).exists():
        raise UserError("is not the folder of a Hub", where=root, fix="Give --root.")


def _accounts(root: Path) -> tuple[list[Finding], list[Repo]]:
    """Return what is wrong with the accounts, and the records that can be read."""
    path = root / store.ACCOUNTS
    problem = ""
    if not path.exists() or not path.stat().st_size:
        if folders.any_repository(root):
            problem = "is empty" if path.exists() else "is missing"
    else:
        problem = _damage(path)
    rows = salvage(path).get("repos", []) if path.exists() else []
    records = []
    for row in rows:
        try:
            records.append(Repo(**{**row, "private": bool(row["private"])}))
        except TypeError:
            problem = problem or "has records that are none"
    return [Finding(ACCOUNTS, str(path), problem)] if problem else [], records


def _damage(path: Path) -> str:
    try:
        db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=30)
    except sqlite3.Error as error:
        return f"cannot be opened: {error}"
    try:
        first = db.execute("pragma quick_check(1)").fetchone()[0]
        tables = {row[0] for row in db.execute("select name from sqlite_master")}
    except sqlite3.Error as error:
        return f"is damaged: {error}"
    finally:
        db.close()
    if first != "ok":
        return f"is damaged: {first}"
    return "" if {"users", "tokens", "repos"} <= tables else "is not the file of a Hub"


def salvage(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table as far as a broken file gives them."""
    tables: dict[str, list[dict[str, Any]]] = {}
    try:
        db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=30)
        db.row_factory = sqlite3.Row
        names = [row[0] for row in db.execute("select name from sqlite_master where type='table'")]
    except sqlite3.Error:
        return {}
    for name in names:
        if name.startswith("sqlite_") or not name.isidentifier():
            continue
        rows = tables.setdefault(name, [])
        try:
            for row in db.execute(f"select * from {name} not indexed"):
                rows.append(dict(row))
        except sqlite3.Error:
            continue
    db.close()
    return tables


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))


def _open_to_others(root: Path) -> Iterator[Finding]:
    """Yield what of ours can be read by other users of this machine."""
    count = sum(1 for path in _ours(root) if path.lstat().st_mode & 0o077)
    if count:
        yield Finding(MODE, str(root), f"has {count} files and folders that others may read")


def _ours(root: Path) -> Iterator[Path]:
    for name in (store.ACCOUNTS, "secret", "hub.lock", "server.log", "quarantine"):
        if (root / name).exists():
            yield root / name
    for folder in folders.numbered(root / "repos").values():
        if folders.is_repository(folder):
            yield folder
            yield from (path for path in folder.rglob("*") if not path.is_symlink())


def _plan(finding: Finding) -> str:
    return {
        ACCOUNTS: "move it to quarantine; new records from its readable rows and the folders",
        folders.NO_FOLDER: "move the record (and what is left of the folder) to quarantine",
        folders.NO_RECORD: "make a record from the folder",
        folders.OTHER: "move the record to quarantine, make another from the folder",
        folders.STRAY: "leave it alone",
        folders.DEAD: "move it to quarantine",
        folders.UNDELETED: "give it its name back",
        folders.NEWER: "bring the record up to the folder",
        folders.OLDER: "write the record into the folder",
        proof.REFERENCE: "move its file to quarantine; main goes to the newest whole commit",
        proof.CONTENT: "nothing: restore it from a backup, or push again",
        MODE: "keep them to their owner",
    }[finding.kind]


def _repair(root: Path, quarantine: Path) -> Iterator[Finding]:
    broken, _ = _accounts(root)
    for finding in broken:
        yield replace(finding, action=_new_accounts(root, quarantine))
    store.prepare_accounts(root)
    records = {repo.id: repo for repo in store.all_repos(root)}
    for finding in list(folders.compare(root, records.values(), store.gone(root))):
        record = None
        if finding.kind != folders.STRAY:
            record = records.get(int(Path(finding.where).name.removeprefix(folders.DELETED)))
        yield replace(finding, action=_mend(root, finding, record, quarantine))
    for folder in folders.numbered(root / "repos").values():
        if folders.is_repository(folder):
            for finding in list(proof.problems(folder)):
                yield replace(finding, action=_mend_content(root, folder, finding, quarantine))
    for finding in list(_open_to_others(root)):
        for path in _ours(root):
            path.chmod(path.lstat().st_mode & 0o700)
        yield replace(finding, action="kept to their owner")


def _new_accounts(root: Path, quarantine: Path) -> str:
    """Make new accounts from the rows of the broken ones that can be read."""
    path, rows = root / store.ACCOUNTS, salvage(root / store.ACCOUNTS)
    for old in sorted(root.glob(f"{store.ACCOUNTS}*")):
        _set_aside(root, old, quarantine)
    path.touch(mode=0o600)
    count = 0
    with store.connect(root, new=True) as db:
        db.execute("pragma defer_foreign_keys = on")
        first = [name for name in ("users", "tokens", "repos") if name in rows]
        for table in first + [name for name in rows if name not in first]:
            count += sum(_insert(db, table, row) for row in rows[table])
        for table, rowid, *_ in db.execute("pragma foreign_key_check").fetchall():
            db.execute(f"delete from {table} where rowid = ?", (rowid,))
    kept = f"{count} rows could be read" if count else "no row could be read: make new tokens"
    return f"moved to {quarantine} as far as it was there; {kept}"


def _insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    names = ", ".join(row)
    try:
        done = db.execute(
            f"insert or ignore into {table} ({names}) values ({', '.join('?' * len(row))})",
            tuple(row.values()),
        )
    except sqlite3.Error:
        return 0
    return done.rowcount


def _mend(root: Path, finding: Finding, record: Repo | None, quarantine: Path) -> str:
    folder = Path(finding.where)
    if finding.kind == folders.STRAY:
        return "left alone"
    if finding.kind == folders.NO_FOLDER:
        _forget(root, record, quarantine)
        if folder.exists():
            _set_aside(root, folder, quarantine)
        return f"record moved to {quarantine}"
    deleted = folder.name.startswith(folders.DELETED)
    if finding.kind == folders.DEAD or (deleted and finding.kind == folders.NO_RECORD):
        _set_aside(root, folder, quarantine)
        return f"moved to {quarantine}"
    if finding.kind in (folders.NO_RECORD, folders.OTHER):
        if record is not None:
            _forget(root, record, quarantine)
        return f"recorded as {_record(root, folder)}"
    try:
        store.mend_one(root, finding, {folder.name: record} if record else {})
    except sqlite3.IntegrityError:
        return f"recorded as {_record(root, folder)}"
    return "mended"


def _forget(root: Path, record: Repo | None, quarantine: Path) -> None:
    """Write a record, and the places in collections that it has, to quarantine; then let it go."""
    if record is None:
        return
    with store.connect(root) as db:
        items = db.execute("select * from items where repo = ?", (record.id,)).fetchall()
        kept = {**asdict(record), "items": [dict(item) for item in items]}
        quarantine.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(kept, indent=1).encode()
        disk.write_file(quarantine / f"record-{record.id}.json", text)
        db.execute("delete from repos where id = ?", (record.id,))


def _record(root: Path, folder: Path) -> str:
    """Make a record from a folder; without a description it is private, and its name is new."""
    number = int(folder.name)
    value = folders.read_description(folder)
    repo = Repo(**{**value, "id": number}) if value else _guess(folder, number)
    with store.connect(root) as db:
        try:
            store.adopt(db, repo)
        except sqlite3.IntegrityError:
            repo = replace(repo, name=f"{repo.name[:70]}-recovered-{number}", private=True)
            store.adopt(db, repo)
    folders.write_description(folder, repo)
    return f"{'private ' if repo.private else ''}{repo.kind} {repo.full_name}"


def _guess(folder: Path, number: int) -> Repo:
    """Return a record for a folder of an earlier version: its owner made the first commit."""
    owner, made = "recovered", folder.stat().st_mtime
    good, _ = proof.tips(folder / "git")
    for commit in good.values():
        *_, first = history.log(history.open_(folder / "git"), commit)
        if store.valid_name(first.author.name):
            owner, made = first.author.name, float(first.commit_time)
            break
    return Repo(number, "dataset", owner, f"recovered-{number}", True, "", made)


def _mend_content(root: Path, folder: Path, finding: Finding, quarantine: Path) -> str:
    if finding.kind != proof.REFERENCE:
        return "nothing: restore it from a backup, or push again"
    path, done = Path(finding.where), "its file is in quarantine"
    if path.is_file():
        _set_aside(root, path, quarantine)
    name = path.relative_to(folder / "git").as_posix()
    if name == "refs/heads/main" and (newest := proof.newest_loose_end(folder / "git")):
        history.open_(folder / "git").references.create(name, pygit2.Oid(hex=newest), force=True)
        done = f"leads to the newest whole commit {newest}"
    return done


def _set_aside(root: Path, path: Path, quarantine: Path) -> None:
    """Move something to quarantine, under the place it had."""
    target = quarantine / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.rename(target)

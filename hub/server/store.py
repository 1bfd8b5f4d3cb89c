"""Accounts, tokens and repository records in SQLite; folders of repositories by number."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.server import disk, folders
from usermirrorer.hub.server.records import KINDS, RESERVED, Repo, valid_name

__all__ = ["KINDS", "Repo", "valid_name"]

_SCHEMA = """
create table if not exists users (name text primary key collate nocase, created real not null);
create table if not exists tokens (
    digest text primary key, user text not null references users(name), label text not null,
    role text not null check (role in ('read', 'write')), created real not null);
create table if not exists repos (
    -- Never given out twice: clients keep in mind what they sent to the address of an id.
    id integer primary key autoincrement, kind text not null,
    namespace text not null collate nocase, name text not null collate nocase,
    private integer not null, gated text not null,
    created real not null, revision integer not null default 0, unique (kind, namespace, name));
-- Where a repository was before it moved: old names lead to it until somebody takes them.
create table if not exists moves (
    kind text not null, namespace text not null collate nocase, name text not null collate nocase,
    repo integer not null references repos(id) on delete cascade,
    primary key (kind, namespace, name));
-- Who asked to read a gated repository, or was let in unasked.
create table if not exists grants (
    id integer primary key, repo integer not null references repos(id) on delete cascade,
    user text not null collate nocase references users(name),
    status text not null check (status in ('pending', 'accepted', 'rejected')),
    reason text not null default '', changed real not null, unique (repo, user));
-- What proves of a folder that stepped aside that its repository was deleted.
create table if not exists gone (id integer primary key);
create table if not exists collections (
    id integer primary key, namespace text not null collate nocase, title text not null,
    description text not null, private integer not null, changed real not null,
    theme text not null default 'blue', position integer not null default 0,
    unique (namespace, title));
create table if not exists items (
    id integer primary key, collection integer not null references collections(id)
    on delete cascade, repo integer not null references repos(id) on delete cascade,
    note text not null, position integer not null default 0, unique (collection, repo));
"""
#: Columns that earlier versions did not have: table, column, type.
_ADDED = (
    ("repos", "revision", "integer not null default 0"),
    ("collections", "theme", "text not null default 'blue'"),
    ("collections", "position", "integer not null default 0"),
    ("items", "position", "integer not null default 0"),
)
#: How long a browser stays signed in.
_SESSION_SECONDS = 12 * 3600
#: The file of accounts, tokens and records; and what says that a folder is a backup only.
ACCOUNTS, BACKUP_MARK = "hub.sqlite", "backup.json"
_SECRET_BYTES = 32
#: Digits of a token's hash that name it.
_KEY = 12
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_log = logging.getLogger("usermirrorer.hub")


@dataclass(frozen=True)
class User:
    """A signed-in user, with the role of the token in use (`read` or `write`).

    `key` names the token, as `list_tokens` does; it opens nothing.
    """

    name: str
    role: str
    label: str
    key: str = ""


class Store:
    """The folder of one local Hub. Only one process may have it open.

    Raises:
        UserError: if another process serves the same folder, or if its accounts are broken, or
            do not name the repositories that are there.
    """

    def __init__(self, root: Path) -> None:
        disk.keep_private()
        self.root = Path(root).resolve()
        _make_folders(self.root)
        self._lock_file = lock(self.root)
        try:
            self.locks: defaultdict[int, threading.RLock] = defaultdict(threading.RLock)
            self.secret = _secret(self.root / "secret")
            prepare_accounts(self.root)
            mend(self.root, all_repos(self.root))
            for repo in self.repos():
                _tidy(self.folder(repo))
            _begin_service(self.root)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process open the folder."""
        self._lock_file.close()

    def folder(self, repo: Repo) -> Path:
        """Return where the repository lies: `git/`, `lfs/` and `incoming/` are below it."""
        return self.root / "repos" / str(repo.id)

    def sign(self, *parts: object) -> str:
        """Return a signature of `parts` that only this server can make."""
        text = "\0".join(map(str, parts)).encode()
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()

    def signed(self, signature: str, *parts: object) -> bool:
        """Check a signature in constant time."""
        return hmac.compare_digest(self.sign(*parts).encode(), signature.encode())

    def user(self, token: str) -> User | None:
        """Return whose token this is, None if it is nobody's."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        with connect(self.root) as db:
            row = db.execute("select * from tokens where digest = ?", (digest,)).fetchone()
        if row is None or not hmac.compare_digest(row["digest"], digest):
            return None
        return User(row["user"], row["role"], row["label"], digest[:_KEY])

    def holder(self, key: str) -> User | None:
        """Return whose token has this `key`, None if it was revoked meanwhile."""
        with connect(self.root) as db:
            row = db.execute(
                f"select * from tokens where substr(digest, 1, {_KEY}) = ?", (key,)
            ).fetchone()
        return None if row is None else User(row["user"], row["role"], row["label"], key)

    def open_session(self, token: str) -> str | None:
        """Return what a browser may keep instead of this token; None if it is nobody's.

        It reads only, for some hours, and no longer than the token itself is good.
        """
        if self.user(token) is None:
            return None
        digest = hashlib.sha256(token.encode()).hexdigest()
        expires = int(time.time()) + _SESSION_SECONDS
        return f"{expires}.{digest}.{self.sign('session', digest, expires)}"

    def session(self, kept: str) -> User | None:
        """Return whose browser this is, None without a session that is still good."""
        expires, _, rest = kept.partition(".")
        digest, _, signature = rest.partition(".")
        if not self.signed(signature, "session", digest, expires) or int(expires) < time.time():
            return None
        with connect(self.root) as db:
            row = db.execute("select * from tokens where digest = ?", (digest,)).fetchone()
        return None if row is None else User(row["user"], "read", row["label"], digest[:_KEY])

    def find(self, kind: str, namespace: str, name: str) -> Repo | None:
        """Return a repository, None if there is none."""
        repos = self.repos("kind = ? and namespace = ? and name = ?", (kind, namespace, name))
        return repos[0] if repos else None

    def moved(self, kind: str, namespace: str, name: str) -> Repo | None:
        """Return the repository that once had this name, None if there is none."""
        named = "select repo from moves where kind = ? and namespace = ? and name = ?"
        repos = self.repos(f"id = ({named})", (kind, namespace, name))
        return repos[0] if repos else None

    def grant(self, repo: Repo, user: str) -> str | None:
        """Return how a user's wish to read a gated repository stands, None if there is none."""
        with connect(self.root) as db:
            asked = "select status from grants where repo = ? and user = ?"
            row = db.execute(asked, (repo.id, user)).fetchone()
        return None if row is None else str(row["status"])

    def repos(self, where: str = "1", values: tuple[Any, ...] = ()) -> list[Repo]:
        """Return repositories that fulfil an SQL condition, newest first."""
        with connect(self.root) as db:
            rows = db.execute(f"select * from repos where {where} order by created desc", values)
            return [_repo(row) for row in rows]

    def create(
        self,
        kind: str,
        namespace: str,
        name: str,
        private: bool,
        fill: Callable[[Path], None] | None = None,
    ) -> Repo | None:
        """Record a repository and make its folder; None if it exists.

        The folder is filled before the record is committed, by `history.create` if nothing else is
        given, and says so until then: what a kill in between leaves is unborn, and goes at the next
        start. Meanwhile others can write to the accounts: to fill it may take long.
        """
        if self.find(kind, namespace, name) is not None:
            return None
        with connect(self.root) as db:
            number = _free_number(db, self.root)
            repo = Repo(number, kind, namespace, name, private, "", time.time())
            folder = self.folder(repo)
            folders.make(folder)
        try:
            _fill(folder, repo, fill)
            with connect(self.root) as db:
                _forget_move(db, kind, namespace, name)
                db.execute(
                    "insert into repos (id, kind, namespace, name, private, gated, created)"
                    " values (?, ?, ?, ?, ?, ?, ?)",
                    (repo.id, kind, namespace, name, private, "", repo.created),
                )
        except BaseException as error:
            with contextlib.suppress(OSError):
                folders.erase(folder, folders.UNBORN)
            if isinstance(error, sqlite3.IntegrityError):  # somebody else was faster
                return None
            raise
        (folder / folders.UNBORN).unlink()
        disk.sync_folder(folder)
        return repo

    def update(self, repo: Repo, **columns: Any) -> None:
        """Change `private`, `gated`, `namespace` or `name`, in the record and in the folder.

        Raises:
            sqlite3.IntegrityError: if the new name is taken.
        """
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with connect(self.root) as db:
            db.execute(
                f"update repos set {assignments}, revision = revision + 1 where id = ?",
                (*columns.values(), repo.id),
            )
            row = db.execute("select * from repos where id = ?", (repo.id,)).fetchone()
            if row is None:
                return
            if (repo.namespace, repo.name) != (row["namespace"], row["name"]):
                _forget_move(db, repo.kind, row["namespace"], row["name"])
                old = (repo.kind, repo.namespace, repo.name, repo.id)
                db.execute("insert or replace into moves values (?, ?, ?, ?)", old)
            before = (self.folder(repo) / folders.DESCRIPTION).read_bytes()
            folders.write_description(self.folder(repo), _repo(row))
            try:
                db.commit()
            except sqlite3.Error:
                disk.write_file(self.folder(repo) / folders.DESCRIPTION, before)
                raise

    def delete(self, repo: Repo) -> None:
        """Forget a repository, then remove its folder.

        The folder steps aside before the record goes, and is erased after: a kill in between
        leaves either the repository, or what proves to be gone.
        """
        folder = self.folder(repo)
        dead = folder.with_name(f"{folders.DELETED}{repo.id}")
        with connect(self.root) as db:
            db.execute("delete from repos where id = ?", (repo.id,))
            db.execute("insert or ignore into gone values (?)", (repo.id,))
            folder.rename(dead)
            try:
                disk.sync_folder(dead.parent)
                db.commit()
            except BaseException:
                dead.rename(folder)
                raise
        erase_deleted(dead)


def all_repos(root: Path) -> list[Repo]:
    """Return the records of a data folder that no server serves."""
    with connect(root) as db:
        return [_repo(row) for row in db.execute("select * from repos order by id")]


def gone(root: Path) -> set[int]:
    """Return the ids of the repositories that the accounts know to be deleted."""
    with connect(root) as db:
        return {row["id"] for row in db.execute("select id from gone")}


def _repo(row: sqlite3.Row) -> Repo:
    return Repo(**{**dict(row), "private": bool(row["private"])})


def _forget_move(db: sqlite3.Connection, kind: str, namespace: str, name: str) -> None:
    """Let a name lead nowhere else, as it is taken now."""
    taken = "delete from moves where kind = ? and namespace = ? and name = ?"
    db.execute(taken, (kind, namespace, name))


def _free_number(db: sqlite3.Connection, root: Path) -> int:
    """Return an id that no repository has, had, or has a folder of (whatever the records say)."""
    db.execute("delete from repos where 0")  # takes the right to write: two never get the same
    last = db.execute("select seq from sqlite_sequence where name = 'repos'").fetchone()
    names = (folders.number_of(path) for path in (root / "repos").iterdir())
    numbers = (int(name) for name in names if name.isdecimal() and len(name) < 18)
    return max(last["seq"] if last else 0, *numbers, 0) + 1


def _fill(folder: Path, repo: Repo, fill: Callable[[Path], None] | None) -> None:
    """Make all that is in the folder of a new repository."""
    from usermirrorer.hub.server import history

    for part in ("lfs", "incoming"):
        (folder / part).mkdir()
    if fill is None:
        history.create(folder / "git", repo.namespace)
    else:
        fill(folder)
    folders.write_description(folder, repo)
    disk.sync_folder(folder.parent)


def erase_deleted(folder: Path) -> None:
    """Erase a folder whose record is gone; a kill in between leaves one that says so."""
    folders.mark(folder, folders.GONE)
    (folder / folders.DESCRIPTION).unlink(missing_ok=True)
    folders.erase(folder, folders.GONE)


@contextlib.contextmanager
def connect(root: Path, *, new: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the accounts of a Hub's folder for one transaction; made if the folder is a new one.

    `new`: make them whatever is there.

    No write-ahead log: with it, even reading needs files to be made, and fails on a full disk.

    Raises:
        UserError: if they are missing or broken, and there are repositories.
    """
    path = Path(root) / ACCOUNTS
    if not new and (not path.exists() or not path.stat().st_size):
        _make_accounts(path)
    db = sqlite3.connect(path, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        db.executescript("pragma synchronous = full; pragma foreign_keys = on;" + _SCHEMA)
        db.execute("begin")
        yield db
        db.commit()
    except sqlite3.DatabaseError as error:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BROKEN or "short read" in str(error):
            raise broken_accounts(path, f"are damaged ({error})") from error
        raise
    finally:
        db.close()


def broken_accounts(path: Path, why: str) -> UserError:
    """Return what to say of accounts that cannot be relied upon."""
    fix = f"Put the right file back, or run `usermirrorer hub repair --root {path.parent}`: it"
    fix += " makes new records from the folders and deletes nothing."
    return UserError(f"the accounts of this Hub {why}", where=path, fix=fix)


def _make_accounts(path: Path) -> None:
    if folders.any_repository(path.parent):
        why = "are an empty file" if path.exists() else "are missing"
        raise broken_accounts(path, f"{why}, though it has repositories")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def prepare_accounts(root: Path) -> None:
    """Prove that the accounts are whole, and bring those of an earlier version up to date.

    Raises:
        UserError: if they are not whole.
    """
    path = root / ACCOUNTS
    with connect(root) as db:
        try:
            problems = [row[0] for row in db.execute("pragma quick_check(1)")]
        except sqlite3.DatabaseError as error:
            problems = [str(error)]
        if problems != ["ok"]:
            raise broken_accounts(path, f"are damaged ({problems[0]})")
        for table, column, kind in _ADDED:
            if column in {row["name"] for row in db.execute(f"pragma table_info({table})")}:
                continue
            try:
                db.execute(f"alter table {table} add column {column} {kind}")
            except sqlite3.OperationalError as error:  # reading goes on without it
                _log.warning("%s: %s", path, error)
    db = sqlite3.connect(path, timeout=30)
    try:
        db.execute("pragma journal_mode = delete")
    except sqlite3.OperationalError as error:
        _log.warning("%s: %s", path, error)
    finally:
        db.close()


def mend(root: Path, records: list[Repo]) -> None:
    """Finish what a kill interrupted, where that is certain; report what is not ours.

    Raises:
        UserError: if folders and records disagree.
    """
    findings = list(folders.compare(root, records, gone(root)))
    if serious := [one for one in findings if one.kind in folders.SERIOUS]:
        first = f"{serious[0].where} {serious[0].what}"
        fix = f"See `usermirrorer hub check --root {root}`; put the right {ACCOUNTS} or folders"
        fix += f" back, or run `usermirrorer hub repair --root {root}`, which deletes nothing."
        what = f"folders and records disagree about {len(serious)} repositories ({first})"
        raise UserError(what, where=root, fix=fix)
    for finding in findings:
        if finding.kind == folders.STRAY:
            _log.warning("%s %s", finding.where, finding.what)
            continue
        try:
            mend_one(root, finding, {str(repo.id): repo for repo in records})
        except (OSError, sqlite3.Error) as error:
            _log.warning("%s %s, and cannot be mended: %s", finding.where, finding.what, error)


def mend_one(root: Path, finding: folders.Finding, records: dict[str, Repo]) -> None:
    """Finish what a kill interrupted."""
    folder = Path(finding.where)
    if finding.kind == folders.DEAD:
        gone = folder.name.startswith(folders.DELETED)
        folders.erase(folder, folders.GONE if gone else folders.UNBORN)
    elif finding.kind == folders.UNDELETED:
        folder.rename(folder.with_name(folder.name.removeprefix(folders.DELETED)))
    elif finding.kind == folders.OLDER:
        folders.write_description(folder, records[folder.name])
    elif finding.kind == folders.NEWER and (value := folders.read_description(folder)):
        with connect(root) as db:
            adopt(db, Repo(**value))


def adopt(db: sqlite3.Connection, repo: Repo) -> None:
    """Make a record say what its folder says.

    Raises:
        sqlite3.IntegrityError: if the name is taken.
    """
    values = asdict(repo)
    names = ", ".join(values)
    changes = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
    db.execute(
        f"insert into repos ({names}) values ({', '.join('?' * len(values))})"
        f" on conflict (id) do update set {changes}",
        tuple(values.values()),
    )


def create_token(root: Path, user: str, role: str = "write", label: str = "token") -> str:
    """Make a token for `user` (made if missing) and return it; only its hash is stored.

    Raises:
        UserError: if the user name has characters that a repository name cannot have, or is new
            and a word with which addresses begin.
    """
    if not valid_name(user):
        raise UserError(f"{user!r} cannot be a user name", fix="Use letters, digits, '-' and '_'.")
    token = f"hf_{secrets.token_hex(24)}"
    with connect(root) as db:
        known = db.execute("select 1 from users where name = ?", (user,)).fetchone()
        if user.lower() in RESERVED and not known:  # those of earlier versions stay
            what = f"{user!r} cannot be a user name: addresses of this Hub begin with it"
            raise UserError(what, fix="Choose another name.")
        db.execute("insert or ignore into users values (?, ?)", (user, time.time()))
        name = db.execute("select name from users where name = ?", (user,)).fetchone()["name"]
        digest = hashlib.sha256(token.encode()).hexdigest()
        db.execute(
            "insert into tokens values (?, ?, ?, ?, ?)", (digest, name, label, role, time.time())
        )
    return token


def list_tokens(root: Path) -> list[dict[str, Any]]:
    """Return every token's `id` (start of its hash), `user`, `label`, `role` and `created`."""
    with connect(root) as db:
        rows = db.execute(
            f"select substr(digest, 1, {_KEY}) as id, user, label, role, created from tokens"
        )
        return [dict(row) for row in rows]


def revoke_token(root: Path, token_id: str) -> None:
    """Revoke the token that `list_tokens` names `token_id`.

    Raises:
        UserError: if there is none.
    """
    with connect(root) as db:
        gone = db.execute(f"delete from tokens where substr(digest, 1, {_KEY}) = ?", (token_id,))
        if not gone.rowcount:
            raise UserError(f"no token has the id {token_id!r}", fix="See `hub token list`.")


def _make_folders(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        (root / "repos").mkdir(exist_ok=True)
        if (root / ACCOUNTS).exists():
            root.chmod(0o700)
    except FileExistsError:
        raise UserError("is not a folder", where=root / "repos") from None
    except OSError as error:
        if not (root / "repos").is_dir():
            raise unwritable(error, root) or UserError(
                f"cannot be made: {error.strerror}", where=root
            ) from None


def lock(root: Path) -> BinaryIO:
    """Take a data folder for this process alone, until what is returned is closed.

    Raises:
        UserError: if another process has it.
    """
    path = root / "hub.lock"
    try:
        file: BinaryIO = path.open("ab")
    except OSError:  # on a disk that cannot be written nobody else writes either
        file = (path if path.exists() else root / ACCOUNTS).open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError("another server uses this folder", where=root) from None
    return file


def _secret(path: Path) -> bytes:
    """Return what this server signs with; made anew where the file cannot be one.

    What was signed before is then good for nothing: browsers sign in again, uploads ask again.
    """
    kept = path.read_bytes() if path.exists() else None
    if kept is not None and len(kept) >= _SECRET_BYTES and len(set(kept)) > _SECRET_BYTES // 4:
        return kept
    if kept is not None:
        _log.warning("%s is no secret (%d bytes): a new one is made", path, len(kept))
    made = secrets.token_bytes(_SECRET_BYTES)
    try:
        disk.write_file(path, made)
    except OSError as error:
        _log.warning("%s cannot be written (%s): used until this server ends", path, error)
    return made


def _begin_service(root: Path) -> None:
    """A backup that is served has a life of its own: no later backup may be written over it."""
    try:
        (root / BACKUP_MARK).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: %s", root / BACKUP_MARK, error)


def _tidy(folder: Path) -> None:
    """Remove what a kill left in a repository: locks of git, files that were being written."""
    git = folder / "git"
    try:
        folder.chmod(0o700)
        (folder / folders.UNBORN).unlink(missing_ok=True)
        for left in [*git.rglob("refs/**/*.lock"), *git.glob("*.lock"), *git.glob("objects/tmp_*")]:
            left.unlink()
        for left in git.glob("objects/pack/tmp_*"):
            shutil.rmtree(left)
        shutil.rmtree(folder / "incoming", ignore_errors=True)
        (folder / "incoming").mkdir(exist_ok=True)
    except OSError as error:
        _log.warning("%s cannot be tidied: %s", folder, error)

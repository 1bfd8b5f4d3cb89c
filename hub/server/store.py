"""Accounts, tokens and repository records in SQLite; folders of repositories by number."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.errors import UserError

KINDS = ("model", "dataset", "space")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
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
    created real not null, unique (kind, namespace, name));
create table if not exists collections (
    id integer primary key, namespace text not null collate nocase, title text not null,
    description text not null, private integer not null, changed real not null,
    unique (namespace, title));
create table if not exists items (
    id integer primary key, collection integer not null references collections(id)
    on delete cascade, repo integer not null references repos(id) on delete cascade,
    note text not null, unique (collection, repo));
"""
#: How long a browser stays signed in.
_SESSION_SECONDS = 12 * 3600


@dataclass(frozen=True)
class User:
    """A signed-in user, with the role of the token in use (`read` or `write`)."""

    name: str
    role: str
    label: str


@dataclass(frozen=True)
class Repo:
    """One repository. `gated` is "" (open), "auto" (any signed-in user) or "manual" (owner)."""

    id: int
    kind: str
    namespace: str
    name: str
    private: bool
    gated: str
    created: float

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


class Store:
    """The folder of one local Hub. Only one process may have it open.

    Raises:
        UserError: if another process serves the same folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()
        (self.root / "repos").mkdir(parents=True, exist_ok=True)
        self._lock_file = (self.root / "hub.lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another server uses this folder", where=self.root) from None
        self.locks: defaultdict[int, threading.RLock] = defaultdict(threading.RLock)
        self.secret = _secret(self.root / "secret")
        with connect(self.root) as db:
            kept = {str(row["id"]) for row in db.execute("select id from repos")}
        _clean_up(self.root / "repos", kept)

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
        return User(row["user"], row["role"], row["label"])

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
        return None if row is None else User(row["user"], "read", row["label"])

    def find(self, kind: str, namespace: str, name: str) -> Repo | None:
        """Return a repository, None if there is none."""
        repos = self.repos("kind = ? and namespace = ? and name = ?", (kind, namespace, name))
        return repos[0] if repos else None

    def repos(self, where: str = "1", values: tuple[Any, ...] = ()) -> list[Repo]:
        """Return repositories that fulfil an SQL condition, newest first."""
        with connect(self.root) as db:
            rows = db.execute(f"select * from repos where {where} order by created desc", values)
            return [Repo(**{**dict(row), "private": bool(row["private"])}) for row in rows]

    def create(self, kind: str, namespace: str, name: str, private: bool) -> Repo | None:
        """Record a repository and make its folder; None if it exists.

        The folder is filled by `history.create` before the record is committed (see `connect`):
        a kill in between leaves a folder without a record, which the next start removes.
        """
        from usermirrorer.hub.server import history

        now = time.time()
        with connect(self.root) as db:
            try:
                cursor = db.execute(
                    "insert into repos (kind, namespace, name, private, gated, created)"
                    " values (?, ?, ?, ?, '', ?)",
                    (kind, namespace, name, private, now),
                )
            except sqlite3.IntegrityError:
                return None
            repo = Repo(int(cursor.lastrowid or 0), kind, namespace, name, private, "", now)
            shutil.rmtree(self.folder(repo), ignore_errors=True)
            for part in ("lfs", "incoming"):
                (self.folder(repo) / part).mkdir(parents=True)
            history.create(self.folder(repo) / "git", namespace)
        return repo

    def update(self, repo: Repo, **columns: Any) -> None:
        """Change `private`, `gated`, `namespace` or `name`.

        Raises:
            sqlite3.IntegrityError: if the new name is taken.
        """
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with connect(self.root) as db:
            db.execute(f"update repos set {assignments} where id = ?", (*columns.values(), repo.id))

    def delete(self, repo: Repo) -> None:
        """Forget a repository, then remove its folder."""
        with connect(self.root) as db:
            db.execute("delete from repos where id = ?", (repo.id,))
        shutil.rmtree(self.folder(repo), ignore_errors=True)


@contextlib.contextmanager
def connect(root: Path) -> Iterator[sqlite3.Connection]:
    """Open the accounts of a Hub's folder for one transaction; made if missing."""
    Path(root).mkdir(parents=True, exist_ok=True)
    path = Path(root) / "hub.sqlite"
    new = not path.exists()
    db = sqlite3.connect(path, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        if new:
            path.chmod(0o600)
            db.execute("pragma journal_mode = wal")
        db.executescript("pragma synchronous = full; pragma foreign_keys = on;" + _SCHEMA)
        db.execute("begin immediate" if new else "begin")
        yield db
        db.commit()
    finally:
        db.close()


def valid_name(name: object) -> bool:
    """Say whether `name` may be a user's or a repository's."""
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and ".." not in name
        and "--" not in name
        and not name.endswith((".git", ".ipynb"))
    )


def create_token(root: Path, user: str, role: str = "write", label: str = "token") -> str:
    """Make a token for `user` (made if missing) and return it; only its hash is stored.

    Raises:
        UserError: if the user name has characters that a repository name cannot have.
    """
    if not valid_name(user):
        raise UserError(f"{user!r} cannot be a user name", fix="Use letters, digits, '-' and '_'.")
    token = f"hf_{secrets.token_hex(24)}"
    with connect(root) as db:
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
            "select substr(digest, 1, 12) as id, user, label, role, created from tokens"
        )
        return [dict(row) for row in rows]


def revoke_token(root: Path, token_id: str) -> None:
    """Revoke the token that `list_tokens` names `token_id`.

    Raises:
        UserError: if there is none.
    """
    with connect(root) as db:
        gone = db.execute("delete from tokens where substr(digest, 1, 12) = ?", (token_id,))
        if not gone.rowcount:
            raise UserError(f"no token has the id {token_id!r}", fix="See `hub token list`.")


def _secret(path: Path) -> bytes:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def _clean_up(folder: Path, kept: set[str]) -> None:
    """Remove what a kill left behind: folders without a record, lock files, half uploads."""
    for repo in folder.iterdir():
        if repo.name not in kept:
            shutil.rmtree(repo)
            continue
        git = repo / "git"
        for left in [*git.rglob("refs/**/*.lock"), *git.glob("*.lock"), *git.glob("objects/tmp_*")]:
            left.unlink()
        shutil.rmtree(repo / "incoming", ignore_errors=True)
        (repo / "incoming").mkdir()

"""Files of the data folder: written whole, on the disk before a call returns, for nobody else."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

from usermirrorer.builders.common.disks import NO_ROOM, NOT_ALLOWED


def keep_private() -> None:
    """Let everything that this process makes be readable by its user alone (0600, 0700)."""
    os.umask(0o077)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file, durably, in one visible step."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - mkstemp gives a descriptor
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_folder(path.parent)


def refusal(error: BaseException) -> str:
    """Say why the disk did not take something, "" if that is not what `error` is about.

    libgit2 and SQLite have errors of their own for it, without a number of the operating system.
    """
    number = error.errno if isinstance(error, OSError) else None
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    text = "" if isinstance(error, sqlite3.Error) or number else str(error)
    if (
        number in NO_ROOM
        or code == sqlite3.SQLITE_FULL
        or any(os.strerror(n) in text for n in NO_ROOM)
    ):
        return "The disk of this Hub is full: nothing was stored. Free some space and try again."
    if (
        number in NOT_ALLOWED
        or code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
        or any(os.strerror(n) in text for n in NOT_ALLOWED)
    ):
        return "The folder of this Hub cannot be written: nothing was stored; reading goes on."
    return ""

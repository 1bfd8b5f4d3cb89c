"""Large files of one repository, each named by its SHA-256: receive, prove, send in ranges."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from usermirrorer.hub.server import disk

#: Bytes moved at a time; memory stays bounded whatever the size of a file.
BLOCK = 1 << 20
OID = re.compile(r"[0-9a-f]{64}")
#: A pointer to a large file is shorter than this.
POINTER_LIMIT = 1024
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:[a-z0-9.-]+ [^\n]*\n)*?"
    rb"oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n"
)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class OutsideRange(Exception):
    """No byte of the range that is asked for exists; the argument is the size."""


class WrongContent(ValueError):
    """What arrived is not what was announced (size or SHA-256)."""


def path_of(folder: Path, oid: str) -> Path:
    """Return where the object lies below a repository's folder.

    Raises:
        ValueError: if `oid` is not 64 lower-case hex digits.
    """
    if not OID.fullmatch(oid):
        raise ValueError(f"not a SHA-256: {oid[:80]!r}")
    return folder / "lfs" / oid[:2] / oid[2:4] / oid


def size_of(folder: Path, oid: str) -> int | None:
    """Return the object's size in bytes, None if it is not there."""
    try:
        return path_of(folder, oid).stat().st_size
    except (FileNotFoundError, ValueError):
        return None


class Incoming:
    """A file being received: `write` blocks, then `finish`, which proves and publishes it.

    Nothing is visible before `finish` returns; a kill leaves a file in `incoming/` only.
    """

    def __init__(self, folder: Path, oid: str, size: int) -> None:
        self.target, self.oid, self.expected = path_of(folder, oid), oid, size
        self.file = tempfile.NamedTemporaryFile(dir=folder / "incoming", delete=False)  # noqa: SIM115
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append a block.

        Raises:
            WrongContent: as soon as more than the announced bytes arrive.
        """
        self.size += len(block)
        if self.size > self.expected:
            raise WrongContent(f"more than the announced {self.expected} bytes")
        self.digest.update(block)
        self.file.write(block)

    def finish(self) -> None:
        """Prove size and hash, then rename the file into place, durably.

        Raises:
            WrongContent: if either is not as announced.
        """
        if self.size != self.expected:
            raise WrongContent(f"{self.size} bytes came, {self.expected} were announced")
        if self.digest.hexdigest() != self.oid:
            raise WrongContent(f"content has SHA-256 {self.digest.hexdigest()}, not {self.oid}")
        self.file.flush()
        os.fsync(self.file.fileno())
        for parent in (self.target.parent.parent, self.target.parent):
            parent.mkdir(exist_ok=True)  # those above are gone if the repository is: leave them so
        Path(self.file.name).replace(self.target)
        for parent in (self.target.parent, *self.target.parents[1:3]):
            disk.sync_folder(parent)

    def close(self) -> None:
        """Drop whatever was not finished."""
        self.file.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.file.name).unlink()


def link(source: Path, target: Path, oid: str) -> None:
    """Give a large file of one repository's folder to another, without a copy where that works.

    Raises:
        FileNotFoundError: if it is not there.
    """
    old, new = path_of(source, oid), path_of(target, oid)
    if size_of(target, oid) is not None:
        return
    for parent in (new.parent.parent, new.parent):
        parent.mkdir(exist_ok=True)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:  # this disk has no links, or no more of this file
        incoming = Incoming(target, oid, old.stat().st_size)
        try:
            for block in read_blocks(old, 0, incoming.expected):
                incoming.write(block)
            incoming.finish()
        finally:
            incoming.close()
    for parent in (new.parent, *new.parents[1:3]):
        disk.sync_folder(parent)


def read_blocks(path: Path, start: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes of a file from `start`, a block at a time."""
    with path.open("rb") as file:
        file.seek(start)
        while length > 0 and (block := file.read(min(BLOCK, length))):
            length -= len(block)
            yield block


def asked_range(header: str, size: int) -> tuple[int, int, bool]:
    """Return start, end (exclusive) and whether it is a part, of a `Range` header.

    Headers that ask for several ranges, or are none, mean the whole.

    Raises:
        OutsideRange: if nothing of `size` bytes is asked for.
    """
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if not match or not (match[1] or match[2]):
        return 0, size, False
    start = int(match[1]) if match[1] else max(0, size - int(match[2]))
    end = min(size, int(match[2]) + 1) if match[1] and match[2] else size
    if start >= end:
        raise OutsideRange(size)
    return start, end, True


def pointer(oid: str, size: int) -> bytes:
    """Return the git-lfs pointer file that stands for an object in a git tree."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def parse_pointer(data: bytes) -> tuple[str, int] | None:
    """Return (SHA-256, size) if `data` is a git-lfs pointer file."""
    match = _POINTER.fullmatch(data) if len(data) < POINTER_LIMIT else None
    return (match[1].decode(), int(match[2])) if match else None

"""The objects of a commit in the making: kept beside the repository until all are there.

One file that grows holds them, so that ten thousand small files cost ten thousand writes and not as
many files. When the commit is ready they enter the repository durably: a few as objects of their
own, many as one pack. What is not published leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType, RepositoryOpenFlag

from usermirrorer.hub.server import disk
from usermirrorer.hub.server.trees import Missing

#: Up to so many objects have files of their own: each costs two waits for the disk, a pack four;
#: but every pack makes all later reading a little slower.
_FEW = 16
#: With less than this beside an object, a failure to store it is that of a full disk.
_ROOM = 1 << 16
_DRAFT_FIRST = 10  # before the priorities of libgit2's own backends


class Spool(pygit2.OdbBackend):
    """Objects in one growing file; git writes new ones here, and finds them here."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
        self.places: dict[bytes, tuple[int, int, int]] = {}

    def write_cb(self, oid: pygit2.Oid, content: bytes, kind: int) -> None:
        """Append an object."""
        if oid.raw not in self.places:
            start = self.file.seek(0, os.SEEK_END)
            self.file.write(content)
            self.places[oid.raw] = kind, start, len(content)

    def read_cb(self, oid: pygit2.Oid) -> tuple[int, bytes]:
        """Return kind and content."""
        kind, start, size = self.places[oid.raw]
        self.file.seek(start)
        return kind, self.file.read(size)

    def read_header_cb(self, oid: pygit2.Oid) -> tuple[int, int]:
        """Return kind and size."""
        kind, _, size = self.places[oid.raw]
        return kind, size

    def exists_cb(self, oid: pygit2.Oid) -> bool:
        """Say whether an object is here."""
        return oid.raw in self.places

    def exists_prefix_cb(self, prefix: str) -> pygit2.Oid:
        """Know no short names."""
        raise KeyError(prefix)

    def read_prefix_cb(self, prefix: str) -> tuple[int, bytes, pygit2.Oid]:
        """Know no short names."""
        raise KeyError(prefix)

    def refresh_cb(self) -> None:
        """Have nothing to look up anew."""


class Draft:
    """A repository in which new objects are not yet published: `repo` reads old and new ones."""

    def __init__(self, git: Path, spool: Spool) -> None:
        self.git, self.spool = git, spool
        self.repo = pygit2.Repository(str(git), RepositoryOpenFlag.BARE)
        odb = pygit2.Odb()
        odb.add_backend(spool, _DRAFT_FIRST)
        odb.add_disk_alternate(str(git / "objects"))
        self.repo.set_odb(odb)
        self.odb = odb

    def write(self, content: bytes) -> str:
        """Add the content of a file and return its object id."""
        return str(self.odb.write(ObjectType.BLOB, content))

    def publish(self) -> None:
        """Bring all new objects into the repository; they are on the disk when this returns."""
        oids = [pygit2.Oid(raw=raw) for raw in self.spool.places]
        if len(oids) <= _FEW:
            published = pygit2.Repository(str(self.git), RepositoryOpenFlag.BARE).odb
            for oid in oids:
                store_object(published, self.git, *self.spool.read_cb(oid))
        else:
            self._publish_pack(oids)

    def _publish_pack(self, oids: list[pygit2.Oid]) -> None:
        packs = self.git / "objects" / "pack"
        packs.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp_", dir=packs) as folder:
            write_pack(self.repo, oids, Path(folder))
            take_pack(Path(folder), self.git)


def write_pack(repo: pygit2.Repository, oids: Iterable[pygit2.Oid], folder: Path) -> None:
    """Write objects as one pack into an empty folder."""
    builder = pygit2.PackBuilder(repo)
    for oid in oids:
        builder.add(oid)
    builder.set_threads(1)
    builder.write(folder)


def take_pack(folder: Path, git: Path) -> None:
    """Move a pack into a repository on the same disk, durably."""
    packs = git / "objects" / "pack"
    packs.mkdir(exist_ok=True)
    made = sorted(folder.iterdir(), key=lambda path: path.suffix == ".idx")
    for path in made:
        path.chmod(0o400)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in made:  # the index last: with it, the pack counts
        path.rename(packs / path.name)
    disk.sync_folder(packs)
    disk.sync_folder(packs.parent)


def store_object(odb: pygit2.Odb, git: Path, kind: int, content: bytes) -> str:
    """Store one object durably and return its id.

    Raises:
        OSError: if there is no room; libgit2 itself then says "no error".
    """
    try:
        return str(odb.write(kind, content))
    except pygit2.GitError as error:
        room = os.statvfs(git)
        if room.f_bavail * room.f_frsize > len(content) + _ROOM or not room.f_blocks:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


@contextlib.contextmanager
def begin(git: Path) -> Iterator[Draft]:
    """Begin a commit; what was not published when the block ends is gone.

    Raises:
        Missing: if the repository was deleted meanwhile.
    """
    incoming = git.parent / "incoming"
    try:
        incoming.mkdir(exist_ok=True)
        spool = Spool(incoming)
    except FileNotFoundError:
        raise Missing("Repository not found") from None
    try:
        yield Draft(git, spool)
    finally:
        spool.file.close()

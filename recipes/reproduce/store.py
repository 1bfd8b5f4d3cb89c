"""The folder of a run: which steps are done, from what, and whether their files are still whole.

OUT/steps/NAME-KEY/      what a step made; it appears by rename when the step is done
OUT/steps/NAME-KEY.json  its record: command, inputs, seconds, size and hash of every file
OUT/steps/NAME-KEY.work/ a step under way; its command goes on from here after a kill
    OUT/steps/NAME-KEY.status  exit status of a command whose step is not yet recorded
OUT/logs/NAME.log        what its command printed
OUT/failed/NAME.json     why it failed, if it did
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import storage

#: Files up to this many bytes are hashed again before they are used; of larger ones, the size is
#: compared.
_HASHED = 32 << 20


@dataclass(frozen=True)
class Place:
    """Where one step's files are, for one key."""

    out: Path
    name: str
    key: str

    @property
    def folder(self) -> Path:
        """What the step made."""
        return self.out / "steps" / f"{self.name}-{self.key}"

    @property
    def work(self) -> Path:
        """The folder in which it is made."""
        return self.folder.with_name(f"{self.folder.name}.work")

    @property
    def status(self) -> Path:
        """Exit status of its command, written when that ends, even after its starter was killed."""
        return self.folder.with_name(f"{self.folder.name}.status")

    @property
    def record(self) -> Path:
        """Its record."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """What its command printed."""
        return self.out / "logs" / f"{self.name}.log"

    @property
    def failure(self) -> Path:
        """Why it failed."""
        return self.out / "failed" / f"{self.name}.json"

    def is_done(self) -> bool:
        """Say whether it was completed under this key and its files are still as they were."""
        if not (self.record.exists() and self.folder.is_dir()):
            return False
        files = storage.read_json(self.record)["files"]
        return all(_is_whole(self.folder / name, said) for name, said in files.items())

    def has_ended(self) -> bool:
        """Say whether its command ended well, but was not recorded."""
        return (
            self.work.is_dir() and self.status.exists() and self.status.read_text().strip() == "0"
        )

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Move what was made to its place and record it."""
        files = {
            path.relative_to(self.work).as_posix(): _described(path)
            for path in sorted(self.work.rglob("*"))
            if path.is_file()
        }
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.work.rename(self.folder)
        storage.write_json(
            self.record, {"name": self.name, "key": self.key, "files": files, **facts}
        )
        self.failure.unlink(missing_ok=True)
        self.status.unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Record why it failed."""
        storage.write_json(self.failure, {"name": self.name, "key": self.key, "reason": reason})

    def failed(self) -> str:
        """Return why it failed under this key; "" if it did not."""
        if not self.failure.exists():
            return ""
        said = storage.read_json(self.failure)
        return str(said["reason"]) if said["key"] == self.key else ""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """Yield the descriptor of a locked file; None if another process holds it.

    A command that is handed the descriptor holds the lock too, so that it is not started a second
    time while it still runs after its starter was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _described(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": storage.file_hash(path)}


def _is_whole(path: Path, said: Mapping[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != said["size"]:
        return False
    return said["size"] > _HASHED or storage.file_hash(path) == said["sha256"]

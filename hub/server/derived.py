"""What listings need of files, worked out once and kept beside the repository.

A record is named by the git id of what it was made of, so that it is never out of date, and may be
lost at any time: whoever reads it makes it again. Reading needs no write: on a full or read-only
disk records live in memory alone.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Records kept in memory, the longest of them in bytes, and records on the disk per repository.
_IN_MEMORY, _LONGEST, _ON_DISK = 4096, 16 << 10, 64

_memory: OrderedDict[Path, Any] = OrderedDict()
_lock = threading.Lock()


def record(folder: Path, name: str, source: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, from memory or disk where that is possible.

    Args:
        folder: The repository's folder.
        name: What kind of record; a changed form needs a new name.
        source: Git's id of what it is made of.
        make: Makes it: what JSON can hold, and nothing but a function of the source.
    """
    path = folder / "derived" / f"{name}-{source}.json"
    with _lock:
        if path in _memory:
            _memory.move_to_end(path)
            return _memory[path]
    try:
        text = path.read_bytes()
        value = json.loads(text)
    except (OSError, ValueError):
        value = make()
        text = json.dumps(value, ensure_ascii=False).encode()
        _keep(path, text)
    if len(text) <= _LONGEST:
        with _lock:
            _memory[path] = value
            if len(_memory) > _IN_MEMORY:
                _memory.popitem(last=False)
    return value


def _keep(path: Path, text: bytes) -> None:
    """Write a record if the disk takes it, and drop the oldest of too many."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(text)
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink()
                raise
        records = list(path.parent.iterdir())
        if len(records) > _ON_DISK:
            records.sort(key=lambda kept: kept.stat().st_mtime)
            for old in records[: len(records) - _ON_DISK]:
                old.unlink(missing_ok=True)

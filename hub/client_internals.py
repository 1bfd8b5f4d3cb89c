"""All that publishing knows of the inside of the Hub's client: huggingface_hub and httpcore2.

They have no public setting for how much they read at a time, nor a way to say that a file's hash is
known. `tests/test_private_names.py` says which name is gone when an upgrade changes this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpcore2
from huggingface_hub import CommitOperationAdd, constants

_READ_AT_ONCE = 1 << 20


@contextlib.contextmanager
def even_reads() -> Iterator[None]:
    """Let the client read from the network as much at a time as it writes to the disk.

    By itself it gathers 10 MiB out of pieces of 64 KiB: on loopback that is half the speed, and
    30 MB more memory for each file on its way.
    """
    connection = httpcore2.HTTP11Connection
    before = constants.DOWNLOAD_CHUNK_SIZE, connection.READ_NUM_BYTES
    constants.DOWNLOAD_CHUNK_SIZE = connection.READ_NUM_BYTES = _READ_AT_ONCE
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE, connection.READ_NUM_BYTES = before


def upload_of(name: str, path: Path, sha256: str | None = None) -> CommitOperationAdd:
    """Return the upload of a file as `name`; `sha256` where it was proved just before."""
    add = CommitOperationAdd(name, str(path))
    if sha256:
        add.upload_info.sha256 = bytes.fromhex(sha256)
    return add

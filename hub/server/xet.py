"""Accept uploads of clients that speak Xet, and store whole files as `objects.py` does.

Clients with `hf_xet` installed send every large file this way and ask nobody first, so a Hub must
understand it. Downloads are offered over plain HTTP alone, to which such clients fall back by
themselves: on loopback that is faster and takes a fraction of their memory.

A client sends xorbs (up to 64 MiB of compressed chunks), then shards: which chunk ranges of which
xorbs make a file. Files are put together at once and proved by the SHA-256 in the shard. Xorbs
are kept for a day or two, so that an interrupted upload goes on where it stopped. Formats: the
public Xet protocol specification, version 1.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import access, objects
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.routing import kind_of
from usermirrorer.hub.server.store import Repo

router = APIRouter()

DAY = 86400
XORB_LIMIT, SHARD_LIMIT, CHUNK_LIMIT = 80 << 20, 64 << 20, 1 << 20
_ENTRY = 48  # every record of a shard has this many bytes
_WITH_VERIFICATION, _WITH_METADATA = 1 << 31, 1 << 30
_END = b"\xff" * 32


@dataclass(frozen=True)
class Segment:
    """Chunks `start` to `end` (exclusive) of a xorb, `size` bytes when unpacked."""

    xorb: str
    size: int
    start: int
    end: int


@router.get(REPO + "/xet-write-token/{revision:ref}")
def write_token(
    request: Request, kinds: str, namespace: str, name: str, revision: str
) -> JSONResponse:
    """Tell where to send xorbs and shards, with a token for a few hours."""
    record, _ = access.writable(request, kind_of(kinds), namespace, name)
    day = int(time.time()) // DAY
    _forget(store_of(request).folder(record), day)
    expires = int(time.time()) + DAY // 4
    token = f"{expires}.{store_of(request).sign('xet', record.id, day, expires)}"
    address = f"{str(request.base_url).rstrip('/')}/xet/{record.id}/{day}"
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return JSONResponse({"casUrl": address, "accessToken": token, "exp": expires}, headers=headers)


def _forget(folder: Path, day: int) -> None:
    for old in (folder / "xet").glob("*"):
        if old.name.isdecimal() and int(old.name) < day - 1:
            shutil.rmtree(old, ignore_errors=True)


def _spool(request: Request, repo_id: int, day: int) -> tuple[Repo, Path]:
    """Return whose upload this is and where its xorbs are kept.

    Raises:
        HubError: 401 unless the request carries a token of `write_token`.
    """
    _check_token(request, repo_id, day)
    store = store_of(request)
    repos = store.repos("id = ?", (repo_id,))
    if not repos:
        raise HubError(404, "Repository not found", "RepoNotFound")
    spool = store.folder(repos[0]) / "xet" / str(day)
    spool.mkdir(parents=True, exist_ok=True)
    return repos[0], spool


def _check_token(request: Request, repo_id: int, day: int) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    expires, _, signature = given.partition(".")
    fresh = expires.isdecimal() and len(expires) < 20 and int(expires) > time.time()
    if not store_of(request).signed(signature, "xet", repo_id, day, expires) or not fresh:
        raise HubError(401, "The token is not valid, or no longer")


@router.post("/xet/{repo_id:int}/{day:int}/v1/xorbs/{prefix}/{xorb}")
async def receive_xorb(
    request: Request, repo_id: int, day: int, prefix: str, xorb: str
) -> dict[str, bool]:
    """Keep a xorb until the shards that use it come."""
    _, spool = _spool(request, repo_id, day)
    if not objects.OID.fullmatch(xorb):
        raise HubError(400, "Not the hash of a xorb")
    if (spool / xorb).exists():
        return {"was_inserted": False}
    with tempfile.NamedTemporaryFile(dir=spool, delete=False) as file:
        try:
            size = 0
            async for block in request.stream():
                size += len(block)
                if size > XORB_LIMIT:
                    raise HubError(413, f"A xorb is at most {XORB_LIMIT} bytes")
                file.write(block)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(spool / xorb)
    return {"was_inserted": True}


@router.post("/xet/{repo_id:int}/{day:int}/v1/shards")
async def receive_shard(request: Request, repo_id: int, day: int) -> dict[str, int]:
    """Put together the files that a shard describes."""
    record, spool = _spool(request, repo_id, day)
    shard = await access.body(request, SHARD_LIMIT)
    folder = store_of(request).folder(record)
    try:
        for oid, segments in list(parse_shard(shard)):
            await run_in_threadpool(assemble, folder, spool, oid, segments)
    except (struct.error, ValueError, FileNotFoundError) as error:
        raise HubError(400, f"Not a shard that can be put together: {error}") from None
    return {"result": 1}


def parse_shard(shard: bytes) -> Iterator[tuple[str, list[Segment]]]:
    """Yield (SHA-256, segments in order) of each file.

    Raises:
        ValueError, struct.error: if it is not a shard, or lacks a file's SHA-256.
    """
    at = _ENTRY  # after the header: magic, version, length of the footer
    while shard[at : at + 32] != _END:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY
        segments = []
        for _ in range(count):
            _, size, start, end = struct.unpack_from("<IIII", shard, at + 32)
            segments.append(Segment(_hash(shard, at), size, start, end))
            at += _ENTRY
        at += count * _ENTRY if flags & _WITH_VERIFICATION else 0
        if not flags & _WITH_METADATA:
            raise ValueError("a file comes without its SHA-256")
        yield _hash(shard, at), segments
        at += _ENTRY


def _hash(data: bytes, at: int) -> str:
    """Write 32 bytes as Xet does: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", data, at))


def assemble(folder: Path, spool: Path, oid: str, segments: list[Segment]) -> None:
    """Unpack the segments of a file into the large-file storage and prove it.

    Raises:
        WrongContent: if the SHA-256 is not `oid`.
        ValueError, FileNotFoundError: if a xorb is broken or missing.
    """
    size = sum(segment.size for segment in segments)
    if objects.size_of(folder, oid) == size:
        return
    incoming = objects.Incoming(folder, oid, size)
    try:
        for segment in segments:
            with (spool / segment.xorb).open("rb") as xorb:
                for chunk in _chunks(xorb, segment.start, segment.end):
                    incoming.write(chunk)
        incoming.finish()
    finally:
        incoming.close()


def _chunks(xorb: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Yield the unpacked chunks `start` to `end` (exclusive) of a xorb."""
    for number in range(end):
        header = xorb.read(8)
        if len(header) < 8:
            raise ValueError("a xorb is too short")
        packed, unpacked = (int.from_bytes(header[i : i + 3], "little") for i in (1, 5))
        if header[0] != 0 or max(packed, unpacked) > CHUNK_LIMIT:
            raise ValueError("a xorb has a chunk that is not one")
        if number < start:
            xorb.seek(packed, 1)
        else:
            yield _unpack(header[4], xorb.read(packed), unpacked)


def _unpack(scheme: int, data: bytes, size: int) -> bytes:
    """Undo the compression of a chunk: 0 none, 1 LZ4, 2 LZ4 of bytes grouped by position mod 4."""
    import lz4.frame

    if scheme in (1, 2):
        unpacker = lz4.frame.LZ4FrameDecompressor()
        try:
            data = unpacker.decompress(data, max_length=size + 1)
        except RuntimeError as error:
            raise ValueError(f"a chunk is not LZ4: {error}") from None
    elif scheme != 0:
        raise ValueError(f"a chunk has the unknown compression {scheme}")
    if len(data) != size:
        raise ValueError("a chunk unpacks to another size than announced")
    return _ungroup(data) if scheme == 2 else data


def _ungroup(data: bytes) -> bytes:
    whole, at = bytearray(len(data)), 0
    for first in range(4):
        count = len(range(first, len(data), 4))
        whole[first::4] = data[at : at + count]
        at += count
    return bytes(whole)

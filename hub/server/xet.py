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

import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import access, disk, objects
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.routing import kind_of
from usermirrorer.hub.server.store import Repo

router = APIRouter()

DAY = 86400
XORB_LIMIT, SHARD_LIMIT, CHUNK_LIMIT = 80 << 20, 64 << 20, 1 << 20
#: Chunks of a xorb, bytes to which it unpacks, and chunks that one shard may have walked over.
CHUNKS_LIMIT, UNPACKED_LIMIT, WORK_LIMIT = 9 << 10, 128 << 20, 4 << 20
_FOOTER = b"XETBLOB"  # what some clients put behind the chunks
#: The specification's keys: of the hashes of chunks, and of the tree above them.
_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
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
    key = access.bearer(request)
    signature = store_of(request).sign("xet", record.id, day, key, expires)
    token = f"{expires}.{key}.{signature}"
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
        HubError: 401 unless the request carries a token of `write_token`, 403 or 404 if who was
            given it may not write any more.
    """
    store = store_of(request)
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    expires, key, signature = [*given.split(".", 2), "", ""][:3]
    fresh = expires.isdecimal() and len(expires) < 20 and int(expires) > time.time()
    if not store.signed(signature, "xet", repo_id, day, key, expires) or not fresh:
        raise HubError(401, "The token is not valid, or no longer")
    repo = access.still_allowed(store, key, repo_id, write=True)
    spool = store.folder(repo) / "xet" / str(day)
    for folder in (spool.parent, spool):
        folder.mkdir(exist_ok=True)
    return repo, spool


@router.post("/xet/{repo_id:number}/{day:number}/v1/xorbs/{prefix}/{xorb}")
async def receive_xorb(
    request: Request, repo_id: int, day: int, prefix: str, xorb: str
) -> dict[str, bool]:
    """Keep a xorb until the shards that use it come."""
    _, spool = await run_in_threadpool(_spool, request, repo_id, day)
    if not objects.OID.fullmatch(xorb):
        raise HubError(400, "Not the hash of a xorb")
    if await run_in_threadpool(is_whole, spool / xorb):
        return {"was_inserted": False}
    with tempfile.NamedTemporaryFile(dir=spool, delete=False) as file:
        try:
            size = 0
            async for block in request.stream():
                size += len(block)
                if size > XORB_LIMIT:
                    raise HubError(413, f"A xorb is at most {XORB_LIMIT} bytes")
                await run_in_threadpool(file.write, block)
            await run_in_threadpool(_keep_xorb, file, spool / xorb)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return {"was_inserted": True}


def _keep_xorb(file: Any, target: Path) -> None:
    """Prove what came, bring it to the disk and give it its name.

    Raises:
        HubError: 400 if it is not the xorb of this name.
    """
    file.flush()
    os.fsync(file.fileno())
    if not is_whole(Path(file.name), target.name):
        raise HubError(400, "Not the xorb that its address names")
    Path(file.name).replace(target)
    disk.sync_folder(target.parent)


def is_whole(path: Path, name: str = "") -> bool:
    """Say whether a file is the xorb of its name: one that is not is sent, and stored, again."""
    try:
        with path.open("rb") as file:
            return xorb_hash(file) == (name or path.name)
    except (OSError, ValueError):
        return False


def xorb_hash(file: BinaryIO) -> str:
    """Return the hash of a xorb: the root of a tree over the hashes of its unpacked chunks.

    Raises:
        ValueError: if it is broken, or unpacks to too much.
    """
    from blake3 import blake3

    nodes: list[tuple[bytes, int]] = []
    total = 0
    while file.peek(8)[:8]:  # type: ignore[attr-defined]
        if file.peek(8)[:7] == _FOOTER:  # type: ignore[attr-defined]
            break
        (chunk,) = _chunks(file, 0, 1)
        total += len(chunk)
        if total > UNPACKED_LIMIT or len(nodes) >= CHUNKS_LIMIT:
            raise ValueError("a xorb has too many chunks")
        nodes.append((blake3(chunk, key=_CHUNK_KEY).digest(), len(chunk)))
    while len(nodes) > 1:
        nodes = [_joined(group) for group in _groups(nodes)]
    return _hash(nodes[0][0], 0) if nodes else "0" * 64


def _groups(nodes: list[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    """Cut a level of the tree after hashes that four divides, into groups of three to nine."""
    at = 0
    while at < len(nodes):
        rest = nodes[at : at + 9]
        ends = (n + 1 for n in range(2, len(rest)) if rest[n][0][24] % 4 == 0)
        end = next(ends, len(rest))
        yield rest[:end]
        at += end


def _joined(group: list[tuple[bytes, int]]) -> tuple[bytes, int]:
    from blake3 import blake3

    text = "".join(f"{_hash(digest, 0)} : {size}\n" for digest, size in group)
    return blake3(text.encode(), key=_NODE_KEY).digest(), sum(size for _, size in group)


@router.post("/xet/{repo_id:number}/{day:number}/v1/shards")
async def receive_shard(request: Request, repo_id: int, day: int) -> dict[str, int]:
    """Put together the files that a shard describes."""
    record, spool = await run_in_threadpool(_spool, request, repo_id, day)
    shard = await access.body(request, SHARD_LIMIT)
    folder = store_of(request).folder(record)
    try:
        files = await run_in_threadpool(lambda: list(parse_shard(shard)))
        for oid, segments in files:
            await run_in_threadpool(assemble, folder, spool, oid, segments)
    except FileNotFoundError:
        raise HubError(400, "The shard names a xorb that has not been sent") from None
    except (struct.error, ValueError) as error:
        raise HubError(400, f"Not a shard that can be put together: {error}") from None
    return {"result": 1}


def parse_shard(shard: bytes) -> Iterator[tuple[str, list[Segment]]]:
    """Yield (SHA-256, segments in order) of each file.

    Raises:
        ValueError, struct.error: if it is not a shard, or lacks a file's SHA-256.
    """
    work = 0  # chunks to be walked over
    at = _ENTRY  # after the header: magic, version, length of the footer
    while shard[at : at + 32] != _END:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY
        if count > (len(shard) - at) // _ENTRY:
            raise ValueError("a file has more segments than the shard can hold")
        segments = []
        for _ in range(count):
            _, size, start, end = struct.unpack_from("<IIII", shard, at + 32)
            chunks = end - start
            if not 0 < chunks <= CHUNKS_LIMIT or not 0 < size <= chunks * CHUNK_LIMIT:
                raise ValueError("a segment is empty, or its size cannot be")
            if end > CHUNKS_LIMIT:
                raise ValueError("a xorb has not so many chunks")
            work += end
            if work > WORK_LIMIT:
                raise ValueError("the shard asks for too much")
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
        if header[0] != 0 or max(packed, unpacked) > CHUNK_LIMIT or not packed or not unpacked:
            raise ValueError("a xorb has a chunk that is not one")
        if number < start:
            xorb.seek(packed, 1)
        else:
            data = xorb.read(packed)
            if len(data) < packed:
                raise ValueError("a xorb is too short")
            yield _unpack(header[4], data, unpacked)


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

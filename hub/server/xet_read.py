"""Offer large files to clients that speak Xet, without storing anything twice.

The Python HTTP client moves a gigabyte through 64 KiB reads and several copies; the Xet client is
compiled code that fetches many ranges at once. A Xet client asks for a *reconstruction*: which
chunk ranges of which xorbs make the file. Ours says that the file is a row of small xorbs of
uncompressed chunks, which are nothing but the stored bytes with eight bytes of frame before each
chunk; the frames are put in while reading. Small xorbs keep the client's memory small.

The names of these xorbs and of the file (its SHA-256) are not the content hashes of the Xet
specification. hf_xet 1.8 uses them as names only; `usermirrorer release pull` and
`verify` prove by SHA-256 what arrives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from usermirrorer.hub.server import access, objects
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.addresses import REPO
from usermirrorer.hub.server.api_repos import kind_of

router = APIRouter()
#: Bytes of a chunk (the most that the format allows), of its frame, and chunks of one xorb.
CHUNK, FRAME, XORB_CHUNKS = 128 << 10, 8, 8
#: Chunks read from the disk at a time, and how long addresses and tokens are good for.
_READ_CHUNKS, _SECONDS = 8, 6 * 3600


@router.get(REPO + "/xet-read-token/{revision:ref}")
def read_token(
    request: Request, kinds: str, namespace: str, name: str, revision: str
) -> JSONResponse:
    """Tell a reader of the repository where to ask for reconstructions."""
    record = access.readable(request, kind_of(kinds), namespace, name, files=True)
    expires = int(time.time()) + _SECONDS
    token = f"{expires}.{store_of(request).sign('xet-read', record.id, expires)}"
    base = f"{str(request.base_url).rstrip('/')}/xet/{record.id}/read"
    return token_answer(base, token, expires)


def token_answer(address: str, token: str, expires: int) -> JSONResponse:
    """Return an address and its token in both forms that clients read: body and headers."""
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return JSONResponse({"casUrl": address, "accessToken": token, "exp": expires}, headers=headers)


@router.get("/xet/{repo_id:int}/read/v1/reconstructions/{oid}")
def reconstruction(request: Request, repo_id: int, oid: str) -> dict[str, Any]:
    """Say which chunks make a file, or the range of it that is asked for."""
    check_token(request, "xet-read", repo_id)
    store = store_of(request)
    found = store.repos("id = ?", (repo_id,))
    size = objects.size_of(store.folder(found[0]), oid) if found else None
    if size is None:
        raise HubError(404, "object does not exist")
    start, end, _ = objects.asked_range(request.headers.get("range", ""), size)
    expires = int(time.time()) + _SECONDS
    signature = store.sign("get", repo_id, oid, expires)
    address = f"{str(request.base_url).rstrip('/')}/lfs/{repo_id}/{oid}"
    return plan(oid, size, start, end, f"{address}?xorbs=1&e={expires}&s={signature}")


def check_token(request: Request, *parts: object) -> None:
    """Raise HubError 401 unless the request carries a fresh token that was signed for `parts`."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    expires, _, signature = given.partition(".")
    fresh = expires.isdecimal() and len(expires) < 20 and int(expires) > time.time()
    if not store_of(request).signed(signature, *parts, expires) or not fresh:
        raise HubError(401, "The token is not valid, or no longer")


def plan(oid: str, size: int, start: int, end: int, address: str) -> dict[str, Any]:
    """Return the reconstruction of the bytes `start` to `end` (exclusive) of a file.

    Every xorb is a range of the one `address`, whose bytes `read_framed` gives.
    """
    first, last = start // CHUNK, -(-end // CHUNK)
    terms, fetched = [], {}
    for xorb in range(first // XORB_CHUNKS, -(-last // XORB_CHUNKS)):
        begin, low = xorb * XORB_CHUNKS, max(first, xorb * XORB_CHUNKS)
        high = min(last, begin + XORB_CHUNKS)
        name, chunks = f"{oid[:48]}{xorb:016x}", {"start": low - begin, "end": high - begin}
        unpacked = min(size, high * CHUNK) - low * CHUNK
        terms.append({"hash": name, "unpacked_length": unpacked, "range": chunks})
        at = low * (CHUNK + FRAME)
        bytes_ = {"start": at, "end": at + unpacked + (high - low) * FRAME - 1}
        fetched[name] = [{"range": chunks, "url": address, "url_range": bytes_}]
    return {
        "offset_into_first_range": start - first * CHUNK,
        "terms": terms,
        "fetch_info": fetched,
    }


def framed_size(size: int) -> int:
    """Return how many bytes a file of `size` bytes has with its frames."""
    return size + -(-size // CHUNK) * FRAME


def read_framed(path: Path, size: int, start: int, length: int) -> Iterator[memoryview]:
    """Yield `length` bytes from `start` of the framed form of a file of `size` bytes."""
    number, skip = divmod(start, CHUNK + FRAME)
    with path.open("rb") as file:
        while length > 0:
            block = _frame(file.fileno(), size, number)[skip : skip + length]
            yield block
            length -= len(block)
            number, skip = number + _READ_CHUNKS, 0


def _frame(file: int, size: int, number: int) -> memoryview:
    """Read chunks from `number` on straight into their places between the frames."""
    begin = number * CHUNK
    whole = min(size - begin, _READ_CHUNKS * CHUNK)
    sizes = [min(CHUNK, whole - at) for at in range(0, whole, CHUNK)]
    block = memoryview(bytearray(whole + len(sizes) * FRAME))
    places = []
    for index, length in enumerate(sizes):
        at = index * (CHUNK + FRAME)
        packed = length.to_bytes(3, "little")
        block[at : at + FRAME] = b"\0" + packed + b"\0" + packed  # version, sizes, no compression
        places.append(block[at + FRAME : at + FRAME + length])
    if os.preadv(file, places, begin) != whole:
        raise OSError("a large file became shorter")
    return block

"""`git clone` and `git fetch`, read only: what git's own `upload-pack` answers, within limits.

Large files come as pointers; `git lfs pull`, and every client of the Hub, fetches their content.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import access, turns
from usermirrorer.hub.server.access import HubError, store_of
from usermirrorer.hub.server.routing import kind_of

router = APIRouter()
#: Clones at the same time, seconds that one may take and wait, bytes of what a client says it has.
CLONES, SECONDS, WAIT, WANTS = 2, 900, 30, 4 << 20
_BLOCK = 1 << 16
#: One thread and little memory for each; nothing but branches and tags may be asked for.
_SETTINGS = {
    "core.bigFileThreshold": "4m",
    "pack.threads": "1",
    "pack.windowMemory": "32m",
    "uploadpack.allowAnySHA1InWant": "false",
    "uploadpack.allowFilter": "true",
}


class _Pack(StreamingResponse):
    """A streamed answer that gives back what it holds, however it ends."""

    held: contextlib.AsyncExitStack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self.held:
            await super().__call__(scope, receive, send)


@router.get("/{kinds:kinds}/{namespace}/{name}/info/refs")
@router.get("/{namespace:owner}/{name}/info/refs")
async def references(
    request: Request, namespace: str, name: str, kinds: str = "models"
) -> Response:
    """Tell git what there is to fetch."""
    if request.query_params.get("service") != "git-upload-pack":
        raise HubError(403, "This Hub takes no pushes by git: use huggingface_hub or hf upload")
    git = await _git_folder(request, kinds, namespace, name)
    return await _answer(request, git, ["--http-backend-info-refs"], b"", "advertisement")


@router.post("/{kinds:kinds}/{namespace}/{name}/git-upload-pack")
@router.post("/{namespace:owner}/{name}/git-upload-pack")
async def upload_pack(
    request: Request, namespace: str, name: str, kinds: str = "models"
) -> Response:
    """Send git what it lacks."""
    git = await _git_folder(request, kinds, namespace, name)
    wants = await access.body(request, WANTS)
    if request.headers.get("content-encoding") in ("gzip", "x-gzip"):
        wants = await run_in_threadpool(_unpacked, wants)
    return await _answer(request, git, [], wants, "result")


async def _git_folder(request: Request, kinds: str, namespace: str, name: str) -> Path:
    """Return the repository that git may read; who is nobody yet is asked who they are."""
    bare, kind = name.removesuffix(".git"), kind_of(kinds)
    try:
        readable = access.readable
        record = await run_in_threadpool(readable, request, kind, namespace, bare, files=True)
    except HubError as error:
        if error.status == 401:
            error.headers["WWW-Authenticate"] = 'Basic realm="a token as the password"'
        raise
    return store_of(request).folder(record) / "git"


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(31)
    try:
        unpacked = unpacker.decompress(data, WANTS)
    except zlib.error:
        raise HubError(400, "The body is not gzip") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise HubError(413, f"The body is longer than {WANTS} bytes")
    return unpacked


async def _answer(
    request: Request, git: Path, options: list[str], wants: bytes, ending: str
) -> Response:
    held = contextlib.AsyncExitStack()
    try:
        await held.enter_async_context(_turn(request.app.state.clones))
        process = await held.enter_async_context(_running(git, options))
    except BaseException:
        await held.aclose()
        raise
    answer = _Pack(
        _output(process, wants, b"001e# service=git-upload-pack\n0000" if options else b""),
        media_type=f"application/x-git-upload-pack-{ending}",
        headers={"Cache-Control": "no-cache, max-age=0, must-revalidate"},
    )
    answer.held = held
    return answer


@contextlib.asynccontextmanager
async def _turn(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        await asyncio.wait_for(slots.acquire(), WAIT)
    except TimeoutError:
        raise turns.busy("Others clone at the moment") from None
    try:
        yield
    finally:
        slots.release()


@contextlib.asynccontextmanager
async def _running(git: Path, options: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `git upload-pack`; it and its children end with the block.

    By the first protocol, whatever the client offers: by the second any object may be asked for.
    """
    if (program := shutil.which("git")) is None:
        raise HubError(501, "This Hub has no git clone: git is not installed beside it")
    settings = [word for key, value in _SETTINGS.items() for word in ("-c", f"{key}={value}")]
    command = [program, *settings, "upload-pack", "--strict", f"--timeout={WAIT}"]
    process = await asyncio.create_subprocess_exec(
        *[*command, "--stateless-rpc", *options, str(git)],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(git),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        },
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _output(
    process: asyncio.subprocess.Process, wants: bytes, head: bytes
) -> AsyncIterator[bytes]:
    """Say to git what the client wants and yield what it answers."""
    if head:
        yield head
    async with asyncio.timeout(SECONDS):
        saying = asyncio.create_task(_say(process, wants))
        try:
            assert process.stdout is not None
            while block := await process.stdout.read(_BLOCK):
                yield block
        finally:
            saying.cancel()


async def _say(process: asyncio.subprocess.Process, wants: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(wants)
        await process.stdin.drain()
        process.stdin.close()

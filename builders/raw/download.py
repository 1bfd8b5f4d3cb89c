"""Download a file from its publisher: resumed after a break, checked, recorded."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import read_json, write_json

#: Beside the files: name -> address, size and SHA-256 of what was downloaded.
RECORD = "downloads.json"
_BLOCK = 1 << 20
_TIMEOUT = 60  # seconds without a byte
_LOCAL = ("127.0.0.1", "localhost", "::1")

Progress = Callable[[int, int | None], None]


def download(
    url: str,
    folder: Path,
    name: str,
    *,
    expected: str = "",
    attempts: int = 5,
    pause: float = 2.0,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Download `url` to `folder/name`.

    What has arrived is kept in `<name>.part` and continued by HTTP Range, within this call and by
    the next one; it is only continued if the server still has the same file (ETag or date). A file
    that is there and agrees with its hash is not downloaded again.

    Args:
        url: https address (http only on this machine).
        folder: Where to put it.
        name: Its file name.
        expected: `md5:<hex>` or `sha256:<hex>` as its publisher states it; "" trusts the first
            download and records its SHA-256 in `downloads.json`.
        attempts: How often in a row a try may bring nothing new.
        pause: Seconds before the second attempt, doubled each time.
        progress: Called with the bytes that are there, and the total where it is known.

    Raises:
        UserError: if the server refuses, the connection keeps breaking, the disk is full, or the
            file is not the expected one.
    """
    target = Path(folder) / name
    _only_secure(url)
    if target.exists():
        _verify(target, expected or _recorded(target))
        progress(target.stat().st_size, target.stat().st_size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{name}.part")
    failures, before = 0, _size(part)
    while not _tried(url, part, progress, last=failures == attempts - 1):
        # Any progress is a reason to go on at once; without it, wait longer and longer.
        failures = 0 if _size(part) > before else failures + 1
        time.sleep(pause * 2 ** (failures - 1) if failures else 0)
        before = _size(part)
    _finish(part, target, url, expected)
    return target


def _tried(url: str, part: Path, progress: Progress, last: bool) -> bool:
    """Continue `part`; True if it is whole now, False if another attempt makes sense."""
    reason = "the connection was closed early"
    try:
        if _continue(url, part, progress):
            return True
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in (408, 429):
            raise _refused(error, url) from error
        reason = f"HTTP {error.code}"
    except (OSError, http.client.HTTPException) as error:
        if told := unwritable(error, part):
            raise told from error
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    if last:
        raise UserError(
            f"the download broke off at {_size(part):,} bytes: {reason}",
            where=url,
            fix="Run the same command again to continue.",
        )
    return False


def _only_secure(url: str) -> None:
    address = urlsplit(url)
    if address.scheme != "https" and address.hostname not in _LOCAL:
        raise UserError("is not an https address", where=url)


def _refused(error: urllib.error.HTTPError, url: str) -> UserError:
    return UserError(
        f"the server refuses the download (HTTP {error.code} {error.reason})",
        where=url,
        fix="Download it by hand from the source's homepage: `usermirrorer sources`.",
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, progress: Progress) -> bool:
    """Fetch what is missing of `part`; True if it is whole now."""
    mark, start = part.with_name(f"{part.name}.json"), _size(part)
    same = read_json(mark)["validator"] if mark.exists() else ""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start and same:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", same)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink(missing_ok=True)  # what is here is longer than the file there
        return False
    with response:
        _only_secure(response.url)
        write_json(mark, {"validator": _validator(response.headers), "url": url})
        resumed = response.status == 206
        return _save(response, part, start if resumed else 0, progress)


def _validator(headers: Message) -> str:
    """What tells whether the file on the server is still the same; weak ETags do not."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _save(response: http.client.HTTPResponse, part: Path, start: int, progress: Progress) -> bool:
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    done = start
    with (
        part.open("ab" if start else "wb") as file,
        contextlib.suppress(http.client.IncompleteRead),
    ):
        while block := response.read(_BLOCK):
            file.write(block)
            done += len(block)
            progress(done, total)
    return total is None or done == total


def _finish(part: Path, target: Path, url: str, expected: str) -> None:
    try:
        _verify(part, expected)
    except UserError:
        part.unlink()
        raise
    record_path = target.parent / RECORD
    record = read_json(record_path) if record_path.exists() else {}
    record[target.name] = {
        "url": url,
        "bytes": _size(part),
        "sha256": _digest(part, "sha256"),
        "checked": expected,
    }
    part.replace(target)
    write_json(record_path, record)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _recorded(target: Path) -> str:
    record = target.parent / RECORD
    known = read_json(record).get(target.name) if record.exists() else None
    return f"sha256:{known['sha256']}" if known else ""


def _verify(path: Path, expected: str) -> None:
    kind, _, digest = expected.partition(":")
    if expected and (actual := _digest(path, kind)) != digest:
        raise UserError(
            f"has {kind} {actual}, not {digest}",
            where=path,
            fix="It was changed or damaged: remove it and download it again.",
        )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()

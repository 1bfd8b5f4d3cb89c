"""Raw files of any size: found, decompressed, and read as blocks of whole lines.

A raw file is a plain file, a gzip file, or a member of a zip archive; none is unpacked to disk. It
is read in blocks of `BLOCK` bytes cut at line ends, so that memory holds one block of text beside
the columns that are kept.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from usermirrorer.builders.common.errors import UserError

BLOCK = 32 << 20


#: Longest line, or quoted field with line breaks. Longer ones mean that the file is not what it
#: should be (another delimiter of lines, a quote that is never closed).
LONGEST_LINE = 64 << 20


@dataclass(frozen=True)
class Raw:
    """A raw file: a file on disk, or `member` of the zip archive `path`."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """File name without its folders and without `.gz`."""
        return Path(self.member or self.path.name).name.removesuffix(".gz")

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)


def locate(folder: Path, *patterns: str) -> list[Raw]:
    """Return all raw files, in `folder` or zip archives in it, that match the first such pattern.

    Patterns are file names with `*` for any text, without `.gz`; folders inside do not matter. If
    `folder` is a file, it is looked at alone. A file found unpacked hides its copy in an archive.

    Raises:
        UserError: if the folder is missing or no file matches any pattern.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError("does not exist", where=folder, fix="Give the folder of the raw files.")
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    files_inside = [Raw(path) for path in files if path.suffix != ".zip"]
    archives = [path for path in files if path.suffix == ".zip"]
    files_inside += [raw for archive in archives for raw in _members(archive)]
    for pattern in patterns:
        matching = [raw for raw in files_inside if fnmatch.fnmatchcase(raw.name, pattern)]
        if loose := [raw for raw in matching if not raw.member] or matching:
            return loose
    raise UserError(
        f"none of {', '.join(patterns)} is there (also as .gz, or inside a .zip)", where=folder
    )


def one(folder: Path, *patterns: str) -> Raw:
    """Return the only raw file that matches; see `locate`.

    Raises:
        UserError: if none or several match.
    """
    candidates = locate(folder, *patterns)
    if len(candidates) > 1:
        names = ", ".join(str(raw) for raw in candidates[:3])
        raise UserError(
            f"{patterns[0]} is there more than once: {names}", where=folder, fix="Keep one."
        )
    return candidates[0]


def has(folder: Path, *patterns: str) -> bool:
    """Say whether `locate` would find a file."""
    try:
        return bool(locate(folder, *patterns))
    except UserError:
        return False


def _members(archive: Path) -> list[Raw]:
    try:
        with zipfile.ZipFile(archive) as opened:
            names = sorted(name for name in opened.namelist() if not name.endswith("/"))
    except zipfile.BadZipFile as error:
        raise UserError("is not a whole zip archive", where=archive, fix=_AGAIN) from error
    return [Raw(archive, name) for name in names if not name.startswith("__MACOSX")]


_AGAIN = "Download it again."


_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


@contextlib.contextmanager
def opened(raw: Raw) -> Iterator[BinaryIO]:
    """Open a raw file as decompressed bytes.

    Raises:
        UserError: if it is cut off, damaged, or not of the format that its name says.
    """
    with contextlib.ExitStack() as stack:
        try:
            if raw.member:
                archive = stack.enter_context(zipfile.ZipFile(raw.path))
                stream: Any = io.BufferedReader(stack.enter_context(archive.open(raw.member)))
            else:
                stream = stack.enter_context(raw.path.open("rb"))
            if (raw.member or raw.path.name).endswith(".gz"):
                start = stream.peek(2)[:2]
                if start != b"\x1f\x8b":
                    raise UserError("is not a gzip file", where=raw, fix=_AGAIN)
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            yield stream
        except _BROKEN as error:
            raise UserError(f"is cut off or damaged: {error}", where=raw, fix=_AGAIN) from error
        except (PermissionError, IsADirectoryError) as error:
            raise UserError(f"cannot be read: {error.strerror}", where=raw) from error


@dataclass(frozen=True)
class Block:
    """Whole lines of a file as UTF-8 text, and the number of the first of them (from 1)."""

    first_line: int
    text: str


def blocks(
    raw: Raw, *, quoted: bool = False, encodings: Sequence[str] = ("utf-8",)
) -> Iterator[Block]:
    r"""Yield the `Block`s of a text file; each ends at a line end, `\r\n` is read as `\n`.

    Args:
        raw: The file.
        quoted: Whether `"..."` may hold line breaks; then a block ends outside of quotes.
        encodings: Tried in this order for each block.

    Raises:
        UserError: if the file is empty, damaged, not text in any of the encodings, or has an
            endless line.
    """
    line, rest = 1, b""
    with opened(raw) as stream:
        while chunk := stream.read(BLOCK):
            data = rest + chunk
            end = _line_end(data, quoted)
            if end == 0 and len(data) > LONGEST_LINE:
                what = "a line or quoted field" if quoted else "a line"
                raise UserError(
                    f"{what} is longer than {LONGEST_LINE >> 20} MB", where=f"{raw}:{line}"
                )
            rest = data[end:]
            if end:
                yield Block(line, _decoded(data[:end], raw, line, encodings))
                line += data.count(b"\n", 0, end)
    if rest:
        if quoted and rest.count(b'"') % 2:
            raise UserError("a quote is never closed", where=f"{raw}:{line}", fix=_AGAIN)
        yield Block(line, _decoded(rest, raw, line, encodings))
    elif line == 1:
        raise UserError("is empty", where=raw, fix=_AGAIN)


def _line_end(data: bytes, quoted: bool) -> int:
    """Index behind the last line end of `data` that lies outside of quotes, 0 if there is none."""
    end = data.rfind(b"\n") + 1
    if not quoted:
        return end
    quotes = data.count(b'"', 0, end)
    while end and quotes % 2:
        earlier = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', earlier, end)
        end = earlier
    return end


def _decoded(data: bytes, raw: Raw, line: int, encodings: Sequence[str]) -> str:
    data = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
    for encoding in encodings:
        try:
            return data.decode(encoding).replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            bad = line + data.count(b"\n", 0, error.start)
    raise UserError(f"is not {' or '.join(encodings)} text", where=f"{raw}:{bad}", fix=_AGAIN)

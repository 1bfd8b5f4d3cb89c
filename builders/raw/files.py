"""Raw files of any size: found, decompressed, and read as blocks of whole lines.

A raw file is a plain file, a gzip file (whatever it is called), or a member of a zip archive; none
is unpacked to disk. It is read in blocks of `BLOCK` bytes cut at line ends, so that memory holds
one block of text beside the columns that are kept. What lies there twice, such as an unpacked file
beside its archive, is read once; files of one name and different content are all found.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
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
        name = Path(self.member or self.path.name).name
        return name[:-3] if name.lower().endswith(".gz") else name

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)


def locate(folder: Path, *patterns: str) -> list[Raw]:
    """Return all raw files, in `folder` or zip archives in it, that match the first such pattern.

    Patterns are file names with `*` for any text, without `.gz`, in any case; folders inside do not
    matter. If `folder` is a file, it is looked at alone. Members of archives with the name and the
    content of a file that is there already, unpacked or in another archive, are left out.

    Raises:
        UserError: if the folder is missing, no file matches any pattern, or a file lies beside its
            own `.gz`.
    """
    raws = _raws(folder)
    for pattern in patterns:
        if matching := _once([raw for raw in raws if matches(raw, pattern)]):
            _assert_apart(matching, folder)
            return matching
    raise UserError(
        f"none of {', '.join(patterns)} is there (also as .gz, or inside a .zip)",
        where=folder,
        fix=_packed([*there(folder), *(Path(raw.member) for raw in raws if raw.member)]),
    )


def matches(raw: Raw, pattern: str) -> bool:
    """Say whether a file has a name of such a pattern, in capitals or not."""
    return fnmatch.fnmatchcase(raw.name.lower(), pattern.lower())


def _raws(folder: Path) -> list[Raw]:
    paths = there(folder)
    archives = [path for path in paths if path.suffix.lower() == ".zip"]
    raws = [Raw(path) for path in paths if path not in archives]
    return raws + [raw for archive in archives for raw in _members(archive)]


def _assert_apart(raws: Sequence[Raw], folder: Path) -> None:
    """Check that no two files of one folder have one name, but for `.gz` and capitals."""
    seen: dict[tuple[Path, str, str], Raw] = {}
    for raw in raws:
        inside = str(Path(raw.member).parent) if raw.member else ""
        place = (raw.path if raw.member else raw.path.parent, inside, raw.name.lower())
        if place in seen:
            raise _several(raw.name, [seen[place], raw], folder)
        seen[place] = raw


def _several(name: str, raws: Sequence[Raw], folder: Path) -> UserError:
    names = ", ".join(str(raw) for raw in raws[:3])
    return UserError(f"{name} is there more than once: {names}", where=folder, fix="Keep one.")


def there(folder: Path) -> list[Path]:
    """Return the files in a folder, in order, without what systems leave behind; or the file.

    Raises:
        UserError: if the folder is missing.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError("does not exist", where=folder, fix="Give the folder of the raw files.")
    if folder.is_file():
        return [folder]
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in inside if not _left_behind(path.relative_to(folder)))


def _left_behind(path: Path) -> bool:
    """Say whether a file is a system's own, as `__MACOSX/._ratings.dat`."""
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name == ".DS_Store"


def _packed(paths: Sequence[Path]) -> str:
    """Say what has to be unpacked first, among files that cannot be looked into."""
    inside = [path for path in paths if path.name.lower().endswith(_UNREAD)]
    inside += [path for path in paths if path.suffix.lower() == ".zip" and not path.is_file()]
    return f"Unpack {inside[0].name} first." if inside else ""


def _once(raws: list[Raw]) -> list[Raw]:
    """Drop what an archive holds a second time: of that name and content, the first is kept."""
    kept: list[Raw] = []
    for raw in raws:
        rivals = [other for other in kept if raw.member and other.name == raw.name]
        if not any(_content(other) == _content(raw) for other in rivals):
            kept.append(raw)
    return kept


def _content(raw: Raw) -> tuple[int, int]:
    """Return size and CRC-32 of what a file holds, decompressed; archives state both.

    A damaged file is like no other: whoever reads it says what is wrong.
    """
    if raw.member and not raw.member.lower().endswith(".gz"):
        with zipfile.ZipFile(raw.path) as archive:
            info = archive.getinfo(raw.member)
        return info.file_size, info.CRC
    try:
        return _measured(raw, raw.path.stat().st_mtime_ns)
    except UserError:
        return -1, hash(str(raw))


@functools.lru_cache(maxsize=64)
def _measured(raw: Raw, changed: int) -> tuple[int, int]:
    size, crc = 0, 0
    with opened(raw) as stream:
        while piece := stream.read(1 << 20):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return size, crc


def one(folder: Path, *patterns: str) -> Raw:
    """Return the only raw file that matches any of the patterns; see `locate`.

    Raises:
        UserError: if none or several match.
    """
    present = [pattern for pattern in patterns if has(folder, pattern)]
    each = [locate(folder, pattern) for pattern in present] or [locate(folder, *patterns)]
    candidates = list(dict.fromkeys(raw for raws in each for raw in raws))
    if len(candidates) > 1:
        raise _several(" or ".join(present), candidates, folder)
    return candidates[0]


def has(folder: Path, *patterns: str) -> bool:
    """Say whether a file of such a name is there.

    Raises:
        UserError: if the folder is missing or an archive in it is damaged.
    """
    return any(matches(raw, pattern) for raw in _raws(folder) for pattern in patterns)


def _members(archive: Path) -> list[Raw]:
    try:
        with zipfile.ZipFile(archive) as opened:
            names = sorted(name for name in opened.namelist() if not name.endswith("/"))
    except zipfile.BadZipFile as error:
        raise UserError("is not a whole zip archive", where=archive, fix=_AGAIN) from error
    return [Raw(archive, name) for name in names if not _left_behind(Path(name))]


_AGAIN = "Download it again."
#: Endings of archives that are not read as they are.
_UNREAD = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_READ: ContextVar[set[Path] | None] = ContextVar("read", default=None)
_MOST: ContextVar[int] = ContextVar("most", default=0)


@contextlib.contextmanager
def recorded() -> Iterator[set[Path]]:
    """Yield a set that gathers the files on disk that are opened while the block runs."""
    paths: set[Path] = set()
    token = _READ.set(paths)
    try:
        yield paths
    finally:
        _READ.reset(token)


@contextlib.contextmanager
def beginnings(most: int) -> Iterator[None]:
    """Read only the whole lines of about the first `most` bytes of every text file."""
    token = _MOST.set(most)
    try:
        yield
    finally:
        _MOST.reset(token)


def most_read() -> int:
    """Return how many bytes of a file `beginnings` allows, 0 for all."""
    return _MOST.get()


_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


@contextlib.contextmanager
def opened(raw: Raw) -> Iterator[BinaryIO]:
    """Open a raw file as decompressed bytes.

    Raises:
        UserError: if it is cut off, damaged, or not of the format that its name says.
    """
    if (paths := _READ.get()) is not None:
        paths.add(raw.path)
    with contextlib.ExitStack() as stack:
        try:
            if raw.member:
                archive = stack.enter_context(zipfile.ZipFile(raw.path))
                stream: Any = io.BufferedReader(stack.enter_context(archive.open(raw.member)))
            else:
                stream = stack.enter_context(raw.path.open("rb"))
            start = stream.peek(4)[:4]
            if start.startswith(_GZIP):
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            elif (raw.member or raw.path.name).lower().endswith(".gz"):
                raise UserError("is not a gzip file", where=raw, fix=_AGAIN)
            elif start == _ZIP:
                raise UserError("is a zip archive", where=raw, fix="Give it the ending .zip.")
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
    line, rest, most, read = 1, b"", _MOST.get(), 0
    with opened(raw) as stream:
        while chunk := stream.read(min(BLOCK, most) if most else BLOCK):
            data = rest + chunk
            _refuse(data, raw, line)
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
            read += len(chunk)
            if most and read >= most and line > 1:
                return
    if rest:
        if quoted and rest.count(b'"') % 2:
            raise UserError("a quote is never closed", where=f"{raw}:{line}", fix=_AGAIN)
        yield Block(line, _decoded(rest, raw, line, encodings))
    elif line == 1:
        raise UserError("is empty", where=raw, fix=_AGAIN)


def _refuse(data: bytes, raw: Raw, line: int) -> None:
    """Check the beginning of a file for what no encoding and no line end explains."""
    if line > 1:
        return
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError("is UTF-16 text", where=raw, fix="Save it as UTF-8.")
    if 4 * data[:1000].count(0) > len(data[:1000]):  # single ones are part of a text, and cleaned
        raise UserError("is no text: it has NUL bytes", where=raw, fix=_AGAIN)
    if b"\n" not in data and data.count(b"\r") > 1:
        raise UserError(
            "its lines end in \\r alone", where=raw, fix="Save it with line ends as on Unix, \\n."
        )


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

"""What lies in `repos/`, told from what the records say: the folders prove what belongs to whom.

Each repository's folder carries its description (`repo.json`), so that records can be rebuilt from
folders. Only what proves itself unborn (made by a call that was never answered) or dead (deleted,
and the erasing had begun) may go; everything in doubt stays where it is.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usermirrorer.hub.server import disk
from usermirrorer.hub.server.records import KINDS, Repo, valid_name

#: In a folder: its record; that this was not yet committed; that it is gone.
DESCRIPTION, UNBORN, GONE = "repo.json", "unborn", "gone"
#: Of a folder's name, once its record is about to go; and before it says what it is, or after.
DELETED, NAMELESS = ".deleted-", ".nameless-"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_LIMIT = 1 << 16

#: The kinds of findings. With these a server does not start:
NO_FOLDER, NO_RECORD, OTHER = "record without folder", "folder without record", "other record"
#: these are mended at every start:
DEAD, UNDELETED, NEWER, OLDER = "dead", "deletion not done", "newer folder", "older folder"
#: and this is left alone.
STRAY = "not ours"
SERIOUS = (NO_FOLDER, NO_RECORD, OTHER)


@dataclass(frozen=True)
class Finding:
    """Something in the data folder that is not as it should be."""

    kind: str
    where: str
    what: str
    action: str = ""

    def row(self) -> dict[str, str]:
        """Return it as JSON holds it."""
        return asdict(self)


def write_description(folder: Path, repo: Repo) -> None:
    """Write the record of a repository into its folder, durably."""
    text = json.dumps(asdict(repo), indent=1, sort_keys=True, ensure_ascii=False)
    disk.write_file(folder / DESCRIPTION, text.encode())


def read_description(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says of itself, None if it says nothing that holds together."""
    try:
        with (folder / DESCRIPTION).open("rb") as file:
            value = json.loads(file.read(_LIMIT))
        good = (
            value["kind"] in KINDS
            and valid_name(value["namespace"])
            and valid_name(value["name"])
            and isinstance(value["private"], bool)
            and value["gated"] in ("", "auto", "manual")
            and isinstance(value["created"], float)
            and isinstance(value["revision"], int)
            and isinstance(value["id"], int)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if good else None


def is_repository(folder: Path) -> bool:
    """Say whether a folder holds a repository of this Hub."""
    return (folder / "git" / "objects").is_dir() and (folder / "git" / "refs").is_dir()


def numbered(repos: Path) -> dict[int, Path]:
    """Return the folders whose names are numbers of repositories."""
    if not repos.is_dir():
        return {}
    named = (path for path in repos.iterdir() if _NUMBER.fullmatch(path.name) and path.is_dir())
    return {int(path.name): path for path in sorted(named)}


def any_repository(root: Path) -> bool:
    """Say whether a data folder holds repositories, whatever the records say."""
    return any(is_repository(folder) for folder in numbered(root / "repos").values())


def compare(root: Path, records: Iterable[Repo], gone: Collection[int] = ()) -> Iterator[Finding]:
    """Yield where the folders in `repos/` and the records disagree, and what is not ours.

    `gone`: ids of the repositories that the accounts know to be deleted.
    """
    repos, by_id = root / "repos", {repo.id: repo for repo in records}
    folders = numbered(repos)
    deleted: dict[int, Path] = {}
    for path in sorted(repos.iterdir()) if repos.is_dir() else ():
        number = number_of(path)
        hidden = number != path.name and _NUMBER.fullmatch(number) and path.is_dir()
        if hidden and path.name.startswith(DELETED):
            deleted[int(number)] = path
        elif hidden and _is_remainder(path):
            yield Finding(DEAD, str(path), "was being made or erased when the server was killed")
        elif not _NUMBER.fullmatch(path.name) or not path.is_dir():
            yield Finding(STRAY, str(path), "is not a repository's folder: left alone")
    for key, folder in folders.items():
        yield from _of_folder(folder, by_id.get(key))
    for key, folder in deleted.items():
        if key in gone and key not in by_id:
            yield Finding(DEAD, str(folder), "was deleted")
        else:
            yield _of_deleted(folder, key in by_id and key not in folders)
    for key, repo in by_id.items():
        if key not in folders and not (key in deleted and _whole(deleted[key])):
            yield Finding(NO_FOLDER, str(repos / str(key)), f"is missing: {_name(repo)}")


def _is_remainder(folder: Path) -> bool:
    """Say whether a nameless folder is ours: it says so, or has at most begun to, or is empty."""
    begun = all(path.name.startswith(f".{UNBORN}.") for path in folder.iterdir())
    return begun or marked(folder, UNBORN)


def _of_folder(folder: Path, record: Repo | None) -> Iterator[Finding]:
    if record is None:
        if marked(folder, UNBORN):
            yield Finding(DEAD, str(folder), "was being made when the server was killed")
        elif is_repository(folder) or read_description(folder):
            yield Finding(NO_RECORD, str(folder), f"has no record: {described(folder)}")
        else:
            yield Finding(STRAY, str(folder), "holds no repository: left alone")
        return
    if not is_repository(folder):
        yield Finding(NO_FOLDER, str(folder), f"holds no repository: {_name(record)}")
        return
    if (description := read_description(folder)) is None:
        yield Finding(OLDER, str(folder), "has no description yet")
    elif description["id"] != record.id or description["created"] != record.created:
        what = f"is {described(folder)}, the record says {_name(record)}"
        yield Finding(OTHER, str(folder), what)
    elif description["revision"] > record.revision:
        yield Finding(NEWER, str(folder), f"is newer than its record: {described(folder)}")
    elif description["revision"] < record.revision:
        yield Finding(OLDER, str(folder), f"is older than its record: {_name(record)}")
    elif description != asdict(record):
        what = f"is {described(folder)}, the record says {_name(record)}"
        yield Finding(OTHER, str(folder), what)


def _of_deleted(folder: Path, recorded: bool) -> Finding:
    if recorded and _whole(folder):
        return Finding(UNDELETED, str(folder), "was to be deleted when the server was killed")
    if _whole(folder):
        return Finding(NO_RECORD, str(folder), f"was to be deleted, and is whole: {folder.name}")
    if marked(folder, GONE) or not any(folder.iterdir()):
        return Finding(DEAD, str(folder), "was deleted, and its erasing had begun")
    return Finding(STRAY, str(folder), "does not say what it is: left alone")


def _whole(folder: Path) -> bool:
    """Its description is what goes first when a folder is erased."""
    return (folder / DESCRIPTION).exists()


def mark(folder: Path, marker: str) -> None:
    """Let a folder say that it is unborn, or gone."""
    disk.write_file(folder / marker, _mark(folder, marker))


def marked(folder: Path, marker: str) -> bool:
    """Say whether a folder was given this mark, under this name."""
    try:
        with (folder / marker).open("rb") as file:
            return file.read(_LIMIT) == _mark(folder, marker)
    except OSError:
        return False


def _mark(folder: Path, marker: str) -> bytes:
    return f"usermirrorer hub: {number_of(folder)} is {marker}\n".encode()


def number_of(folder: Path) -> str:
    """Return what a folder is called when it has not stepped aside, nor just come into being."""
    return folder.name.removeprefix(DELETED).removeprefix(NAMELESS)


def make(folder: Path) -> None:
    """Make a folder that says from the first moment on that it is unborn."""
    new = folder.with_name(f"{NAMELESS}{folder.name}")
    new.mkdir()
    try:
        mark(new, UNBORN)
        new.rename(folder)
    except OSError:  # the disk is full
        with contextlib.suppress(OSError):
            erase(new, UNBORN)
        raise


def erase(folder: Path, marker: str) -> None:
    """Remove a folder, its mark last: a kill in between leaves one that still says what it is.

    Empty, its name alone says so.
    """
    if not folder.name.startswith("."):
        folder = folder.rename(folder.with_name(f"{NAMELESS}{folder.name}"))
    for path in folder.iterdir():
        if path.name == marker:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / marker).unlink(missing_ok=True)
    folder.rmdir()


def described(folder: Path) -> str:
    """Name the repository that a folder says it is."""
    value = read_description(folder)
    return _name(value) if value else "a repository without a description"


def _name(record: Repo | Mapping[str, Any]) -> str:
    value = record if isinstance(record, Mapping) else asdict(record)
    return f"{value['kind']} {value['namespace']}/{value['name']}"

"""Full and read-only disks: how they are told from other errors, and what is said of them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from usermirrorer.builders.common.errors import UserError

#: Errors that say: there is no room (a quota and a limit on the size of files are room, too).
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: And those that say: this may not be written, or read, at all.
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
#: Bytes that `try_writing` writes.
_TRIED = 65_536
#: How texts of libraries tell such an error: Rust's and Python's, and those without a number.
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]", re.IGNORECASE)
_WORDS = (
    (os.strerror(errno.ENOSPC), errno.ENOSPC),
    (os.strerror(errno.EROFS), errno.EROFS),
    ("PytorchStreamWriter failed writing", errno.ENOSPC),
    ("database or disk is full", errno.ENOSPC),
    ("attempt to write a readonly database", errno.EROFS),
    ("No usable temporary directory", errno.ENOSPC),
)


def unwritable(error: BaseException | None, place: object = "") -> UserError | None:
    """Return what to tell of an error that means a full or read-only disk; None of others.

    Libraries hide it: behind an error of their own, or in a text (`os error 28` of safetensors).

    Args:
        error: As it was caught.
        place: What was being written, for errors that do not say it.
    """
    for _ in range(10):
        if error is None:
            break
        name = getattr(error, "filename", None)
        named = name if isinstance(name, str | os.PathLike) else ""
        code = (error.errno if isinstance(error, OSError) else None) or _code_in(str(error))
        # Networks say EACCES and EPERM too, of what has no file name.
        if code in NO_ROOM or code == errno.EROFS or (code in NOT_ALLOWED and named):
            return _told(code, str(named or place))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def writing(place: object) -> Iterator[None]:
    """Tell of a full or read-only disk, whatever a library makes of it, as a `UserError`.

    Args:
        place: What the block writes, for errors that do not say it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if told := unwritable(error, place):
            raise told from error
        raise


def try_writing(folder: Path) -> None:
    """Write a little into a folder, which is made where it is not there, and remove it again.

    For what else would fail at the end of long work. An empty file would say nothing of a full
    disk.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable.") as file:
            file.write(b"\0" * _TRIED)
            file.flush()
            os.fsync(file.fileno())


def hub_cache() -> str:
    """Return the folder in which the Hub's client keeps what it downloads."""
    from huggingface_hub import constants

    return f"{constants.HF_HUB_CACHE} (set by HF_HOME)"


def _told(code: int, place: str) -> UserError:
    reason, fix = os.strerror(code), "Choose another folder, or let this user write to it."
    if code in NO_ROOM:
        fix = "Free some space and run again, or choose another folder."
    elif os.path.exists(place) and not os.access(place, os.R_OK):  # noqa: PTH110 - no error of its own
        return UserError(f"cannot be read: {reason}", where=place, fix="Let this user read it.")
    return UserError(f"cannot be written: {reason}", where=place or "the disk", fix=fix)


def _code_in(text: str) -> int | None:
    if told := _NUMBER.search(text):
        return int(told[1] or told[2])
    return next((code for words, code in _WORDS if words.lower() in text.lower()), None)

"""What is done with `hf://` paths: every call that works on files, in an order that leaves some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def path_calls(fs: Any, repo: str, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return the calls by their names.

    Args:
        fs: A `HfFileSystem`.
        repo: `owner/name` of a model, or `datasets/owner/name`, that holds `a.txt` and `d/b.txt`.
        folder: Where files of this machine may be made.
    """
    (folder / "here.txt").write_text("here")
    (folder / "many").mkdir(exist_ok=True)
    (folder / "many" / "one.txt").write_text("one")
    first, new = f"{repo}/a.txt", f"{repo}/new"

    def same(value: Any, wanted: Any) -> None:
        if value != wanted:
            raise ValueError(f"{value!r} is not {wanted!r}")

    def read_and_write() -> None:
        with fs.open(first, "rb") as file:
            file.seek(0)
            same(len(file.read(1)), 1)
        with fs.open(f"{new}/w.txt", "w") as file:
            file.write("w")

    return {
        "ls": lambda: same(first in fs.ls(repo, detail=False), True),
        "glob": lambda: same(fs.glob(f"{repo}/**/b.*"), [f"{repo}/d/b.txt"]),
        "find": lambda: same(f"{repo}/d/b.txt" in fs.find(repo), True),
        "walk": lambda: same(len(list(fs.walk(f"{repo}/d"))), 1),
        "info": lambda: same(fs.info(first)["type"], "file"),
        "exists": lambda: same(fs.exists(f"{repo}/none"), False),
        "isdir": lambda: same(fs.isdir(f"{repo}/d"), True),
        "isfile": lambda: same(fs.isfile(first), True),
        "size": lambda: same(fs.size(f"{repo}/d/b.txt"), 1),
        "du": lambda: same(fs.du(f"{repo}/d"), 1),
        "modified": lambda: fs.modified(first),
        "url": lambda: same(fs.url(first).endswith("/resolve/main/a.txt"), True),
        "open": read_and_write,
        "cat": lambda: same(len(fs.cat(f"{repo}/d/b.txt")), 1),
        "head": lambda: same(len(fs.head(first, 1)), 1),
        "read_text": lambda: same(fs.read_text(f"{repo}/d/b.txt"), "b"),
        "get": lambda: fs.get(f"{repo}/d", str(folder / "got"), recursive=True),
        "write_text": lambda: fs.write_text(f"{new}/t.txt", "t"),
        "pipe": lambda: fs.pipe(f"{new}/p.txt", b"p"),
        "put": lambda: fs.put(str(folder / "many"), f"{new}/put", recursive=True),
        "put_file": lambda: fs.put_file(str(folder / "here.txt"), f"{new}/here.txt"),
        "cp_file": lambda: fs.cp_file(f"{new}/t.txt", f"{new}/copy.txt"),
        "mv": lambda: fs.mv(f"{new}/copy.txt", f"{new}/moved.txt"),
        "rm_file": lambda: fs.rm_file(f"{new}/moved.txt"),
        "rm": lambda: fs.rm(new, recursive=True),
    }

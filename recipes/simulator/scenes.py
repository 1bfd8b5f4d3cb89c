"""Scenes from wherever they lie: Parquet, JSON lines, a release, a Hub, standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from usermirrorer.builders.common import scene_rows
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE

Row = dict[str, Any]
#: Bytes of a line, and lines.
LONGEST_LINE, MOST_LINES = 4 << 20, 5_000_000


class Placed(NamedTuple):
    """A scene and what errors call it: the line of a file, or the scene's number."""

    where: str
    row: Row


def commit_of(source: str, revision: str | None = None) -> str:
    """Return the commit of a dataset on the Hub; "" of what is no dataset there.

    Raises:
        UserError: see `published.commit_of`.
    """
    from usermirrorer.builders.common import published

    path = Path(source)
    here = source == "-" or path.exists() or path.suffix in (".parquet", ".json", ".jsonl")
    if here or source.startswith(("/", "./", "../", "~")):
        if revision:
            raise UserError("has no revisions", where=source, fix="Only what lies on a Hub has.")
        return ""
    return published.commit_of(source, revision)


def read_scenes(source: str, *, split: str = "test", revision: str | None = None) -> list[Placed]:
    """Return the scenes of a source, with `user_id` and `answer` where it has them.

    Args:
        source: Parquet or JSON-lines file, folder of scenes or of a release, dataset on the Hub, or
            `-` for JSON lines from standard input.
        split: Of a release or folder.
        revision: Of a dataset on the Hub.

    Raises:
        UserError: if there is nothing, or something else; of what is no JSON lines, see also
            `scene_rows.check`.
    """
    path = Path(source)
    if source == "-":
        rows = list(json_lines(sys.stdin.buffer, "standard input"))
    elif path.is_file() and path.suffix != ".parquet":
        with path.open("rb") as lines:
            rows = list(json_lines(lines, source))
    elif path.suffix == ".parquet" or (path / f"{split}.parquet").is_file():
        file = path if path.suffix == ".parquet" else path / f"{split}.parquet"
        rows = _numbered(_parquet(file), source)
    elif path.suffix in (".json", ".jsonl") or source.startswith(("/", "./", "../", "~")):
        if not path.is_dir():
            raise UserError("does not exist", where=source)
        rows = _numbered(_published(source, split, revision), source)
    else:
        rows = _numbered(_published(source, split, revision), source)
    if not rows:
        raise UserError("holds no scenes", where=source)
    return rows


def _numbered(rows: Iterable[Row], source: str) -> list[Placed]:
    return [Placed(f"{source}: scene {number}", row) for number, row in enumerate(rows, 1)]


def json_lines(file: BinaryIO, name: str) -> Iterator[Placed]:
    """Yield the objects of JSON lines, each with its line; empty lines are none.

    Raises:
        UserError: naming the line that is no object, or is too long.
    """
    for number in range(1, MOST_LINES + 2):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        where = f"{name}:{number}"
        if number > MOST_LINES:
            raise UserError(f"has over {MOST_LINES:,} lines", where=name)
        if len(line) > LONGEST_LINE:
            raise UserError(f"has over {LONGEST_LINE:,} bytes", where=where)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = str(error) if isinstance(error, ValueError) else "nested too deep"
            raise UserError(f"is no JSON: {what}", where=where) from None
        if not isinstance(row, dict):
            raise UserError("is no JSON object", where=where, fix='Give {"exposure": [...], ...}.')
        yield Placed(where, row)


def _parquet(path: Path) -> list[Row]:
    return _asked(scene_rows.read_scenes(path, needed=["exposure"]))


def _asked(scenes: pa.Table) -> list[Row]:
    wanted = [
        name for name in (*scene_rows.SHOWN, "user_id", "answer") if name in scenes.column_names
    ]
    return scenes.select(wanted).to_pylist()


def _published(source: str, split: str, revision: str | None) -> list[Row]:
    from usermirrorer.builders.common import published

    local = Path(source).is_dir()
    commit = "" if local else published.commit_of(source, revision)
    rows = published.read_rows(source, "scenes", split, commit)
    table = conform(rows.with_format("arrow")[:], SCENE, source)
    scene_rows.check(table, source, ["exposure"])
    return _asked(table)

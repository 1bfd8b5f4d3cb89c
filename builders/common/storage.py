"""Write tables so that a kill at any moment loses nothing that was finished and repeats nothing.

A stage that takes long writes numbered Parquet parts into `<output>.parts/`, each by atomic
rename, and at the end merges them into `<output>`, again by rename. Its `stage.json` names the
configuration; parts of another configuration are never mixed in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.disks import writing
from usermirrorer.builders.common.errors import UserError

_ANY = pa.schema([])
#: Under this name the metadata of a Parquet file says what the rows were made from, as JSON.
MADE_FROM = b"usermirrorer.made_from"
Work = Callable[[Sequence[Any]], pa.Table]
#: How numbered slices of rows are worked on: here one by one, or on other machines in any order.
Spread = Callable[[Work, Sequence[tuple[int, Sequence[Any]]]], Iterable[tuple[int, pa.Table]]]


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that change whenever the JSON form of `value` does."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` only if the block succeeds.

    Works for files and for folders (an existing folder is replaced).

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _sync(temporary)
            if path.is_dir():
                path.rename(Path(folder) / "replaced")
            temporary.replace(path)


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    with atomic(path) as temporary:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("does not exist", where=path) from None
    except ValueError as error:
        raise UserError(f"is not JSON: {error}", where=path) from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically, its bytes depending on the table alone.

    Content-defined chunking lets a Hub store only what changed between versions.
    """
    with atomic(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            use_content_defined_chunking=True,
            write_page_index=True,
            store_schema=True,
        )


def with_record(table: pa.Table, made_from: Mapping[str, Any]) -> pa.Table:
    """Return a table that says what it was made from, for whoever reads its file."""
    record = json.dumps(made_from, sort_keys=True, ensure_ascii=False, default=str)
    kept = table.schema.metadata or {}
    return table.replace_schema_metadata({**kept, MADE_FROM: record.encode()})


def without_record(table: pa.Table) -> pa.Table:
    """Return a table that does not say it: names and paths of its makers are not published."""
    kept = {k: v for k, v in (table.schema.metadata or {}).items() if k != MADE_FROM}
    return table.replace_schema_metadata(kept or None)


def read_record(path: Path) -> dict[str, Any]:
    """Return what a Parquet file says that it was made from; {} if it says nothing."""
    return record_of(read_schema(path).empty_table())


def record_of(table: pa.Table) -> dict[str, Any]:
    """Return what a table says that it was made from; {} if it says nothing that can be read."""
    try:
        record = json.loads((table.schema.metadata or {}).get(MADE_FROM, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_table(
    path: Path, columns: Sequence[str] | None = None, expected: pa.Schema | None = None
) -> pa.Table:
    """Read a Parquet file.

    Args:
        path: The file.
        columns: What to read of it, all by default.
        expected: Types that its columns are cast to, see `arrow.conform`; without it they get the
            plain types of their values.

    Raises:
        UserError: if it is missing, not Parquet, lacks one of `columns`, or has values that are
            none of `expected`.
    """
    with _open(path) as file:
        _check_there(path, file.schema_arrow.names, columns or ())
        table = file.read(columns=list(columns) if columns else None)
    return conform(table, expected or _ANY, path)


def read_schema(path: Path) -> pa.Schema:
    """Return the names and types of a Parquet file's columns, as they are stored.

    Raises:
        UserError: if it is missing or not Parquet.
    """
    with _open(path) as file:
        return file.schema_arrow


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what is wrong with it is a `UserError`, also while it is read."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise UserError("does not exist", where=path) from None
    except PermissionError as error:
        raise UserError("cannot be read", where=path, fix="Let this user read it.") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"is not the Parquet table it should be: {error}", where=path) from error


def _check_there(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in names]:
        raise UserError(f"lacks {', '.join(missing)}", where=path, fix="Make the file anew.")


def in_parts(
    output: Path,
    rows: Sequence[Any],
    work: Work,
    *,
    config: Mapping[str, Any],
    part_rows: int,
    record: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, bool], None] = lambda done, resumed: None,
    spread: Spread | None = None,
) -> tuple[Path, int]:
    """Run `work` over slices of `rows`, one Parquet part each, then merge them into `output`.

    Args:
        output: The Parquet file to make. If it exists with the same configuration, nothing is done.
        rows: Inputs, in an order that depends on the configuration alone.
        work: Pure function of a slice of rows.
        config: Everything the result depends on; another configuration starts anew.
        part_rows: Rows per part.
        record: What the output says that it was made from; see `with_record`.
        on_progress: Called with the rows of each part that is there, and whether it was resumed.
        spread: Works on the missing slices; without it, one after another in this process.

    Returns:
        The output path and the number of rows that an earlier run had already done.
    """
    key = fingerprint({**config, "rows": len(rows), "part_rows": part_rows})
    if done(output, key):
        on_progress(len(rows), True)
        return output, len(rows)
    folder = output.with_name(f"{output.name}.parts")
    stage = folder / "stage.json"
    if folder.exists() and not (stage.exists() and read_json(stage).get("key") == key):
        shutil.rmtree(folder)
    write_json(stage, {"key": key, **config})
    starts = range(0, len(rows), part_rows)
    parts = [folder / f"{number:06d}.parquet" for number in range(len(starts))]
    slices = [rows[start : start + part_rows] for start in starts]
    missing = [(i, slices[i]) for i, part in enumerate(parts) if not part.exists()]
    resumed = len(rows) - sum(len(slice_) for _, slice_ in missing)
    if resumed:
        on_progress(resumed, True)
    for number, table in (spread or one_by_one)(work, missing):
        write_table(parts[number], table)
        on_progress(len(slices[number]), False)
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    write_table(output, with_record(table, record) if record else table)
    mark_done(output, key)
    shutil.rmtree(folder)
    return output, resumed


def one_by_one(
    work: Work, missing: Sequence[tuple[int, Sequence[Any]]]
) -> Iterator[tuple[int, pa.Table]]:
    """Work on slices one after another in this process; a `Spread`."""
    return ((number, work(rows)) for number, rows in missing)


def done(output: Path, key: str) -> bool:
    """Say whether `output` was completed under the configuration `key`."""
    record = _record(output)
    return output.exists() and record.exists() and read_json(record).get("key") == key


def mark_done(output: Path, key: str) -> None:
    """Record that `output` (a file or folder) is complete for the configuration `key`."""
    write_json(_record(output), {"key": key})


def _record(output: Path) -> Path:
    return output.with_name(f".{output.name}.done.json")

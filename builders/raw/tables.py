"""Canonical tables as Parquet: written once from raw files, checked, and reused while those last.

    FOLDER/users.parquet  items.parquet  interactions.parquet  [impressions.parquet]  [<extra>...]
    FOLDER/manifest.json  what they were made from, and which rows were left out

Types and meaning of the columns: `schema.TABLES`, and `Source.columns` for those of one source.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.common import schema, storage, text
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import as_of, columns, delimited, files, json_lines
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

MANIFEST = "manifest.json"
_READERS = (as_of, columns, delimited, files, json_lines, text)  # what every source is read by
_ROWS = 250_000  # a row group


def schemas(source: Source) -> dict[str, pa.Schema]:
    """Return the full Arrow schema of every table a source may have, by name.

    Fields of the source's own columns carry their meaning as metadata `description`.
    """
    by_name = {}
    for name in dict.fromkeys([*schema.TABLES, *source.columns]):
        own = [
            pa.field(column, kind, metadata={"description": meaning})
            for column, (kind, meaning) in source.columns.get(name, {}).items()
        ]
        by_name[name] = pa.schema([*schema.TABLES.get(name, ()), *own])
    return by_name


def write(source: Source, raw_folder: Path, folder: Path, *, strict: bool = False) -> bool:
    """Read raw files into the tables in `folder`, unless they are there from the same files.

    Args:
        source: Whose files they are.
        raw_folder: Folder (or single file) of raw files.
        folder: Where the tables go; replaced as a whole, and only when all is written.
        strict: Bad rows are an error. Tables with rows left out are then not reused.

    Returns:
        Whether tables were written; False if those that are there could be kept.

    Raises:
        UserError: if raw files are missing, damaged or (with `strict`) have bad rows, if `folder`
            is something else, or the disk is full.
    """
    folder = Path(folder)
    inputs = hashes(source, Path(raw_folder))
    key = storage.fingerprint([source.name, schema.SCHEMA_VERSION, _code(source), inputs])
    if (folder / MANIFEST).exists():
        there = manifest(folder)
        if there["key"] == key and not (strict and there["skipped"]):
            return False
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            "is there, but no folder of canonical tables", where=folder, fix="Name another folder."
        )
    report = Report(strict)
    with files.recorded() as read:
        tables = source.read(Path(raw_folder), report)
    with storage.atomic(folder) as temporary:
        temporary.mkdir()
        rows = {
            name: _write(temporary / f"{name}.parquet", frame, expected)
            for name, frame, expected in _named(source, tables)
        }
        record = {
            "source": source.name,
            "schema_version": schema.SCHEMA_VERSION,
            "key": key,
            "inputs": _of_read(read, Path(raw_folder), inputs),
            "rows": rows,
            "skipped": dict(sorted(report.skipped.items())),
            "not_chosen": dict(sorted(report.not_chosen.items())),
            "first_line": report.first_line,
            **({"definition": source.definition} if source.definition else {}),
        }
        storage.write_json(temporary / MANIFEST, record)
    return True


def read(folder: Path) -> Tables:
    """Read the tables that `write` made.

    Raises:
        UserError: if the folder has none, they are of another version, or one is damaged.
    """
    made = manifest(folder)
    expected = schemas(_source_of(made))
    if made["schema_version"] != schema.SCHEMA_VERSION:
        raise UserError("holds tables of another version", where=folder, fix="Write them anew.")
    frames: dict[str, pl.DataFrame] = {}
    for name in made["rows"]:
        path = Path(folder) / f"{name}.parquet"
        table = storage.read_table(path, expected=expected.get(name))
        try:
            schema.assert_schema(table.schema, expected[name])
        except (ValueError, KeyError) as error:
            raise UserError(f"is not as documented: {error}", where=path) from error
        frame = pl.from_arrow(table, rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        frames[name] = frame
    extras = {name: frame for name, frame in frames.items() if name not in schema.TABLES}
    return Tables(
        users=frames["users"],
        items=frames["items"],
        interactions=frames["interactions"],
        impressions=frames.get("impressions"),
        extras=extras,
    )


def manifest(folder: Path) -> dict[str, Any]:
    """Return what the tables in `folder` were made from.

    Raises:
        UserError: if there are no tables.
    """
    if not (Path(folder) / MANIFEST).is_file():
        raise UserError(
            "holds no canonical tables", where=folder, fix="Make them: usermirrorer tables --help"
        )
    return storage.read_json(Path(folder) / MANIFEST)


def _source_of(made: Mapping[str, Any]) -> Source:
    """Return the source of stored tables; a definition in YAML lies in their manifest."""
    from usermirrorer.builders.raw.own import definition
    from usermirrorer.builders.raw.sources import get_source

    if text := made.get("definition"):
        return definition.from_text(text, f"{made['source']}.yaml")
    return get_source(made["source"])


def left_out(record: Mapping[str, Any]) -> list[str]:
    """Return one readable line per reason for which rows were left out, from a manifest."""
    report = Report(first_line=dict(record["first_line"]))
    report.skipped.update(record["skipped"])
    report.not_chosen.update(record.get("not_chosen", {}))
    return report.lines()


def hashes(source: Source, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every raw file of a source, by path inside `folder`.

    Counted are files with an expected name (`Source.files`), and all zip archives.

    Raises:
        UserError: if the folder is missing.
    """
    base = folder.parent if folder.is_file() else folder
    if source.located:
        paths = dict.fromkeys(source.located(folder).values())
        return {_name(path, base): storage.file_hash(path) for path in paths}
    patterns = [name.removesuffix(".gz") for names in source.files for name in names.split("|")]

    def expected(path: Path) -> bool:
        raw = files.Raw(path)
        return path.suffix.lower() == ".zip" or any(files.matches(raw, p) for p in patterns)

    return {
        path.relative_to(base).as_posix(): storage.file_hash(path)
        for path in files.there(folder)
        if expected(path)
    }


def _of_read(read: set[Path], folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of the files that were read, and of no others."""
    base = folder.parent if folder.is_file() else folder
    names = {path: _name(path, base) for path in sorted(read)}
    return {name: known.get(name) or storage.file_hash(path) for path, name in names.items()}


def _name(path: Path, base: Path) -> str:
    """Return a path inside a folder; of one outside of it the file name."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _code(source: Source) -> dict[str, str]:
    """Hashes of the modules that decide what is read: changed code reads again."""
    function: Any = getattr(source.read, "func", source.read)
    modules = [importlib.import_module(function.__module__), *_READERS]
    known = {str(m.__name__): storage.file_hash(Path(str(m.__file__))) for m in modules}
    if source.definition:
        own = sorted(Path(str(modules[0].__file__)).parent.glob("*.py"))
        known |= {path.name: storage.file_hash(path) for path in own}
        known["definition"] = storage.fingerprint(source.definition)
    return known


def _named(source: Source, tables: Tables) -> list[tuple[str, pl.DataFrame, pa.Schema]]:
    frames = {
        "users": tables.users,
        "items": tables.items,
        "interactions": tables.interactions,
        "impressions": tables.impressions,
        **tables.extras,
    }
    expected = schemas(source)
    named = []
    for name, frame in frames.items():
        if frame is None:
            continue
        known = set(expected.get(name, pa.schema([])).names)
        if known != set(frame.columns):
            raise ValueError(
                f"{source.name}: columns of {name} are not as documented: "
                f"{', '.join(sorted(known ^ set(frame.columns)))}"
            )
        named.append((name, frame, expected[name]))
    return named


def _write(path: Path, frame: pl.DataFrame, expected: pa.Schema) -> int:
    """Write a frame in row groups, its columns in the documented order and types."""
    with pq.ParquetWriter(path, expected, compression="zstd") as writer:
        for part in frame.select(expected.names).iter_slices(_ROWS):
            writer.write_table(part.to_arrow().cast(expected))
    return frame.height

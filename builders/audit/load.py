"""Scenes and their placebo from a file, a folder of scenes, a release or a Hub repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.audit.lists import COLUMNS
from usermirrorer.builders.common.errors import UserError

_SPLITS = ("train", "test")
Tables = dict[str, pa.Table]


def load(target: str, revision: str | None = None) -> tuple[Tables, Tables]:
    """Return scenes and placebo scenes by split, of the columns that an audit reads.

    Args:
        target: Parquet file of scenes, folder of `usermirrorer scenes`, release folder, or Hub
            repository. The placebo of a file `test.parquet` is `placebo_test.parquet` beside it.
        revision: Tag or commit, for a Hub repository.

    Raises:
        UserError: if there are no scenes.
    """
    path = Path(target)
    if path.is_file():
        return read_files({path.stem: path}, placebo_beside({path.stem: path}))
    if path.is_dir():
        return _load_folder(path)
    return _load_repository(target, revision)


def placebo_beside(scenes: Mapping[str, Path]) -> dict[str, Path]:
    """Return the placebo files that lie beside files of scenes, as `usermirrorer scenes` puts them.

    Args:
        scenes: Split -> file.
    """
    beside = {split: path.with_name(f"placebo_{path.name}") for split, path in scenes.items()}
    return {split: path for split, path in beside.items() if path.is_file()}


def read_files(scenes: Mapping[str, Path], placebo: Mapping[str, Path]) -> tuple[Tables, Tables]:
    """Read files of scenes and of placebo scenes by split."""
    return _read({s: [p] for s, p in scenes.items()}), _read({s: [p] for s, p in placebo.items()})


def _load_folder(path: Path) -> tuple[Tables, Tables]:
    found = []
    for table, single in (("scenes", "{}.parquet"), ("placebo", "placebo_{}.parquet")):
        files = {
            split: [
                *sorted(path.glob(single.format(split))),
                *sorted(path.glob(f"data/{table}/**/{split}-*.parquet")),
            ]
            for split in _SPLITS
        }
        found.append(_read({split: of_split for split, of_split in files.items() if of_split}))
    if not found[0]:
        raise UserError("holds no scenes", where=path, fix="Give a release folder or scene files.")
    return found[0], found[1]


def _load_repository(name: str, revision: str | None) -> tuple[Tables, Tables]:
    from datasets import get_dataset_config_names, load_dataset

    try:
        configs = get_dataset_config_names(name, revision=revision)
        scenes = load_dataset(name, "scenes", revision=revision)
        placebo = load_dataset(name, "placebo", revision=revision) if "placebo" in configs else {}
    except (FileNotFoundError, ValueError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"is no file, folder or dataset: {reason}", where=name) from error
    return _arrow(scenes), _arrow(placebo)


def _arrow(splits: Mapping[str, Any]) -> Tables:
    return {
        split: rows.select_columns([c for c in COLUMNS if c in rows.column_names])
        .with_format("arrow")[:]
        .combine_chunks()
        for split, rows in splits.items()
    }


def _read(files: Mapping[str, Iterable[Path]]) -> Tables:
    return {split: pa.concat_tables(map(_read_file, paths)) for split, paths in files.items()}


def _read_file(path: Path) -> pa.Table:
    try:
        known = set(pq.read_schema(path).names)
        return pq.read_table(path, columns=[name for name in COLUMNS if name in known])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"cannot be read as Parquet: {error}", where=path) from error

"""Files of scenes and of the placebo scenes beside them, with the columns that an audit reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from usermirrorer.builders.audit.lists import COLUMNS
from usermirrorer.builders.common.scene_rows import read_scenes

Tables = dict[str, pa.Table]


def placebo_beside(scenes: Mapping[str, Path]) -> dict[str, Path]:
    """Return the placebo files that lie beside files of scenes, as `usermirrorer scenes` puts them.

    Args:
        scenes: Split -> file.
    """
    beside = {split: path.with_name(f"placebo_{path.name}") for split, path in scenes.items()}
    return {split: path for split, path in beside.items() if path.is_file()}


def read_files(scenes: Mapping[str, Path], placebo: Mapping[str, Path]) -> tuple[Tables, Tables]:
    """Read scenes and placebo scenes by split.

    Args:
        scenes: Split -> file.
        placebo: The same of placebo scenes.

    Raises:
        UserError: if a file is missing, no Parquet, or of an older schema.
    """
    return _read(scenes), _read(placebo)


def _read(files: Mapping[str, Path]) -> Tables:
    return {split: read_scenes(path, COLUMNS, COLUMNS) for split, path in files.items()}

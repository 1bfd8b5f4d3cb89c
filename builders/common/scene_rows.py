"""Scenes from anywhere, checked where they are read: what no stage could use is one error.

Whoever decides, distils, trains on, scores or audits scenes reads them through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS, OPTION_FEATURES, SCENE
from usermirrorer.builders.common.storage import read_table

#: What prompts show.
SHOWN = ("scene_id", "profile", "history", "exposure")
_PER_OPTION = ("exposure_item_ids", "exposure_origin", *OPTION_FEATURES)
_PER_LINE = ("history_item_ids", "history_timestamps")
_AGAIN = "Build the scenes again, or leave it out."


def read_scenes(
    path: Path, columns: Sequence[str] | None = None, needed: Sequence[str] = SHOWN
) -> pa.Table:
    """Read a Parquet file of scenes.

    Args:
        path: The file.
        columns: What to read of it, all by default.
        needed: Columns that must be there.

    Raises:
        UserError: see `storage.read_table` and `check`.
    """
    table = read_table(path, columns, SCENE)
    check(table, path, needed)
    return table


def check(table: pa.Table, where: object, needed: Sequence[str] = SHOWN) -> None:
    """Refuse scenes that are none, of those columns of `SCENE` that are there.

    Args:
        table: With the types of `SCENE`.
        where: File or dataset, for errors.
        needed: Columns that must be there.

    Raises:
        UserError: naming the first scene at fault: there are no rows, a column is missing, a text
            is null, a scene is there twice, it has fewer than 2 or more than 26 options, its answer
            is none of them, or a list has not one entry per option or line of history.
    """
    if missing := [name for name in needed if name not in table.column_names]:
        raise UserError(
            f"the scenes lack {', '.join(sorted(missing))}",
            where=where,
            fix="Rebuild them with this version.",
        )
    if not table.num_rows:
        raise UserError("holds no scenes", where=where, fix="Give a file with rows.")
    for name in table.column_names:
        if name in SCENE.names and not SCENE.field(name).nullable:
            _no_nulls(table, name, where)
    names = table["scene_id"] if "scene_id" in table.column_names else None
    if names is not None and pc.count_distinct(names).as_py() != len(names):
        twice = names.value_counts()
        first = twice.field("values")[int(np.argmax(twice.field("counts").to_numpy()))]
        raise UserError(f"has scenes twice, e.g. {first}", where=where, fix="Give each its own id.")
    _check_lists(table, where)


def _no_nulls(table: pa.Table, name: str, where: object) -> None:
    column = table[name]
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise _fault(table, row, f": {name} is missing", where)
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        for_rows = pc.list_parent_indices(column) if _inner_nulls(column) else None
        if for_rows is not None:
            empty = pc.list_flatten(column).is_null()
            row = for_rows.filter(empty)[0].as_py()
            raise _fault(table, row, f": a text of {name} is missing", where)


def _inner_nulls(column: pa.ChunkedArray) -> int:
    return sum(chunk.flatten().null_count for chunk in column.chunks)


def _check_lists(table: pa.Table, where: object) -> None:
    there = table.column_names
    sizes = {n: _sizes(table[n]) for n in ("exposure", "exposure_origin", "history") if n in there}
    options = sizes.get("exposure", sizes.get("exposure_origin"))
    if options is not None:
        wrong = (options < 2) | (options > len(LABELS))
        if wrong.any():
            row = int(wrong.argmax())
            told = f" has {options[row]} options, not 2 to {len(LABELS)}"
            raise _fault(table, row, told, where)
        if "answer" in there:
            answer = table["answer"].to_numpy()
            wrong = (answer < 0) | (answer >= options)
            if wrong.any():
                row = int(wrong.argmax())
                told = f": answer {answer[row]} of {options[row]} options"
                raise _fault(table, row, told, where)
        _same_length(table, _PER_OPTION, options, "option", where)
    if "history" in sizes:
        _same_length(table, _PER_LINE, sizes["history"], "line of history", where)


def _same_length(
    table: pa.Table, names: Sequence[str], sizes: np.ndarray, of: str, where: object
) -> None:
    for name in names:
        if name in table.column_names:
            own = _sizes(table[name])
            wrong = own != sizes
            if name in _PER_LINE:  # empty where they are not known
                wrong &= own != 0
            if wrong.any():
                row = int(wrong.argmax())
                raise _fault(table, row, f": {name} has not one entry per {of}", where)


def _sizes(column: pa.ChunkedArray) -> np.ndarray:
    return pc.list_value_length(column).to_numpy()


def _fault(table: pa.Table, row: int, what: str, where: object) -> UserError:
    named = "scene_id" in table.column_names and table["scene_id"][row].as_py()
    return UserError(f"scene {named or f'of row {row:,}'}{what}", where=where, fix=_AGAIN)

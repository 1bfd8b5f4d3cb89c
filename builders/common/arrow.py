"""Tables as other programs write them, taken as our schemas have them, or not at all.

pandas writes `large_string`, its categories are dictionaries and its integers with gaps are floats;
polars writes views and large lists, others times in other units and zones. What holds the very same
values is cast where a table is read; what does not is an error that names column and row.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from usermirrorer.builders.common.errors import UserError


def conform(table: pa.Table, expected: pa.Schema, where: object = "", start: int = 0) -> pa.Table:
    """Return a table whose columns have the types of `expected`, no value changed.

    Numbers with a fraction are rounded to the precision of a column of floats. Columns that
    `expected` does not name get the plain type of their values; columns that are missing stay so.

    Args:
        table: As it was read.
        expected: Names and types.
        where: File or dataset, for errors.
        start: Row of the file with which the table begins.

    Raises:
        UserError: naming the column, and the row whose value would change.
    """
    columns, fields = [], []
    for field in table.schema:
        index = expected.get_field_index(field.name)
        kind = plain(field.type) if index < 0 else expected.field(index).type
        column = table[field.name]
        if not column.type.equals(kind):
            column = _cast(column, kind, field.name, where, start)
        columns.append(column)
        fields.append(field if column.type.equals(field.type) else field.with_type(kind))
    return pa.table(columns, schema=pa.schema(fields, table.schema.metadata))


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same values that every library knows."""
    if kinds.is_dictionary(kind):
        return plain(kind.value_type)
    if kinds.is_string_view(kind) or kinds.is_large_string(kind):
        return pa.string()
    if kinds.is_binary_view(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(plain(kind.value_type))
    if kinds.is_struct(kind):
        return pa.struct([(field.name, plain(field.type)) for field in kind.fields])
    return kind


def _cast(
    column: pa.ChunkedArray, kind: pa.DataType, name: str, where: object, start: int
) -> pa.ChunkedArray:
    if not _compatible(column.type, kind):
        what = f"is not as documented: column {name!r} is {column.type}, expected {kind}"
        raise UserError(what, where=where)
    chunks = []
    for chunk in column.chunks:
        try:
            chunks.append(_exact(chunk, kind))
        except (pa.ArrowException, ValueError) as error:
            row = _first_bad(chunk, lambda part: _exact(part, kind))
            value = str(chunk[row].as_py())[:60]
            raise UserError(
                f"column {name!r}, row {start + row:,}: {value} is no {kind}",
                where=where,
                fix="Rows count from 0. Write the column in that type.",
            ) from error
        start += len(chunk)
    return pa.chunked_array(chunks, kind)


def _compatible(given: pa.DataType, kind: pa.DataType) -> bool:
    """Say whether values of one type can be those of another: numbers are no texts."""
    if kinds.is_null(given):
        return True
    if kinds.is_dictionary(given):
        return _compatible(given.value_type, kind)
    if _is_list(kind):
        return _is_list(given) and _compatible(given.value_type, kind.value_type)
    if kinds.is_struct(kind):
        names = {field.name for field in given.fields} if kinds.is_struct(given) else set()
        return names == {field.name for field in kind.fields} and all(
            _compatible(given.field(field.name).type, field.type) for field in kind.fields
        )
    if kinds.is_timestamp(kind):
        return kinds.is_timestamp(given) or kinds.is_date(given)
    groups: tuple[Callable[[pa.DataType], bool], ...] = (_is_text, _is_number)
    return given.equals(kind) or any(group(given) and group(kind) for group in groups)


def _exact(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast values without changing one.

    Raises:
        ValueError, pa.ArrowException: if one would change.
    """
    if values.type.equals(kind):
        return values
    if kinds.is_dictionary(values.type):
        return _exact(values.dictionary_decode(), kind)
    if _is_list(values.type):
        lists = values.cast(pa.list_(values.type.value_type))
        inner = _exact(lists.flatten(), kind.value_type)  # of a slice, its own values alone
        ends = pc.cumulative_sum(pc.list_value_length(lists).fill_null(0))
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends.cast(pa.int32())])
        mask = lists.is_null() if lists.null_count else None
        return pa.ListArray.from_arrays(offsets, inner, type=kind, mask=mask)
    if kinds.is_struct(values.type):
        parts = [_exact(pc.struct_field(values, field.name), field.type) for field in kind.fields]
        mask = values.is_null() if values.null_count else None
        return pa.StructArray.from_arrays(parts, fields=kind.fields, mask=mask)
    if kinds.is_floating(values.type) and not kinds.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    if kinds.is_boolean(kind) or kinds.is_boolean(values.type):
        return _as_truth(values, kind)
    cast = values.cast(kind)
    if kinds.is_floating(kind) and pc.any(pc.xor(pc.is_inf(cast), _is_inf(values))).as_py():
        raise ValueError("too large")
    return cast


def _as_truth(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast 0 and 1 to false and true, and back."""
    cast = values.cast(kind)
    if not cast.cast(values.type).equals(values):
        raise ValueError("neither 0 nor 1")
    return cast


def _is_inf(values: pa.Array) -> pa.Array:
    return (
        pc.is_inf(values) if kinds.is_floating(values.type) else pc.is_inf(values.cast("float64"))
    )


def _first_bad(values: pa.Array, attempt: Callable[[pa.Array], object]) -> int:
    """Return the index of the first value that `attempt` fails on."""
    low, high = 0, len(values)  # those before `low` are good, one before `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(values.slice(low, middle - low))
            low = middle
        except (pa.ArrowException, ValueError):
            high = middle
    return low


def _is_list(kind: pa.DataType) -> bool:
    tests = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list, kinds.is_list_view,
             kinds.is_large_list_view)  # fmt: skip
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    tests = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary,
             kinds.is_large_binary, kinds.is_binary_view)  # fmt: skip
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    tests = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_decimal)
    return any(test(kind) for test in tests)

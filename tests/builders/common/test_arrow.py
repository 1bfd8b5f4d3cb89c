"""Promise: what other programs write of the same values is read as ours; what differs is named."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.distil.distil_rows import many, scene
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import DECISION, SCENE
from usermirrorer.builders.common.storage import read_table

SCENES = pa.Table.from_pylist(
    [
        scene("a", answer=2) | {"history": [], "history_item_ids": [], "history_timestamps": []},
        scene("b", options=2) | {"history_gap": None},
        scene("ü", options=26) | {"profile": "Ж" * 50},
    ],
    schema=SCENE,
)


def large(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.large_list(large(kind.value_type))
    return pa.large_string() if pa.types.is_string(kind) else kind


def views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(views(kind.value_type))
    return pa.string_view() if pa.types.is_string(kind) else kind


def retyped(table: pa.Table, change) -> pa.Table:
    fields = [pa.field(f.name, change(f.type)) for f in table.schema]
    return pa.table([table[f.name].cast(f.type) for f in fields], schema=pa.schema(fields))


def coded(table: pa.Table) -> pa.Table:
    """Texts as dictionaries, as pandas writes categories."""
    made = {
        name: table[name].dictionary_encode()
        if pa.types.is_string(table[name].type)
        else table[name]
        for name in table.column_names
    }
    return pa.table(made)


def other_times(table: pa.Table, unit: str, zone: str | None) -> pa.Table:
    kind = pa.timestamp(unit, zone)
    made = {name: table[name] for name in table.column_names}
    made["timestamp"] = table["timestamp"].cast(kind)
    made["history_timestamps"] = table["history_timestamps"].cast(pa.list_(kind))
    return pa.table(made)


def floats(table: pa.Table) -> pa.Table:
    """Integers as floats, NaN where there is none, as pandas has them."""
    made = {name: table[name] for name in table.column_names}
    made["answer"] = table["answer"].cast(pa.float64())
    gap = table["history_gap"].to_pandas().astype("float64").to_numpy()
    made["history_gap"] = pa.array(gap, pa.float64(), from_pandas=False)
    made["exposure_popularity"] = table["exposure_popularity"].cast(pa.list_(pa.float64()))
    assert np.isnan(gap).any()
    return pa.table(made)


WRITERS = {
    "large": lambda t, path: pq.write_table(retyped(t, large), path),
    "views": lambda t, path: pq.write_table(retyped(t, views), path),
    "dictionaries": lambda t, path: pq.write_table(coded(t), path),
    "floats": lambda t, path: pq.write_table(floats(t), path),
    "nanoseconds": lambda t, path: pq.write_table(other_times(t, "ns", "UTC"), path),
    "another zone": lambda t, path: pq.write_table(other_times(t, "us", "Europe/Vienna"), path),
    "no zone": lambda t, path: pq.write_table(other_times(t, "us", None), path),
    "pandas": lambda t, path: t.to_pandas().to_parquet(path),
    "pandas strings": lambda t, path: t.to_pandas()
    .astype({"scene_id": "string", "profile": "string[pyarrow]"})
    .to_parquet(path),
    "pandas categories": lambda t, path: t.to_pandas()
    .astype({"domain": "category", "source": "category"})
    .to_parquet(path),
    "pandas nullable": lambda t, path: t.to_pandas()
    .astype({"answer": "Int64", "real_exposure": "boolean"})
    .to_parquet(path),
    "polars": lambda t, path: pl.DataFrame(t).write_parquet(path),
    "polars by arrow": lambda t, path: pq.write_table(pl.DataFrame(t).to_arrow(), path),
    "polars categories": lambda t, path: pl.DataFrame(t)
    .cast({"domain": pl.Categorical, "source": pl.Enum(["movielens"])})
    .write_parquet(path),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_scenes_as_others_write_them_are_the_same_scenes(writer, tmp_path):
    path = tmp_path / "scenes.parquet"
    WRITERS[writer](SCENES, path)
    given = read_table(path, expected=SCENE)
    assert given.schema.types == SCENE.types
    assert given.to_pylist() == SCENES.to_pylist()


def test_columns_that_nobody_knows_get_plain_types_everywhere(tmp_path):
    more = SCENES.append_column("note", pa.array(["a", None, "b"], pa.string_view()))
    codes = pa.array(["x", "y", "x"]).dictionary_encode()
    more = more.append_column("code", codes).append_column("n", pa.array([1, 2, 3]))
    pq.write_table(retyped(more.drop_columns("code"), views).append_column("code", codes),
                   tmp_path / "s.parquet")  # fmt: skip
    given = read_table(tmp_path / "s.parquet", expected=SCENE)
    assert given.schema.field("note").type == pa.string() == given.schema.field("code").type
    assert given["note"].to_pylist() == ["a", None, "b"]
    assert given["n"].to_pylist() == [1, 2, 3]


def test_decisions_as_others_write_them(tmp_path):
    rows = pa.Table.from_pylist(many()[2], schema=DECISION)
    pl.DataFrame(rows).write_parquet(tmp_path / "p.parquet")
    rows.to_pandas().to_parquet(tmp_path / "q.parquet")
    for name in ("p", "q"):
        assert read_table(tmp_path / f"{name}.parquet", expected=DECISION).to_pylist() == (
            rows.to_pylist()
        )


MOMENT = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
LOSSY = {
    "a fraction": ("answer", pa.array([0.0, 1.0, 1.5]), "1.5 is no int8"),
    "too large": ("answer", pa.array([0, 1, 300]), "300 is no int8"),
    "truth": ("real_exposure", pa.array([0, 1, 2]), "2 is no bool"),
    "microseconds": (
        "timestamp",
        pa.array([MOMENT, MOMENT, MOMENT + dt.timedelta(microseconds=7)]).cast(
            pa.timestamp("us", "UTC")
        ),
        "is no timestamp",
    ),
    "no text": ("profile", pa.array([b"a", b"b", b"\xff"]), "is no string"),
    "within a list": (
        "exposure_popularity",
        pa.array([[1.0] * 4, [1.0] * 2, [1.0] * 25 + [0.5]]),
        "is no list",
    ),
    "infinite": ("exposure_age", pa.array([[1.0] * 4, [1.0] * 2, [1e300] * 26]), "1e\\+300"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSY)
def test_a_value_that_would_change_is_named_by_column_and_row(case):
    name, column, told = LOSSY[case]
    table = SCENES.set_column(SCENES.schema.get_field_index(name), name, column)
    with pytest.raises(UserError, match=f"here: column '{name}', row 2: .*{told}"):
        conform(table, SCENE, "here")
    with pytest.raises(UserError, match="row 1,002"):
        conform(table, SCENE, "here", start=1000)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("profile", pa.array([float("nan")] * 3)),
        ("timestamp", pa.array([1, 2, 3])),
        ("answer", pa.array(["A", "B", "C"])),
        ("exposure", pa.array(["a", "b", "c"])),
        ("history", pa.array([[1.0], [], []])),
    ],
)
def test_another_kind_of_value_is_no_other_spelling(name, column):
    table = SCENES.set_column(SCENES.schema.get_field_index(name), name, column)
    with pytest.raises(UserError, match=f"column '{name}' is .*, expected "):
        conform(table, SCENE, "here")


def test_a_slice_of_lists_keeps_its_rows():
    lists = pa.array([["a"], None, ["b", "c"], []], pa.large_list(pa.large_string()))
    table = pa.table({"history": lists}).slice(1, 3)
    given = conform(table, pa.schema([("history", pa.list_(pa.string()))]))
    assert given["history"].to_pylist() == [None, ["b", "c"], []]

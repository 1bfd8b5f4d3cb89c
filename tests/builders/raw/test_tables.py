"""Canonical tables as Parquet: what was read comes back, is checked, and is reused."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.builders.raw.golden import CASES, HERE
from usermirrorer.builders.common import schema
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import commands, tables
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source


def movielens(folder):
    shutil.copytree(HERE / "raw/movielens/ml-1m", folder / "raw")
    return get_source("movielens"), folder / "raw", folder / "tables"


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_comes_back(case, tmp_path):
    source, raw = get_source(CASES[case][0]), HERE / "raw" / CASES[case][1]
    read = source.read(raw, report := Report())
    assert tables.write(source, raw, tmp_path / "tables")
    again = tables.read(tmp_path / "tables")
    for name in ("users", "items", "interactions", "impressions"):
        one, other = getattr(read, name), getattr(again, name)
        assert (one is None) == (other is None)
        assert one is None or one.equals(other.select(one.columns))
        assert one is None or one.schema == other.select(one.columns).schema
    assert {n: f.to_dicts() for n, f in read.extras.items()} == {
        n: f.to_dicts() for n, f in again.extras.items()
    }
    left_out = tables.left_out(tables.manifest(tmp_path / "tables"))
    assert sorted(left_out) == sorted(report.lines())


@pytest.mark.parametrize("case", CASES)
def test_files_have_the_documented_schema(case, tmp_path):
    source = get_source(CASES[case][0])
    tables.write(source, HERE / "raw" / CASES[case][1], tmp_path / "tables")
    for name, expected in tables.schemas(source).items():
        path = tmp_path / "tables" / f"{name}.parquet"
        if name == "impressions" and source.name != "mind":
            assert not path.exists()
            continue
        stored = pq.read_schema(path)
        assert stored.names == expected.names and stored.types == expected.types
        own = set(source.columns.get(name, ()))
        assert all(stored.field(column).metadata[b"description"] for column in own)


def test_tables_are_kept_while_the_raw_files_last(tmp_path):
    source, raw, folder = movielens(tmp_path)
    assert tables.write(source, raw, folder)
    before = (folder / "items.parquet").stat().st_mtime_ns
    (raw / "notes.txt").write_text("no raw file")
    assert not tables.write(source, raw, folder)
    assert (folder / "items.parquet").stat().st_mtime_ns == before
    with (raw / "ratings.dat").open("a") as file:
        file.write("2::1::4::978299000\n")
    assert tables.write(source, raw, folder)
    assert tables.manifest(folder)["rows"]["interactions"] == 4


def test_the_manifest_names_raw_files_and_rows_left_out(tmp_path):
    source, raw, folder = movielens(tmp_path)
    tables.write(source, raw, folder)
    told = json.loads((folder / "manifest.json").read_text())
    assert set(told["inputs"]) == {"movies.dat", "ratings.dat", "users.dat"}
    assert all(len(value) == 64 for value in told["inputs"].values())
    assert told["skipped"]["ratings.dat: interaction of an unknown item"] == 1


def test_strict_does_not_reuse_tables_with_rows_left_out(tmp_path):
    source, raw, folder = movielens(tmp_path)
    tables.write(source, raw, folder)
    with pytest.raises(UserError, match=r"ratings\.dat.*bad row"):
        tables.write(source, raw, folder, strict=True)
    assert tables.read(folder).items.height == 3  # a failed run leaves the old ones


def test_another_folder_is_never_replaced(tmp_path):
    source, raw, folder = movielens(tmp_path)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no folder of canonical tables"):
        tables.write(source, raw, folder)
    assert (folder / "thesis.tex").exists()


def test_an_undocumented_column_is_refused(tmp_path, monkeypatch):
    source, raw, folder = movielens(tmp_path)
    monkeypatch.setitem(source.columns, "users", {})
    with pytest.raises(ValueError, match="columns of users are not as documented: age, gender"):
        tables.write(source, raw, folder)
    assert not folder.exists()


def test_a_table_of_another_type_is_one_error(tmp_path):
    source, raw, folder = movielens(tmp_path)
    tables.write(source, raw, folder)
    ids = pa.table({"user_id": pa.array([1, 2, 3])})
    pq.write_table(ids, folder / "users.parquet")
    with pytest.raises(UserError, match=r"users\.parquet: is not as documented: column 'user_id'"):
        tables.read(folder)


def test_a_truncated_table_is_one_error(tmp_path):
    source, raw, folder = movielens(tmp_path)
    tables.write(source, raw, folder)
    path = folder / "items.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"items\.parquet: is not the Parquet table"):
        tables.read(folder)


def test_every_canonical_table_is_documented():
    assert set(schema.TABLES) == {"users", "items", "interactions", "impressions"}


def test_the_command_says_what_it_made_and_what_it_kept(tmp_path):
    _, raw, folder = movielens(tmp_path)
    words = ["movielens", str(raw), "--out", str(folder)]
    first = CliRunner().invoke(commands.tables, words)
    assert "interactions.parquet: 3 rows\n" in first.output
    assert "left out: ratings.dat: interaction of an unknown item: 1 row(s)" in first.output
    assert "3 rows, as before" in CliRunner().invoke(commands.tables, words).output

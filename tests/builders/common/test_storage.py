"""Results appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    """`/dev/full` gives the kernel's own error of a disk without space."""
    with (
        pytest.raises(UserError, match="cannot be written: No space left"),
        storage.atomic(tmp_path / "out.txt") as temporary,
    ):
        temporary.write_text("half")
        Path("/dev/full").write_text("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there_before(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(ValueError, match="stop"), storage.atomic(target) as temporary:
        temporary.write_text("new")
        raise ValueError("stop")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "out"
    for name in ("first", "second"):
        with storage.atomic(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["second"]


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = pa.table({"a": list(range(1000)), "b": [str(i % 7) for i in range(1000)]})
    for name in ("one", "two"):
        storage.write_table(tmp_path / name, table)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [b"", b"not parquet"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.parquet: is not the Parquet table"):
        storage.read_table(tmp_path / "x.parquet")

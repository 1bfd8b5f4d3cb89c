"""Raw files packed in any way are read alike by every source, or one line says what to do."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.builders.raw.golden import CASES, HERE
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import tables
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source

RAW = HERE / "raw"
PACKED = ("loose", "capitals", "gz", "GZ", "gz without its ending", "zip", "ZIP", "its own zip")


def plain(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def contents(case: str) -> dict[Path, bytes]:
    """Return path inside the raw folder, without `.gz` -> content."""
    folder = RAW / CASES[case][1]
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path: path.relative_to(folder) for path in files}
    return {
        name.with_suffix("") if name.suffix == ".gz" else name: plain(path)
        for path, name in names.items()
    }


def zipped(archive: Path, name: str, content: bytes) -> None:
    """Add a member beside what macOS adds."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(f"raw data/{name}", content)
        beside = Path(name)
        opened.writestr(f"__MACOSX/raw data/{beside.parent}/._{beside.name}", b"\0\5\26\7")


def pack(folder: Path, name: Path, content: bytes, how: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "loose":
        path.write_bytes(content)
    elif how == "capitals":
        path.with_name(path.name.upper()).write_bytes(content)
    elif how.startswith("gz without"):
        path.write_bytes(gzip.compress(content))
    elif how.lower() == "gz":
        path.with_name(f"{path.name}.{how}").write_bytes(gzip.compress(content))
    else:
        of = {"zip": "raw.zip", "ZIP": "RAW.ZIP"}.get(how, f"{'-'.join(name.parts)}.zip")
        zipped(folder / of, str(name), content)


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Check two tables whose rows may come in another order."""
    key = [name for name, kind in one.schema.items() if kind in (pl.String, pl.Datetime)]
    assert_frame_equal(one.sort(key), other.sort(key), check_row_order=True)


@pytest.mark.parametrize("case", CASES)
@given(draw=st.data())
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_arrangement_of_the_files_gives_the_same_tables(case, draw, tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("raw"), get_source(CASES[case][0])
    for name, content in contents(case).items():
        pack(folder, name, content, draw.draw(st.sampled_from(PACKED), label=str(name)))
    got, expected = (source.read(path, Report()) for path in (folder, RAW / CASES[case][1]))
    same(got.items, expected.items)
    same(got.interactions.drop("timestamp_known", strict=False),
         expected.interactions.drop("timestamp_known", strict=False))  # fmt: skip
    tables.write(source, folder, folder.with_name(f"{folder.name}-tables"))
    listed = set(tables.manifest(folder.with_name(f"{folder.name}-tables"))["inputs"])
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert listed <= there
    read = sum(map(len, contents(case).values()))
    assert read and all("__MACOSX" not in name for name in listed)


def tarred(files: dict[Path, bytes], mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(f"raw/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return packed.getvalue()


def nested(files: dict[Path, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(str(name), content)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("in/inner.zip", packed.getvalue())
    return outer.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_an_archive_that_is_not_looked_into_is_named(case, tmp_path):
    files = contents(case)
    packed = {"x.tar": tarred(files, "w"), "x.tgz": tarred(files, "w:gz")}
    packed |= {"x.tar.gz": tarred(files, "w:gz"), "x.zip": nested(files)}
    for name, content in packed.items():
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(content)
        inside = "inner.zip" if name == "x.zip" else name
        with pytest.raises(UserError, match=rf"Unpack {inside} first"):
            get_source(CASES[case][0]).read(folder, Report())


@pytest.mark.parametrize("case", CASES)
def test_a_file_beside_its_own_gz_is_an_error_in_every_source(case, tmp_path):
    for number, wrong in enumerate(contents(case)):
        folder = tmp_path / str(number)
        for name, content in contents(case).items():
            pack(folder, name, content, "loose")
        (folder / f"{wrong}.gz").write_bytes(gzip.compress(contents(case)[wrong]))
        try:
            got = get_source(CASES[case][0]).read(folder, Report())
        except UserError as error:
            assert "is there more than once" in str(error) and "Keep one." in str(error)
        else:  # a file that this source does not read
            expected = get_source(CASES[case][0]).read(RAW / CASES[case][1], Report())
            assert got.interactions.equals(expected.interactions)
            (folder / wrong).unlink()
            (folder / f"{wrong}.gz").unlink()
            assert get_source(CASES[case][0]).read(folder, Report()).interactions.height


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_text_of_another_encoding_is_named_in_every_source(case, encoding, tmp_path):
    for name, content in contents(case).items():
        text = content.decode("utf-8", errors="replace")
        pack(tmp_path, name, text.encode(encoding), "loose")
    with pytest.raises(UserError, match=r"is UTF-16 text|NUL bytes"):
        get_source(CASES[case][0]).read(tmp_path, Report())


@pytest.mark.parametrize(
    ("source", "one", "other"),
    [
        ("movielens", "movielens-1m", "movielens-100k"),
        ("movielens", "movielens-100k", "movielens-atomic"),
        ("amazon_beauty", "amazon-2023", "All_Beauty.json"),
        ("amazon_fashion", "amazon-2018", "AMAZON_FASHION_5.json"),
        ("steam", "steam", "steam_new.json"),
    ],
)
def test_two_layouts_of_one_source_are_an_error_not_a_choice(source, one, other, tmp_path):
    for case in {one, other} & set(CASES):
        for name, content in contents(case).items():
            pack(tmp_path / case, name, content, "loose")
    if other not in CASES:
        (tmp_path / other).write_text("{}\n")
    with pytest.raises(UserError, match=r"more than once|several MovieLens layouts"):
        get_source(source).read(tmp_path, Report())

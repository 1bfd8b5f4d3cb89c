"""Raw files: read in blocks of any size, and every kind of bad input told apart."""

import csv
import gzip
import io
import json
import zipfile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import delimited, files, json_lines
from usermirrorer.builders.raw.report import Report

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\0"), max_size=12)
BLOCKS = st.sampled_from([1, 7, 64, 1 << 20])
NAMES = ["a", "b", "c"]


def write(folder, content, name="file.csv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return files.Raw(path)


def read(file, report=None, columns=NAMES, checks=None, **options):
    report = report or Report()
    return delimited.read_delimited(
        file, report, columns, [pl.col(c) for c in columns], checks or {}, **options
    )


def in_blocks(size, action):
    whole, files.BLOCK = files.BLOCK, size
    try:
        return action()
    finally:
        files.BLOCK = whole


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=3, max_size=3), min_size=1, max_size=8), BLOCKS)
def test_quoted_csv_reads_back_whatever_was_written(tmp_path_factory, rows, size):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([NAMES, *rows])
    file = write(tmp_path_factory.mktemp("csv"), text.getvalue())
    filled = [tuple(row) for row in rows if any(row)]
    try:
        got = in_blocks(size, lambda: read(file, quoted=True)).rows()
    except UserError as error:
        assert "none of its rows" in str(error)
        got = []
    assert [row for row in got if any(row)] == filled


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(PLAIN, min_size=3, max_size=3), min_size=1, max_size=8), BLOCKS)
def test_files_without_quotes_read_back_whatever_was_written(tmp_path_factory, rows, size):
    text = "\n".join("\t".join(row) for row in rows) + "\n"
    file = write(tmp_path_factory.mktemp("tsv"), text)
    got = in_blocks(size, lambda: read(file, separator="\t", header=False))
    assert got.rows() == [tuple(row) for row in rows]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.none() | FIELD, st.none() | st.floats(-1e9, 1e9)), min_size=1), BLOCKS)
def test_json_lines_read_back_whatever_was_written(tmp_path_factory, rows, size):
    text = "".join(json.dumps({"a": a, "b": b, "more": [1]}) + "\n" for a, b in rows)
    file = write(tmp_path_factory.mktemp("json"), text)
    schema = {"a": pl.String, "b": pl.Float64, "missing": pl.List(pl.String)}
    got = in_blocks(
        size, lambda: json_lines.read_json_lines(file, Report(), schema, ["a", "b", "missing"], {})
    )
    assert got.rows() == [(a, b, None) for a, b in rows]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("ab"), FIELD, min_size=1), min_size=1))
def test_python_literals_read_back_whatever_was_written(tmp_path_factory, rows):
    file = write(tmp_path_factory.mktemp("py"), "".join(f"{row!r}\n" for row in rows))
    schema = {"a": pl.String, "b": pl.String}
    got = json_lines.read_json_lines(file, Report(), schema, ["a", "b"], {}, python_literals=True)
    assert got.rows() == [(row.get("a"), row.get("b")) for row in rows]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_at_all_crash_a_parser(tmp_path_factory, content, quoted):
    file = write(tmp_path_factory.mktemp("junk"), content)
    for action in (
        lambda: read(file, quoted=quoted),
        lambda: read(file, quoted=quoted, header=False),
        lambda: json_lines.read_json_lines(file, Report(), {"a": pl.String}, ["a"], {}),
        lambda: json_lines.read_json_lines(
            file, Report(), {"a": pl.String}, ["a"], {}, python_literals=True
        ),
    ):
        try:
            action()
        except UserError as error:
            assert "file.csv" in str(error)


def test_a_row_of_another_width_is_counted_with_its_line(tmp_path):
    file = write(tmp_path, "a,b,c\n1,2,3\n1,2\n1,2,3,4\n4,5,6\n")
    for quoted in (False, True):
        report = Report()
        assert read(file, report, quoted=quoted).rows() == [("1", "2", "3"), ("4", "5", "6")]
        assert report.lines() == [
            "file.csv: not 3 fields split by ',': 2 row(s) left out, first on line 3"
        ]


def test_lines_are_counted_across_blocks_and_line_breaks_in_quotes(tmp_path):
    rows = "".join(f'{n},"two\nlines",x\n' for n in range(50))
    file = write(tmp_path, f"a,b,c\n{rows}bad,row,\n")
    checks = {"c is not x": pl.col("c") == "x"}
    report = Report()
    in_blocks(100, lambda: read(file, report, checks=checks, quoted=True))
    assert report.first_line == {"file.csv: c is not x": 102}


def test_strict_makes_the_first_bad_row_an_error(tmp_path):
    file = write(tmp_path, "a,b,c\n1,2,3\n1,2\n")
    with pytest.raises(UserError, match=r"file\.csv:3: 1 bad row\(s\): not 3 fields"):
        read(file, Report(strict=True))


def test_behind_the_last_needed_column_fields_may_be_missing(tmp_path):
    file = write(tmp_path, "a,b,c\n1,2\n")
    assert read(file, columns=["a", "b"]).rows() == [("1", "2")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"file\.csv: is empty"),
        ("a,b,c\n", r"none of its rows can be used"),
        (
            "a;b;c\n1;2;3\n",
            r"file\.csv:1: column\(s\) a, b, c are missing \(is it not split by ','",
        ),
        ("a,b\n1,2\n", r"file\.csv:1: column\(s\) c are missing"),
        ("a,b,c\n1\t2\t3\n", r"none of its rows.*not 3 fields split by ',' \(line 2\)"),
        ("a,b,c\n1,2,3\n1,2,\xe9\n".encode("latin-1"), r"file\.csv:3: is not utf-8 text"),
        ("a,b,c\n".encode("utf-16"), r"file\.csv: is UTF-16 text"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_one_error(tmp_path, content, message):
    for quoted in (False, True):
        with pytest.raises(UserError, match=message):
            read(write(tmp_path, content), quoted=quoted)


def test_a_quote_that_is_never_closed_is_found(tmp_path):
    with pytest.raises(UserError, match=r"file\.csv:2: a quote is never closed"):
        read(write(tmp_path, 'a,b,c\n1,"2,3\n4,5,6\n'), quoted=True)


def test_a_truncated_gzip_file_is_one_error(tmp_path):
    whole = gzip.compress(("a,b,c\n" + "1,2,3\n" * 100_000).encode())
    file = write(tmp_path, whole[: len(whole) // 2], "file.csv.gz")
    with pytest.raises(UserError, match=r"file\.csv\.gz: is cut off or damaged.*Download it again"):
        read(file)


def test_a_gzip_name_with_other_content_is_one_error(tmp_path):
    with pytest.raises(UserError, match="is not a gzip file"):
        read(write(tmp_path, "<html>Not found</html>", "file.csv.gz"))


def test_a_truncated_zip_archive_is_one_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("file.csv", "a,b,c\n1,2,3\n")
    content = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "all.zip").write_bytes(content[:-30])
    with pytest.raises(UserError, match="is not a whole zip archive"):
        files.one(tmp_path, "file.csv")


def test_a_damaged_member_of_a_zip_archive_is_one_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/file.csv", "a,b,c\n1,2,3\n")
    content = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "all.zip").write_bytes(content.replace(b"1,2,3", b"1,2,4", 1))
    file = files.one(tmp_path, "file.csv")
    with pytest.raises(UserError, match=r"all\.zip!in/file\.csv: is cut off or damaged"):
        read(file)


def test_a_line_of_ten_megabytes_is_read(tmp_path):
    file = write(tmp_path, f"a,b,c\n1,{'x' * 10_000_000},3\n")
    for quoted in (False, True):
        assert in_blocks(1 << 20, lambda q=quoted: read(file, quoted=q))["c"].to_list() == ["3"]


def test_an_endless_line_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    file = write(tmp_path, f"a,b,c\n1,{'x' * 5000},3\n")
    with pytest.raises(UserError, match=r"file\.csv:2: a line is longer"):
        in_blocks(100, lambda: read(file))


@pytest.mark.parametrize(
    "line", ["[1]", "{", "{'a': open('/etc/passwd')}", "{'a': 1}.keys()", "(" * 1000, "{'a': 9**9}"]
)
def test_a_literal_line_is_never_evaluated(tmp_path, line):
    file = write(tmp_path, f"{{'a': 'good'}}\n{line}\n")
    report = Report()
    got = json_lines.read_json_lines(
        file, report, {"a": pl.String}, ["a"], {}, python_literals=True
    )
    assert got["a"].to_list() == ["good"]
    assert report.first_line == {"file.csv: is not a Python literal with named fields": 2}


def test_a_json_field_of_another_kind_is_missing_not_fatal(tmp_path):
    file = write(tmp_path, '{"a": ["x"], "b": 1}\n{"a": "y", "b": "2"}\n{"a": {}, "b": "z"}\nno\n')
    report = Report()
    schema = {"a": pl.List(pl.String), "b": pl.String}
    got = json_lines.read_json_lines(file, report, schema, ["a", "b"], {})
    assert got.rows() == [(["x"], "1"), (None, "2"), (None, "z")]
    assert report.first_line == {"file.csv: is not JSON with named fields": 4}


def test_files_are_found_by_name_wherever_they_lie(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file.csv.gz").write_bytes(gzip.compress(b"x"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("data/other.csv", "x")
        archive.writestr("data/file.csv", "x")
    assert files.one(tmp_path, "file.csv").member == ""  # the other is the same again
    assert files.one(tmp_path, "none.csv", "other.csv").member == "data/other.csv"
    assert files.one(tmp_path / "all.zip", "file.csv").member == "data/file.csv"
    write(tmp_path, "x", "file.csv")
    with pytest.raises(UserError, match=r"file\.csv is there more than once"):
        files.one(tmp_path, "file.csv")
    with pytest.raises(UserError, match=r"none of what\.csv is there"):
        files.one(tmp_path, "what.csv")
    with pytest.raises(UserError, match="does not exist"):
        files.one(tmp_path / "nowhere", "what.csv")


def test_parts_of_one_name_are_all_found_in_any_arrangement(tmp_path):
    for part in ("train", "dev"):
        (tmp_path / part).mkdir()
        write(tmp_path / part, f"of {part}", "behaviors.tsv")
    (tmp_path / "train" / "behaviors.tsv").unlink()
    with zipfile.ZipFile(tmp_path / "all.ZIP", "w") as archive:
        archive.writestr("train/behaviors.tsv", "of train")
        archive.writestr("dev/behaviors.tsv", "of dev")  # unpacked already
        archive.writestr("__MACOSX/train/._behaviors.tsv", "\0\0")
    write(tmp_path / "dev", "\0\0", "._behaviors.tsv")
    there = files.locate(tmp_path, "behaviors.tsv")
    assert [(raw.path.name, raw.member) for raw in there] == [
        ("behaviors.tsv", ""),
        ("all.ZIP", "train/behaviors.tsv"),
    ]
    with pytest.raises(UserError, match="more than once"):
        files.one(tmp_path, "behaviors.tsv")


def test_a_gzip_file_is_read_whatever_it_is_called(tmp_path):
    (tmp_path / "file.csv").write_bytes(gzip.compress(b"a,b,c\n1,2,3\n"))
    assert read(files.one(tmp_path, "file.csv")).rows() == [("1", "2", "3")]


def test_a_zip_archive_under_another_name_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.csv", "w") as archive:
        archive.writestr("file.csv", "a,b,c\n1,2,3\n")
    with pytest.raises(UserError, match="is a zip archive"):
        read(files.one(tmp_path, "file.csv"))


@pytest.mark.parametrize("name", ["ml.tar.gz", "ml.tgz", "ml.7z", "ml.csv.bz2"])
def test_what_cannot_be_looked_into_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match=f"Unpack {name} first"):
        files.one(tmp_path, "file.csv")


def test_an_archive_in_an_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("in/inner.zip", "PK")
    with pytest.raises(UserError, match=r"Unpack inner\.zip first"):
        files.one(tmp_path, "file.csv")


def test_what_was_opened_is_recorded_and_nothing_else(tmp_path):
    for name in ("file.csv", "other.csv"):
        write(tmp_path, "a,b,c\n1,2,3\n", name)
    with files.recorded() as paths:
        read(files.one(tmp_path, "file.csv"))
    assert paths == {tmp_path / "file.csv"}


@pytest.mark.parametrize("quoted", [False, True])
def test_windows_line_ends_and_a_byte_order_mark_are_no_content(tmp_path, quoted):
    file = write(tmp_path, "\ufeffa,b,c\r\n1,2,3\r\n\r\n4,5,6\r\n")
    assert read(file, quoted=quoted).rows() == [("1", "2", "3"), ("4", "5", "6")]

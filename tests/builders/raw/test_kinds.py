"""Faults of real files, each planted in every source: a kind is mended, not an example of it."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.builders.raw.golden import CASES, lines
from tests.builders.raw.test_sources_faults import TEXTS, copy, read
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import made_up
from usermirrorer.builders.raw.made_up import PUBLISHED, Size, write
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source, kuairec, movielens

SIZE = Size(users=20, items=60, interactions=300)
SHIFT = 1_000_000


def written(name, folder, monkeypatch, share):
    """Write a source in which this share of the behaviors is with items that are not described."""
    drawn = made_up.behaviors

    def elsewhere(*args, **more):
        log = drawn(*args, **more)
        gone = pl.int_range(pl.len()) < share * SIZE.interactions
        return log.with_columns(pl.when(gone).then(pl.col("i") + SHIFT).otherwise("i").alias("i"))

    if name == "kuairec":  # its writer looks lengths up by the item
        write(name, folder, SIZE)
        path = next(folder.rglob("big_matrix.csv"))
        log = pl.read_csv(path)
        gone = pl.int_range(pl.len()) < share * SIZE.interactions
        shifted = pl.when(gone).then(pl.col("video_id") + SHIFT).otherwise("video_id")
        log.with_columns(shifted.alias("video_id")).write_csv(path)
        return folder
    monkeypatch.setattr(made_up, "behaviors", elsewhere)
    return write(name, folder, SIZE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_items_that_are_nowhere_described_are_counted_and_where_all_are_it_is_one_line(
    name, tmp_path, monkeypatch
):
    report = Report()
    half = get_source(name).read(written(name, tmp_path / "half", monkeypatch, 0.5), report)
    assert half.interactions.height
    assert any("unknown" in key or "article" in key for key in report.skipped), report.skipped
    monkeypatch.undo()
    folder = written(name, tmp_path / "all", monkeypatch, 1)
    with pytest.raises(UserError, match=r"every (interaction|impression) \(\d+\)") as caught:
        get_source(name).read(folder, Report())
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


MARKUP = (
    '<span class="a-size-large">{}</span></span>',
    "<b>{}</b><br/>",
    "&lt;i&gt;{}&lt;/i&gt;&nbsp;",
    '<img src="https://host/' + "x" * 400 + '.png" class="nav" alt="shop"/>{}',
    "<script type='a'>var t = 1;</script>{}",
    "{}</a>",
)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("markup", MARKUP)
def test_no_markup_of_a_field_is_shown(case, markup, tmp_path):
    folder = copy(case, tmp_path)
    changed = 0
    for file in (path for path in folder.rglob("*") if path.is_file()):
        encoding = "latin-1" if file.name in ("movies.dat", "u.item", "tags.dat") else "utf-8"
        text = file.read_bytes().decode(encoding)
        put = markup.replace('"', '""') if file.suffix == ".csv" else markup
        put = put.replace('"', '\\"') if file.suffix in (".json", ".jsonl") else put
        put = put.replace("'", "") if file.name.startswith("steam") else put
        for word in TEXTS:
            changed += word in text
            text = text.replace(word, put.format(word))
        file.write_bytes(text.encode(encoding))
    tables = read(case, folder)
    shown = lines(get_source(CASES[case][0]), tables, tables.interactions["timestamp"].max())
    assert changed and shown
    for line in shown:
        assert not re.search(r"</?(span|b|i|br|img|script|a)\b|nbsp|&[a-z]+;|var t", line), line


@pytest.mark.parametrize("case", CASES)
def test_no_text_of_a_source_ends_within_a_word(case, tmp_path):
    folder = copy(case, tmp_path)
    words = " ".join(f"wordle{n:04d}" for n in range(200))
    for file in (path for path in folder.rglob("*") if path.is_file()):
        encoding = "latin-1" if file.name in ("movies.dat", "u.item", "tags.dat") else "utf-8"
        text = file.read_bytes().decode(encoding)
        for word in TEXTS:
            text = text.replace(word, words)
        file.write_bytes(text.encode(encoding))
    tables, cut = read(case, folder), 0
    for frame in (tables.users, tables.items, tables.interactions):
        for column in frame.select(pl.col(pl.String)):
            for text in column.drop_nulls():
                cut += "…" in text
                parts = re.findall(r"wordle\w*", text)
                assert all(re.fullmatch(r"wordle\d{4}", part) for part in parts), (
                    column.name,
                    text,
                )
    assert cut


#: Layout -> file of the people, separator, and which of its fields are codes.
CODES = {
    "movielens-1m": ("users.dat", "::", (1, 2, 3, 4)),
    "movielens-100k": ("u.user", "|", (1, 2, 4)),
    "movielens-atomic": ("ml-100k.user", "\t", (1, 2, 4)),
}
KNOWN = {
    "gender": {"", "male", "female"},
    "age": {"", "Under 18", *(name for _, name in movielens._AGE_BANDS)},
}


@pytest.mark.parametrize("case", CODES)
@given(code=st.text(st.sampled_from("0123456789MFx-+. "), max_size=7))
@example(code="FFF")
@settings(max_examples=40, deadline=None)
def test_a_malformed_code_is_no_fact_about_a_person(case, code, tmp_path_factory):
    folder = copy(case, tmp_path_factory.mktemp("raw"))
    name, separator, fields = CODES[case]
    path = next(folder.rglob(name))
    rows = [line.split(separator) for line in path.read_text().splitlines()]
    first = int(case == "movielens-atomic")
    for row in rows[first:]:
        for field in fields:
            row[field] = code
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    users = read(case, folder).users
    for column, known in KNOWN.items():
        assert set(users[column]) <= known
    shown, bare = set(users["location"]), code.strip()
    assert shown == {""} or re.fullmatch(r"\d{5}(-?\d{4})?", bare)
    age = set(users["age"])
    assert age == {""} or re.fullmatch(r"\+?0*([1-9]|[1-9]\d|1[01]\d|120)", code), (code, age)
    if 3 in fields:
        assert set(users["occupation"]) <= {"", *movielens._OCCUPATIONS_1M}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("看 @程哥(O3xhcy6vhfzcu3kw) 的", "看 @程哥 的"),
        ("@小明(酷)(O3xhcy6vhf) 好", "@小明(酷) 好"),
        ("@a(O123abc)@b（O456def）", "@a@b"),
        ("价格(O3k)", "价格(O3k)"),
    ],
)
def test_a_handle_keeps_its_name_and_loses_its_account(written, shown):
    frame = pl.DataFrame({"caption": [written]})
    assert frame.select(kuairec._without_ids("caption")).item() == shown

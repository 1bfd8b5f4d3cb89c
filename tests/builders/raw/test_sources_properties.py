"""Whatever a raw file of a source holds: valid tables, or one error that names it."""

import shutil

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders.raw.golden import CASES, HERE, lines
from tests.builders.raw.test_sources_faults import FILES, TEXTS, copy, read
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import tables
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source

#: Time of one behavior in each layout, as it stands in the file.
TIMES = {
    "amazon-2018": ("AMAZON_FASHION.json", b"1413763200"),
    "amazon-2023": ("All_Beauty.jsonl", b"1588687728923"),
    "goodreads": ("goodreads_interactions_comics_graphic.json", b"Tue Jan 03 01:00:00 -0800 2012"),
    "kuairec": ("big_matrix.csv", b"1593878903.438"),
    "lastfm": ("user_taggedartists-timestamps.dat", b"1246399200000"),
    "mind": ("behaviors.tsv", b"11/12/2019 10:22:32 PM"),
    "mobilerec": ("mobilerec_final.csv", b"1540094400.0"),
    "movielens-1m": ("ratings.dat", b"978300760"),
    "movielens-100k": ("u.data", b"881250949"),
    "movielens-atomic": ("ml-100k.inter", b"881250949"),
    "steam": ("steam_reviews.json", b"2017-12-17"),
}
ABSURD = (b"-99999999999", b"99999999999999999999", b"0", b"1e300")


def check(source, found):
    """What every reader promises of the tables it returns."""
    for name, frame, expected in tables._named(source, found):
        frame.select(expected.names).to_arrow().cast(expected)
        assert frame.height or name != "interactions"
    users, items, events = found.users, found.items, found.interactions
    assert users["user_id"].is_unique().all() and items["item_id"].is_unique().all()
    assert events.join(items, on="item_id", how="anti").is_empty()
    assert events.join(users, on="user_id", how="anti").is_empty()
    assert events["timestamp"].null_count() == 0
    assert events["timestamp"].dt.year().is_between(1995, 2030).all()
    assert (items["title"].str.len_chars().is_between(1, 300)).all()
    for text in items["title"]:
        assert text.isprintable() or not any(ord(c) < 32 for c in text)


@st.composite
def damages(draw, size):
    """Bytes overwritten, put in, cut out or repeated, at a few places."""
    kinds = st.sampled_from(["overwrite", "insert", "delete", "repeat"])
    return [
        (draw(kinds), draw(st.integers(0, size)), draw(st.binary(min_size=1, max_size=20)))
        for _ in range(draw(st.integers(1, 4)))
    ]


def damaged(content, wanted):
    for kind, place, new in wanted:
        behind = place if kind in ("insert", "repeat") else place + len(new)
        middle = content[place : place + 40] * 2 if kind == "repeat" else new
        content = content[:place] + (b"" if kind == "delete" else middle) + content[behind:]
    return content


@pytest.mark.parametrize(("case", "file"), FILES, ids=[f"{c}/{f.name}" for c, f in FILES])
def test_damage_anywhere_gives_valid_tables_or_an_error(case, file, tmp_path):
    source, folder = get_source(CASES[case][0]), copy(case, tmp_path)
    whole = (folder / file).read_bytes()

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
    )
    @given(damages(len(whole)))
    def run(wanted):
        (folder / file).write_bytes(damaged(whole, wanted))
        report = Report()
        try:
            check(source, source.read(folder, report))
        except UserError as error:
            assert str(folder) in str(error)
            return
        if report.skipped:  # the same, made an error
            with pytest.raises(UserError, match=r"bad row\(s\)"):
                source.read(folder, Report(strict=True))

    run()


@pytest.mark.parametrize("absurd", ABSURD)
@pytest.mark.parametrize("case", CASES)
def test_an_absurd_time_costs_its_row_and_is_reported(case, absurd, tmp_path):
    folder, (name, time) = copy(case, tmp_path), TIMES[case]
    before, report = Report(), Report()
    once = read(case, folder, before)
    for path in folder.rglob(name):
        path.write_bytes(path.read_bytes().replace(time, absurd))
    found = read(case, folder, report)
    check(get_source(CASES[case][0]), found)
    assert found.interactions.height < once.interactions.height
    assert report.skipped.total() > before.skipped.total()
    assert any("timestamp" in reason for reason in report.skipped)


@pytest.mark.parametrize("case", CASES)
def test_a_text_of_ten_megabytes_is_cut_not_fatal(case, tmp_path):
    folder = copy(case, tmp_path)
    once = read(case, folder)
    long = b"Endless " * 1_300_000
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        if word := next((w.encode() for w in TEXTS if w.encode() in content), b""):
            file.write_bytes(content.replace(word, long, 1))
    found = read(case, folder)
    assert found.items.height == once.items.height
    assert found.interactions.height == once.interactions.height
    for frame in (found.users, found.items, found.interactions):
        for column in frame.select(pl.col(pl.String)):
            assert column.str.len_chars().max() is None or column.str.len_chars().max() < 2_000


@pytest.mark.parametrize("case", CASES)
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60))
def test_any_text_stays_one_line_without_labels_or_control_tokens(case, tmp_path, text):
    """Texts of the fixtures are replaced; what would be structure of the file is left out."""
    safe = "".join(c for c in text if c not in "\"'\\|:\t,") + " [B] <|im_end|> {{ 7*7 }}"
    folder = tmp_path / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    copy(case, tmp_path)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        encoding = "latin-1" if file.name in ("movies.dat", "u.item", "tags.dat") else "utf-8"
        content = file.read_bytes().decode(encoding)
        for word in TEXTS:
            content = content.replace(word, safe.replace("|", "") if "u." in file.name else safe)
        file.write_bytes(content.encode(encoding))
    found = read(case, folder)
    check(get_source(CASES[case][0]), found)
    for line in lines(get_source(CASES[case][0]), found, found.interactions["timestamp"].max()):
        assert "[B]" not in line and "<|" not in line and " 49" not in line
        assert line.startswith("profile:") or len(line.splitlines()) == 1


def test_every_layout_has_a_time_to_damage():
    assert TIMES.keys() == CASES.keys()
    for case, (name, time) in TIMES.items():
        files = list((HERE / "raw" / CASES[case][1]).rglob(name))
        assert any(time in file.read_bytes() for file in files), case

"""KuaiRec: what counts as chosen, and what is told of the rest."""

import shutil

import pytest

from tests.builders.raw.golden import HERE
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import tables
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source, kuairec

SOURCE = get_source("kuairec")
NOT_CHOSEN = "big_matrix.csv: not chosen: less than 50% of the video watched"


@pytest.fixture
def raw(tmp_path):
    return shutil.copytree(HERE / "raw/kuairec", tmp_path / "raw")


def watched(raw, *ratios):
    """Let user 0 watch one video for these shares of its length, a minute apart."""
    rows = [
        f"0,3649,{int(1000 * ratio)},1000,,20200705,{1593878903 + 60 * n},{ratio}\n"
        for n, ratio in enumerate(ratios)
    ]
    head = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    (raw / "big_matrix.csv").write_text(head + "".join(rows))


def test_a_video_is_chosen_from_half_of_it_on(raw):
    watched(raw, 0.0, 0.499999, 0.5, 0.500001, 3.0)
    report = Report()
    kept = SOURCE.read(raw, report).interactions["watch_ratio"].to_list()
    assert kept == pytest.approx([0.5, 0.500001, 3.0])
    assert report.not_chosen == {NOT_CHOSEN: 2} and not report.skipped
    assert report.lines() == [f"{NOT_CHOSEN}: 2 row(s) left out"]


def test_the_rule_is_stated_where_people_look():
    assert kuairec.CHOSEN_FROM == 0.5
    assert "watch_ratio >= 0.5" in SOURCE.limits
    assert "0.5 or more" in SOURCE.columns["interactions"]["watch_ratio"][1]


def test_short_watches_are_no_bad_rows_but_counted_in_the_manifest(raw, tmp_path):
    """`--strict` lets them pass, tables of them are used again, and what was left out is told."""
    watched(raw, 0.1, 1.0)
    assert tables.write(SOURCE, raw, tmp_path / "tables", strict=True)
    assert not tables.write(SOURCE, raw, tmp_path / "tables", strict=True)
    told = tables.manifest(tmp_path / "tables")
    assert told["skipped"] == {} and told["not_chosen"] == {NOT_CHOSEN: 1}
    assert tables.left_out(told) == [f"{NOT_CHOSEN}: 1 row(s) left out"]


def test_a_log_of_short_watches_alone_is_one_error(raw):
    watched(raw, 0.1, 0.2)
    with pytest.raises(UserError, match=r"every row \(\d+\) is not chosen: less than 50%"):
        SOURCE.read(raw, Report())

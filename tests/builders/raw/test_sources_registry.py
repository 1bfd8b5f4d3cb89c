"""Sources are found by looking: a new domain is one file and its templates."""

import importlib

import pytest

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import sources
from usermirrorer.builders.raw.report import Report

NINTH = """
from usermirrorer.builders.raw.source import Source
SOURCES = (Source("ninth", "ninth", "Ninth", "https://example.org", "CC0", True, "", {}, None),)
"""


def test_there_are_eight_domains_and_eleven_sources():
    assert {domain: len(names) for domain, names in sources.domains().items()} == {
        "amazon": 4,
        **dict.fromkeys(("goodreads", "kuairec", "lastfm", "mind", "mobilerec", "movielens"), 1),
        "steam": 1,
    }


def test_a_new_file_is_a_new_domain(tmp_path, monkeypatch):
    (tmp_path / "ninth.py").write_text(NINTH)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    sources.all_sources.cache_clear()
    try:
        assert sources.get_source("ninth").domain == "ninth"
    finally:
        monkeypatch.undo()
        sources.all_sources.cache_clear()


def test_an_unknown_source_lists_those_there_are():
    with pytest.raises(UserError, match=r"no source is called 'netflix'.*kuairec"):
        sources.get_source("netflix")


def test_a_report_counts_by_file_and_reason_and_keeps_the_first_line():
    report = Report()
    report.skip("bad date", 2, where="raw/log.csv", line=1204)
    report.skip("bad date", 1, where="raw/log.csv", line=9000)
    report.skip("unknown item", 1, where="raw/log.csv")
    report.skip("nothing", 0, where="raw/log.csv")
    assert report.lines() == [
        "log.csv: bad date: 3 row(s) left out, first on line 1,204",
        "log.csv: unknown item: 1 row(s) left out",
    ]

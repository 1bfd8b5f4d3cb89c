"""Cleaning: any text becomes one line that cannot pass for the prompt's own structure."""

import math
import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usermirrorer.builders.common.text import ago, clean, clean_column, cut

ODD = st.sampled_from(
    [
        *"<>&[]|/\\{}%;#a b\n\t\r\x00\x1c\x85\u2028\u3000À̈é-–“”中。ァ゛\u200b\u202e\u212b\ufeff",
        "<|",
        "|>",
        "<s>",
        "</s>",
        "[A]",
        "[INST]",
        "<start_of_turn>",
        "&lt;",
        "&amp;",
        "<br/>",
    ]
)
TEXT = st.lists(st.characters(codec="utf-8") | ODD, max_size=40).map("".join)
LIMITS = st.sampled_from([0, 5, 20, 100])
CONTROL = re.compile(r"<\||</?s>|<(start|end)_of_turn>|<(unk|pad|bos|eos)>|\[/?INST\]", re.I)


@settings(max_examples=1000, deadline=None)
@given(TEXT, LIMITS)
def test_one_printable_line_without_labels_or_control_tokens(text, limit):
    got = clean(text, limit)
    assert not re.search(r"\[\s*[A-Za-z]\s*\]", got)
    assert not CONTROL.search(got)
    assert got == got.strip()
    assert "  " not in got
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in got)
    assert not limit or len(got) <= limit


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_cleaning_twice_changes_nothing_more(text):
    once = clean(text)
    assert clean(once) == once


@settings(max_examples=500, deadline=None)
@given(st.lists(st.none() | TEXT, min_size=1, max_size=5), LIMITS)
def test_a_column_is_cleaned_as_its_values_are(texts, limit):
    column = pl.DataFrame({"x": pl.Series(texts, dtype=pl.String)})
    got = column.select(clean_column(pl.col("x"), limit))["x"].to_list()
    assert got == [clean(text, limit) for text in texts]


@given(st.text(max_size=200), st.integers(2, 50))
def test_a_cut_text_is_a_beginning_of_the_text(text, limit):
    got = cut(text, limit)
    assert len(got) <= limit
    assert text.startswith(got.removesuffix("…")) or got == text


def test_a_cut_falls_on_a_word_boundary():
    assert cut("The quick brown fox", 12) == "The quick…"
    assert cut("The quick brown fox", 19) == "The quick brown fox"
    assert cut("Donaudampfschifffahrt", 10) == "Donaudamp…"


@pytest.mark.parametrize("missing", [None, math.nan, ""])
def test_missing_values_are_empty(missing):
    assert clean(missing) == ""


def test_a_very_long_text_with_a_limit_is_quick():
    assert clean("&lt;b&gt;word " * 1_000_000, 20) == "word word word word…"


@given(st.floats(0, 1e10))
def test_ago_is_one_of_the_forms_of_the_paper(seconds):
    said = ago(seconds)
    assert said == "just now" or re.fullmatch(
        r"1 (year|month|day|hour|minute) ago|[1-9]\d+ \w+s ago|[2-9] \w+s ago", said
    )


def test_ago_refuses_the_future():
    assert ago(59) == "just now"
    assert ago(60) == "1 minute ago"
    assert ago(7199) == "1 hour ago"
    with pytest.raises(ValueError, match="cannot be in its history"):
        ago(-1)

"""Cleaning: any text becomes one line that cannot pass for the prompt's own structure."""

import math
import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usermirrorer.builders.common.text import (
    ago,
    clean,
    clean_column,
    cut,
    numbered_by_looks,
    skeleton,
    without_folders,
)

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
        *"\u200c\u200d\u3164\u115f\u2800\ufe0f\u20e3\U000e0067\U000e007f",
        *"👩💻🏴❤1ΑА［］یخهक्र্\u202a\u180b",
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


#: Signs that nothing is seen of, or a mere blank.
UNSEEN = [
    *"\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u2064",
    *"\ufe00\ufe0e\ufe0f\ufff9\ufffc\u3164\uffa0\u2800\U000e0001\U000e0041\U000e0100\U0001d173",
]


@pytest.mark.parametrize("sign", UNSEEN, ids=ascii)
def test_what_does_not_show_makes_no_other_text_and_no_label(sign):
    assert clean(f"Toy{sign} Story") == "Toy Story"
    assert clean(f"Heat{sign}") == clean(f"{sign}Heat") == "Heat"
    assert clean(f"[{sign}A{sign}]") == "(A)"
    assert clean(sign) == ""


KEPT = {
    "Persian, between joining letters": "می\u200cخواهم",
    "Persian, an abbreviation": "ه\u200d",
    "Hindi, a half letter": "क्\u200dष",
    "Hindi, a virama that shows": "क्\u200cष",
    "Bengali, before a virama": "র\u200d্য",
    "Malayalam, an old chillu": "ന്\u200d",
    "a person at a computer": "👩\u200d💻",
    "with a skin": "👩🏽\u200d💻",
    "a detective": "🕵\ufe0f\u200d♂\ufe0f",
    "a family": "👨\u200d👩\u200d👧",
    "a red heart": "❤\ufe0f",
    "a key": "1\ufe0f\u20e3",
    "the flag of Wales": "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
    "a flag": "🇫🇷",
    "emoji of Unicode 15.1 and 16": "🙂\u200d↔\ufe0f\U0001fae9",
    "emoji of Unicode 17": "\U0001faea\U0001fac8",
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_joiners_stay_where_they_show(text):
    assert clean(text) == text
    assert clean(f"a {text} b") == f"a {text} b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A\u200dB", "AB"),
        ("👩\u200d", "👩"),
        ("\u200d💻", "💻"),
        ("😀\ufe0f", "😀"),
        ("خ\u200c", "خ"),
        ("ا\u200cب", "اب"),  # alef does not join what follows
        ("خ\u200dا", "خا"),
        ("🏴\U000e0078\U000e0078\U000e007f", "🏴"),
        ("1\ufe0f", "1"),
    ],
    ids=ascii,
)
def test_joiners_go_where_they_change_nothing(text, shown):
    assert clean(text) == shown


@pytest.mark.parametrize("label", ["[А]", "[Α]", "［A］", "[Ａ]", "[𝐀]", "[ⅽ]", "[ \u2800A]"])
def test_what_looks_like_a_label_is_none(label):
    assert not re.search(r"[\[［]", clean(label))


def test_other_letters_in_brackets_stay():
    assert clean("[日] [12] [é] [ab]") == "[日] [12] [é] [ab]"


def test_a_cut_leaves_no_joiner_behind():
    for limit in range(2, 12):
        once = clean("film 👩\u200d💻👩\u200d💻 می\u200cخواهم", limit)
        assert clean(once) == once and not once.removesuffix("…").endswith("\u200d")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Heat", "Неat"),
        ("Rocky I", "Rocky l"),
        ("Rocky 1", "Rocky I"),
        ("com", "corn"),
        ("Paris", "Pａris"),
        ("❤", "❤\ufe0f"),
        ("é", "e\u0301"),
        ("A  B", "A B "),
        ("10 - B", "1O – B"),
        ("Ｈｅａｔ ２！", "Heat 2!"),
        ("ｶﾞﾝﾀﾞﾑ", "ガンダム"),
    ],
)
def test_texts_that_look_alike_have_one_skeleton_and_one_number(one, other):
    assert skeleton(one) == skeleton(other)
    first, second, third = numbered_by_looks([one, other, "Up"])
    assert first == second != third


def test_texts_that_differ_in_letter_case_alone_have_one_number():
    assert len(set(numbered_by_looks(["ALIEN", "Alien", "alien", "AIien"]))) == 1
    assert len(set(numbered_by_looks(["Alien", "Aliens", "Alien 3"]))) == 3
    assert list(numbered_by_looks([])) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/me/runs/sft", "sft"),
        ("failed. See /tmp/x/logs/a.log.", "failed. See a.log."),
        ("'/a/b/c' and (/d/e)", "'c' and (e)"),
        ("org/model and/or https://hub.example/org/model", None),
        ("~/runs/sft, ./a/b, 5 km/h, /single", None),
    ],
)
def test_of_an_absolute_path_the_last_part_is_told(text, told):
    assert without_folders(text) == (text if told is None else told)

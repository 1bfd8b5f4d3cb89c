"""Your own logs: untidy files are read right, a YAML file is checked to the line."""

from __future__ import annotations

import gzip
import json
import random
import re
import zipfile
from dataclasses import replace

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.new import new
from usermirrorer.builders.raw import tables as stored
from usermirrorer.builders.raw.own import detect, expressions, templates, values
from usermirrorer.builders.raw.own.definition import from_file
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import raw_of

YAML = """\
name: my-shop
timezone: Europe/Vienna
files:
  interactions: {path: log.csv, delimiter: ";"}
  items: {path: items.csv, encoding: utf-8}
interactions:
  user: wer
  item: sku
  time: {column: zeit, format: "%d.%m.%Y %H:%M"}
  columns:
    stars: {type: number, decimal: ","}
items:
  id: sku
  title: 商品名
as_of:
  items: {times: {count: rows}, average: {mean: stars}}
  users: {visits: {count: rows}}
templates:
  profile: "{% if visits %}{{ visits }} visits{% endif %}"
  history: "{{ title }}{% if stars %} {{ stars }}{% endif %}"
  exposure: "{{ title }}{% if average %} {{ average }}{% endif %}"
"""
LOG = (
    "wer;sku;zeit;stars\n"
    "u1;007;01.07.2024 12:00;4,5\n"
    "u2;007;02.07.2024 12:00;NA\n"
    "u1;008;03.07.2024 12:00;-\n"
    "u2;008;03.07.2024 12:00;1.000,5\n"
)
ITEMS = 'sku,商品名\n007,"Tee, grün\nlose"\n008,Kaffee\n008,again\n'


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "my-shop.yaml").write_text(YAML)
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbf" + LOG.encode())
    (tmp_path / "items.csv").write_text(ITEMS)
    return tmp_path


def read(folder, report=None):
    source = from_file(folder / "my-shop.yaml")
    return source, source.read(raw_of(source, None), report or Report())


def test_untidy_files_are_read_right(shop):
    report = Report()
    source, tables = read(shop, report)
    assert tables.items["item_id"].to_list() == ["007", "008"]  # leading zeros stay
    assert tables.items["title"].to_list() == ["Tee, grün lose", "Kaffee"]
    assert report.skipped == {"items.csv: column 'sku' has an id again (my-shop.yaml:13)": 1}
    assert tables.interactions["stars"].to_list() == [4.5, None, None, 1000.5]
    hours = tables.interactions["timestamp"].dt.hour().to_list()
    assert hours == [10] * 4  # noon in Vienna's summer
    stored.write(source, shop, shop / "tables")
    assert stored.read(shop / "tables").interactions.equals(tables.interactions)


def test_values_are_as_of_the_scene_and_strictly_before(shop):
    source, tables = read(shop)
    rows = tables.interactions.select("user_id", "item_id", "timestamp")
    found = source.item_as_of(tables, rows)
    assert found["times"].to_list() == [None, 1, None, None]
    assert found["average"].to_list() == [None, 4.5, None, None]
    assert source.user_as_of(tables, rows)["visits"].to_list() == [None, None, 1, 1]
    later = tables.interactions.with_columns(stars=pl.lit(9.0))
    first = source.item_as_of(replace(tables, interactions=later), rows.head(1))
    assert first.row(0) == (None, None)  # nothing of the scene itself


def test_bad_rows_are_counted_with_their_reason_and_line(shop):
    with (shop / "log.csv").open("a") as out:
        out.write("u3;007;2024-13-45;1,0\n;007;01.07.2024 12:00;1,0\nu4;007;01.07.2024 12:00;x\n")
        out.write("u4;999;01.07.2024 12:00;1\n")
    report = Report()
    _, tables = read(shop, report)
    assert len(tables.interactions) == 4
    told = "\n".join(report.lines())
    assert (
        "column 'zeit' is no time of the format %d.%m.%Y %H:%M (my-shop.yaml:9): 1 row(s)" in told
    )
    assert "column 'wer' is empty (my-shop.yaml:7): 1 row(s) left out, first on line 7" in told
    assert (
        "column 'stars' is no number (my-shop.yaml:11): 1 row(s) left out, first on line 8" in told
    )
    unknown = "column 'sku' names no item of items.csv (my-shop.yaml:8): 1 row(s) left out, first"
    assert f"{unknown} on line 9" in told


@given(st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_any_order_of_rows_gives_the_same_tables(tmp_path_factory, draw):
    folder = tmp_path_factory.mktemp("shop")
    head, *rows = LOG.splitlines()
    draw.shuffle(rows)
    (folder / "my-shop.yaml").write_text(YAML)
    (folder / "items.csv").write_text(ITEMS)
    (folder / "log.csv").write_text("\n".join([head, *rows]) + "\n")
    _, tables = read(folder)
    (folder / "log.csv").write_text(LOG)
    assert read(folder)[1].interactions.equals(tables.interactions)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("  user: wer", "  usr: wer", 7, "Did you mean 'user'?"),
        ("  user: wer", "  user: wehr", 7, "Did you mean 'wer'?"),
        ("name: my-shop", "name: My Shop", 1, "hyphens"),
        ("Europe/Vienna", "Europe/Wien", 2, "is no time zone"),
        ("mean: stars", "mean: starz", 16, "Did you mean 'stars'?"),
        ("{{ title }}{% if average", "{{ titel }}{% if average", 21, "Did you mean 'title'?"),
        ("{{ visits }} visits", "{{ 'a'.ljust(9) }}", 19, "not allowed"),
        ("  title: 商品名", "  title: 商品名\n  filter: title ~ 3", 15, "cannot be read"),
        ("items:\n  id", "items: &x\n  id", 12, "anchors"),
        ("  item: sku", "  item: sku\n  item: sku", 9, "is there twice"),
    ],
)
def test_an_error_names_the_line_and_what_was_meant(shop, old, new, line, says):
    (shop / "my-shop.yaml").write_text(YAML.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read(shop)
    assert f"my-shop.yaml:{line}" in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a >= 0.5", [2, 3]),
        ("a >= 0.5 and b != 'x'", [3]),
        ("not (a < 0.5) or b == 'z'", [1, 2, 3]),
        ("a != null", [1, 2, 3]),
        ("`a` = 2", [3]),
    ],
)
def test_conditions_compare_columns_with_values(text, kept):
    frame = pl.DataFrame({"n": [0, 1, 2, 3], "a": [None, 0.1, 0.5, 2.0], "b": ["x", "z", "x", "y"]})
    rule = expressions.condition(text, {"a": pl.Float64, "b": pl.String}, "f:1")
    assert frame.filter(rule)["n"].to_list() == kept


@pytest.mark.parametrize(
    "text", ["__import__('os')", "a >= a", "a.b > 1", "(" * 99, "a", "a > 'x'", "1 > a", "a > 1 1"]
)
def test_conditions_are_never_code(text):
    with pytest.raises(UserError):
        expressions.condition(text, {"a": pl.Float64}, "f:1")


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in b %}{% for c in b %}x{% endfor %}{% endfor %}",
        "{% set x = 'a' %}{{ x }}",
        "{% macro f() %}{% endmacro %}",
        "{{ ''.__class__ }}",
        "{{ range(9) }}",
        "{{ x | format(1) }}",
        "{% include 'x' %}",
        "{{ 2 ** 99 }}",
    ],
)
def test_templates_can_do_no_more_than_texts_need(text):
    with pytest.raises(UserError):
        templates.check(text, "f:1")


@pytest.mark.parametrize(
    ("column", "how"),
    [
        (["1720000000", "1720000100"], "epoch-s"),
        (["1720000000123"], "epoch-ms"),
        (["1720000000123456"], "epoch-us"),
        (["1720000000123456789"], "epoch-ns"),
        (["2024-07-01T12:00:00+02:00", "2024-07-01T10:00:00Z"], "iso"),
        (["2024-07-01 12:00:00.5", "2024-07-01"], "iso"),
        (["31.12.2024 23:59"], "%d.%m.%Y %H:%M"),
        (["12/31/2024"], "%m/%d/%Y"),
        (["31/12/2024", "01/02/2024"], "%d/%m/%Y"),
        (["abc"], ""),
    ],
)
def test_time_formats_are_detected(column, how):
    assert detect.time_format(pl.Series(column))[0] == how


@pytest.mark.parametrize("how", ["epoch-s", "epoch-ms", "epoch-us", "epoch-ns"])
def test_units_of_epochs_give_the_same_moment(how):
    digits = {"epoch-s": 0, "epoch-ms": 3, "epoch-us": 6, "epoch-ns": 9}[how]
    text = pl.DataFrame({"t": [f"1720000000{'0' * digits}"]})
    moment = text.select(values.moment(pl.col("t"), how, "UTC")).item()
    assert moment.timestamp() == 1_720_000_000


def rows_of(number=1500):
    draw = random.Random(1)
    return [
        (f"k{draw.randrange(40)}", f"{draw.randrange(60):03d}", 1_700_000_000 + 977 * n)
        for n in range(number)
    ]


@pytest.mark.parametrize(
    "kind", ["csv", "tsv", "jsonl", "parquet", "gz", "zip", "gb18030", "cp1252"]
)
def test_new_reads_every_format_and_prints_three_scenes(tmp_path, kind):
    rows = rows_of()
    title = {"gb18030": "中文书名商品", "cp1252": "Käse"}.get(kind, "Buch")
    encoding = kind if kind in ("gb18030", "cp1252") else "utf-8"
    items = tmp_path / "items.csv"
    text = "sku,title\n" + "".join(f"{n:03d},{title} {n}\n" for n in range(60))
    items.write_bytes(text.encode(encoding))
    frame = pl.DataFrame(rows, schema=["customer", "sku", "bought"], orient="row")
    csv = frame.write_csv(separator="\t" if kind == "tsv" else ",").encode()
    log = tmp_path / f"log.{kind}"
    if kind == "parquet":
        frame.write_parquet(log)
    elif kind == "jsonl":
        frame.write_ndjson(log)
    elif kind == "zip":
        with zipfile.ZipFile(log, "w") as archive:
            archive.writestr("log.csv", csv)
    else:
        log.write_bytes(gzip.compress(csv) if kind == "gz" else csv)
    out = tmp_path / "mine.yaml"
    command = ["mine", "--interactions", str(log), "--items", str(items), "--out", str(out)]
    result = CliRunner().invoke(new, command, catch_exceptions=False)
    assert result.exit_code == 0 and result.output.count("<- taken") == 3
    assert f"{title} 1" in result.output
    assert "GUESS" in out.read_text()
    assert out.read_text().startswith("# yaml-language-server: $schema=./")
    tables = from_file(out).read(tmp_path, Report())
    assert len(tables.interactions) == len(rows) and "007" in set(tables.items["item_id"])


def test_shown_lists_with_a_click_become_logged_exposures(tmp_path):
    rows = rows_of()
    draw = random.Random(2)
    (tmp_path / "items.csv").write_text(
        "sku,title\n" + "".join(f"{n:03d},Book {n}\n" for n in range(60))
    )
    frame = pl.DataFrame(rows, schema=["customer", "sku", "time"], orient="row")
    frame.write_csv(tmp_path / "log.csv")
    with (tmp_path / "shown.jsonl").open("w") as out:
        for user, item, time in rows[300:]:
            others = [f"{n:03d}" for n in draw.sample(range(60), 7) if f"{n:03d}" != item]
            shown = draw.sample([item, *others], len(others) + 1)
            row = pl.DataFrame(
                {"customer": [user], "time": [time], "shown": [shown], "clicked": [item]}
            )
            out.write(row.write_ndjson())
    command = ["mine", "--out", str(tmp_path / "mine.yaml"), "--items", str(tmp_path / "items.csv")]
    command += ["--interactions", str(tmp_path / "log.csv")]
    command += ["--impressions", str(tmp_path / "shown.jsonl")]
    result = CliRunner().invoke(new, command, catch_exceptions=False)
    assert result.output.count("<- taken") == 3
    tables = from_file(tmp_path / "mine.yaml").read(tmp_path, Report())
    assert len(tables.impressions) == 1200
    assert (tables.impressions["clicked"].list.sum() == 1).all()
    assert len(tables.interactions) == 1500  # clicks that the log holds are there once


@pytest.mark.parametrize("title", ["Book {}", "Book {} (1990)"])
def test_a_line_is_the_title_with_its_year_once_and_the_rest_behind_a_dash(tmp_path, title):
    items = [f"{n:03d},{title.format(n)},1990,Crime" for n in range(60)]
    (tmp_path / "items.csv").write_text("\n".join(["sku,title,year,genre", *items, ""]))
    frame = pl.DataFrame(rows_of(), schema=["customer", "sku", "time"], orient="row")
    frame.write_csv(tmp_path / "log.csv")
    files = ["--interactions", str(tmp_path / "log.csv"), "--items", str(tmp_path / "items.csv")]
    done = CliRunner().invoke(new, ["mine", *files, "--out", str(tmp_path / "mine.yaml"), "--json"])
    for scene in json.loads(done.output)["scenes"]:
        for line in scene["exposure"]:
            assert re.fullmatch(r"Book \d+ \(1990\) - (Year: 1990 - )?Genre: Crime", line), line

"""Every fault of a file names the file, the column, the row and the line of the YAML."""

from __future__ import annotations

import json

import pytest

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.own.definition import from_file
from usermirrorer.builders.raw.report import Report

YAML = """\
name: my-shop
files:
  interactions: {path: log.csv}
  items: {path: items.csv}
  users: {path: people.csv}
  impressions: {path: shown.jsonl, format: jsonl}
interactions:
  user: who
  item: sku
  time: {column: at, format: epoch-s}
  columns:
    stars: {type: number}
  filter: stars > 0
  behavior: stars >= 2
items:
  id: number
  title: name
  columns:
    year: {type: integer}
  available: {column: since, format: '%Y-%m-%d'}
users:
  id: who
  columns: {age: {type: integer}}
impressions:
  user: who
  time: {column: at, format: epoch-s}
  shown: list
  clicked: hit
templates:
  profile: "{{ age }}"
  history: "{{ title }}"
  exposure: "{{ title }}"
"""
LOG = [
    {"who": f"u{n % 3}", "sku": f"{n:03d}", "at": 1_700_000_000 + n, "stars": 4} for n in range(6)
]
ITEMS = [{"number": f"{n:03d}", "name": f"Tea {n}", "year": 1990, "since": ""} for n in range(6)]
PEOPLE = [{"who": f"u{n}", "age": 30} for n in range(3)]
SHOWN = [
    {"who": "u1", "at": 1_700_001_000 + n, "list": ["003", "004", "005"], "hit": ["004"]}
    for n in range(4)
]
TABLES = {"log.csv": LOG, "items.csv": ITEMS, "people.csv": PEOPLE, "shown.jsonl": SHOWN}
#: File, field, wrong value, what is said of it, line of the YAML.
FAULTS = [
    ("log.csv", "who", "", "column 'who' is empty", 8),
    ("log.csv", "sku", "", "column 'sku' is empty", 9),
    ("log.csv", "sku", "999", "column 'sku' names no item of items.csv", 9),
    ("log.csv", "at", "soon", "column 'at' is no time of the format epoch-s", 10),
    ("log.csv", "stars", "many", "column 'stars' is no number", 12),
    ("log.csv", "stars", "-1", "not stars > 0", 13),
    ("log.csv", "stars", "1", "not stars >= 2", 14),
    ("items.csv", "number", "", "column 'number' is empty", 16),
    ("items.csv", "name", "NA", "column 'name' is empty", 17),
    ("items.csv", "year", "MCM", "column 'year' is no integer", 19),
    ("items.csv", "since", "May", "column 'since' is no time of the format %Y-%m-%d", 20),
    ("people.csv", "who", "", "column 'who' is empty", 22),
    ("people.csv", "age", "old", "column 'age' is no integer", 23),
    ("shown.jsonl", "who", None, "column 'who' is empty", 25),
    ("shown.jsonl", "at", "soon", "column 'at' is no time of the format epoch-s", 26),
    ("shown.jsonl", "list", [], "column 'list' shows nothing", 27),
    ("shown.jsonl", "list", ["004", "999"], "column 'list' names no item of items.csv", 27),
    ("shown.jsonl", "hit", ["001"], "column 'hit' names what was not shown", 28),
]


def write(folder, name, rows):
    if name.endswith("jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        text = "\n".join(lines) + "\n"
    (folder / name).write_text(text)


def read(folder, name, rows, *, strict=False, text=YAML):
    tables = {**TABLES, name: rows}
    if name == "log.csv":  # what is clicked is taken as well, whatever the log holds
        tables["shown.jsonl"] = [{**row, "hit": []} for row in SHOWN]
    for other, its in tables.items():
        write(folder, other, its)
    (folder / "my-shop.yaml").write_text(text)
    report = Report(strict=strict)
    tables = from_file(folder / "my-shop.yaml").read(folder, report)
    return tables, report


@pytest.mark.parametrize(("name", "field", "value", "says", "line"), FAULTS)
def test_one_bad_row_is_counted_and_where_all_are_bad_that_is_the_error(
    name, field, value, says, line, tmp_path
):
    rows = TABLES[name]
    place = 1 if name.endswith("jsonl") else 2  # the line of the first row
    one = [*rows[:2], {**rows[2], field: value}, *rows[3:]]
    told = read(tmp_path, name, one)[1].lines()
    counted = [t for t in told if t.startswith(f"{name}: {says} (my-shop.yaml:{line}): 1 row(s)")]
    chosen = says.startswith("not ")  # sound rows that are no behaviors: their line says nothing
    assert counted and (chosen or f"first on line {place + 2}" in counted[0]), told
    if not chosen:
        with pytest.raises(UserError) as strict:
            read(tmp_path, name, one, strict=True)
        assert str(strict.value).startswith(f"{tmp_path / name}:{place + 2}: 1 bad row(s): {says}")
        assert f"my-shop.yaml:{line}" in str(strict.value)
    every = [{**row, field: value} for row in rows]
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, every)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ") and says in message
    assert f"line {place}" in message and f"my-shop.yaml:{line}" in message, message


def test_an_id_that_is_there_again_names_its_line(tmp_path):
    told = read(tmp_path, "items.csv", [*ITEMS, ITEMS[0]])[1].lines()
    again = "items.csv: column 'number' has an id again (my-shop.yaml:16): 1 row(s) left out"
    assert told == [f"{again}, first on line 8"]
    told = read(tmp_path, "log.csv", [*LOG, LOG[0]])[1].lines()
    assert told == ["log.csv: the same interaction again: 1 row(s) left out, first on line 8"]


@pytest.mark.parametrize(
    ("shown", "hit", "says"),
    [
        ("001-0 002", "", "column 'list' has an item without its label, as N1-0"),
        (["001", "002"], [0, 1, 0], "column 'hit' has not one yes or no for each item shown"),
        (["001", "002"], [0, 7], "column 'hit' has not one yes or no for each item shown"),
    ],
)
def test_labels_that_do_not_fit_the_list_are_a_fault_of_that_row_alone(shown, hit, says, tmp_path):
    together = isinstance(shown, str)
    good = "001-0 002-1" if together else ["001", "002"]
    text = (
        YAML.replace("  clicked: hit\n", "  clicked: list\n  separator: ' '\n")
        if together
        else YAML
    )
    fine = {**SHOWN[0], "list": good, "hit": [False, True]}
    rows = [fine, {**fine, "list": shown, "hit": hit}, fine]
    tables, report = read(tmp_path, "shown.jsonl", rows, text=text)
    assert tables.impressions["clicked"].to_list() == [[False, True]] * 2
    told = "\n".join(report.lines())
    line = 27 if together else 28
    assert f"shown.jsonl: {says} (my-shop.yaml:{line}): 1 row(s) left out, first on line 2" in told


def test_a_row_for_each_item_says_yes_or_no(tmp_path):
    text = YAML.replace("  clicked: hit\n", "  clicked: hit\n  layout: rows\n")
    rows = [
        {"who": "u1", "at": at, "list": f"00{n}", "hit": hit}
        for at, hits in ((1_700_001_000, "NY0"), (1_700_002_000, "0?1"))
        for n, hit in enumerate(hits)
    ]
    tables, report = read(tmp_path, "shown.jsonl", rows, text=text)
    assert tables.impressions["clicked"].to_list() == [[False, True, False]]
    says = "shown.jsonl: column 'hit' is neither yes nor no (my-shop.yaml:28): 1 row(s) left out"
    assert f"{says}, first on line 4" in report.lines()

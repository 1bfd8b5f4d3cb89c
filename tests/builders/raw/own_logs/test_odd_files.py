"""`new` on files as people have them: read right, or one line that names the file and the fault."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import random
import zipfile
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import files
from usermirrorer.builders.raw.own import detect, propose, text_columns, values
from usermirrorer.builders.raw.report import Report

START = 1_700_000_000
DRAW = random.Random(1)
ROWS = [
    (f"k{DRAW.randrange(25)}", f"{DRAW.randrange(40):03d}", START + 97_777 * n, DRAW.randint(1, 5))
    for n in range(300)
]


def log(times=None, separator=",", head="customer,sku,time,stars"):
    stamps = times or [row[2] for row in ROWS]
    rows = [
        separator.join((u, i, str(t), str(s))) for (u, i, _, s), t in zip(ROWS, stamps, strict=True)
    ]
    return "\n".join([*([head.replace(",", separator)] if head else []), *rows, ""])


def written(pattern, zone=dt.UTC):
    return [dt.datetime.fromtimestamp(row[2], zone).strftime(pattern) for row in ROWS]


def objects(make):
    return [make(user, item, time) for user, item, time, _ in ROWS]


def lines(make):
    return "".join(json.dumps(row) + "\n" for row in objects(make))


def proposed(folder, content, name="log.csv"):
    (folder / "items.csv").write_text(
        "sku,title\n" + "".join(f"{n:03d},B {n}\n" for n in range(40))
    )
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(raw)
    paths = {"interactions": folder / name, "items": folder / "items.csv"}
    return propose.propose({kind: detect.look(path) for kind, path in paths.items()}, {})


def parquet(**columns):
    table = {"customer": [r[0] for r in ROWS], "sku": [r[1] for r in ROWS]}
    table |= {"time": pa.array([r[2] * 1000 for r in ROWS], pa.timestamp("ms")), **columns}
    written = io.BytesIO()
    pq.write_table(pa.table(table), written)
    return written.getvalue()


def zipped(name, content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"encoding": "utf-16"}, "'utf-16' is no encoding that is read. Did you mean 'utf-8'"),
        ({"encoding": "klingon"}, "is no encoding that is read"),
        ({"delimiter": "ab"}, "'ab' cannot split fields. One sign"),
    ],
)
def test_what_is_said_of_text_files_is_checked(tmp_path, given, says):
    (tmp_path / "log.csv").write_text(log())
    with pytest.raises(UserError, match=says):
        detect.look(tmp_path / "log.csv", given)


def test_a_quote_that_is_but_a_sign_is_part_of_its_text(tmp_path):
    rows = "\n".join(f'{n}\t{n % 7}" single' if n % 3 else f'{n}\t"A" and B' for n in range(90))
    (tmp_path / "items.tsv").write_text(f"sku\ttitle\n{rows}\n")
    looked = detect.look(tmp_path / "items.tsv", {"delimiter": "\\t"})
    assert looked.about["quoted"] == "false"
    raw, title = files.Raw(tmp_path / "items.tsv"), pl.col("title")
    got = text_columns.read(raw, looked.about, Report(), ["title"], [title], {})
    assert got["title"][:2].to_list() == ['"A" and B', '1" single']


BERLIN = dt.timezone(dt.timedelta(hours=1))


@pytest.mark.parametrize(
    ("content", "how"),
    [
        (log(separator=";"), "epoch-s"),
        (log(separator="\t"), "epoch-s"),
        (log(separator="|"), "epoch-s"),
        (log(separator=", "), "epoch-s"),
        (log().replace("\n", "\r\n"), "epoch-s"),
        ("\ufeff" + log(), "epoch-s"),
        (log(head='"customer","sku","time","stars"').replace("k1,", '"k,1",'), "epoch-s"),
        (log([row[2] * 1000 + 7 for row in ROWS]), "epoch-ms"),
        (log([row[2] * 10**6 for row in ROWS]), "epoch-us"),
        (log([row[2] + 0.25 for row in ROWS]), "epoch-s"),
        (log(written("%Y-%m-%dT%H:%M:%S%z", BERLIN)), "iso"),
        (log(written("%Y-%m-%d %H:%M:%S UTC")), "iso"),
        (log(written("%Y-%m-%d %H:%M:%S+00")), "iso"),
        (log(written("%Y-%m-%d %H:%M:%S,123"), separator=";"), "iso"),
        (log(written("%d/%m/%Y %H:%M")), "%d/%m/%Y %H:%M"),
        (log(written("%m/%d/%Y %I:%M:%S %p")), "%m/%d/%Y %I:%M:%S %p"),
        (log(written("%Y-%m")), "%Y-%m"),
        (log(written("%d.%m.%y %H:%M")), "%d.%m.%y %H:%M"),
        (log(written("%m/%d/%y")), "%m/%d/%y"),
        (log(written("%d %B %Y")), "%d %B %Y"),
        (log(written('"%b %d, %Y %I:%M %p"')), "%b %d, %Y %I:%M %p"),
        (log(written("%d/%b/%Y:%H:%M:%S +0000")), "%d/%b/%Y:%H:%M:%S %z"),
        (log(written('"%a, %d %b %Y %H:%M:%S GMT"')), "%a, %d %b %Y %H:%M:%S GMT"),
        (log(written("%Y%m%d%H%M%S")), "%Y%m%d%H%M%S"),
        (log(written("%Y%m%dT%H%M%SZ")), "%Y%m%dT%H%M%SZ"),
        (
            log(separator="\t").replace("\tstars", "\tsize").replace("\t3\n", '\t7" single\n'),
            "epoch-s",
        ),
        (log() + "a,b\n" * 3 + "a,b,c,d,e,f\n" * 3, "epoch-s"),
        ("".join(f"{n or ''},{row}\n" for n, row in enumerate(log().splitlines())), "epoch-s"),
    ],
)
def test_what_people_export_is_read(tmp_path, content, how):
    made = proposed(tmp_path, content)
    assert made.roles["interactions.user"] == "customer"
    assert made.roles["interactions.item"] == "sku"
    assert made.formats["interactions.time"] == how


@pytest.mark.parametrize(
    ("make", "user", "item"),
    [
        (lambda u, i, t: {"customer": {"id": u}, "sku": i, "time": t}, "customer.id", "sku"),
        (lambda u, i, t: {"e": {"customer": u, "sku": i, "time": t}}, "e.customer", "e.sku"),
        (
            lambda u, i, t: {"customer": u, "sku": int(i) if t % 2 else i, "time": t},
            *("customer", "sku"),
        ),
    ],
)
def test_objects_inside_objects_are_reached_by_their_names(tmp_path, make, user, item):
    made = proposed(tmp_path, lines(make), "log.jsonl")
    assert (made.roles["interactions.user"], made.roles["interactions.item"]) == (user, item)
    raw, about = files.Raw(tmp_path / "log.jsonl"), {"format": "jsonl"}
    got = text_columns.read(raw, about, Report(), [user], [pl.col(user).alias("u")], {})
    assert got["u"].to_list() == [row[0] for row in ROWS]
    # The same line by line, as where one row is of another shape.
    (tmp_path / "log.jsonl").write_text(lines(make) + '{"customer": 1, "e": [2], "time": {}}\n')
    again = text_columns.read(raw, about, Report(), [user], [pl.col(user).alias("u")], {})
    assert again["u"].head(len(ROWS)).to_list() == got["u"].to_list()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("log.csv", "", "log.csv: is empty"),
        ("log.csv", "\n\n \n", "log.csv: is empty"),
        ("log.csv", "customer,sku,time\n", "log.csv: has a header and no rows"),
        ("log.csv", log(head=""), "log.csv:1: its first line seems to hold values"),
        ("log.csv", log(head="customer,sku,sku,time"), "log.csv:1: column.s. sku are there twice"),
        ("log.csv", log().replace("\n", "\r"), r"log.csv: its lines end in \\r alone"),
        ("log.csv", "# made by X\n" + log(), "log.csv:1: no row has the 1 field"),
        ("log.csv", log(head='"customer,sku,time,stars'), "quote in the header is never closed"),
        ("log.csv", "customer\n" + "k1\nk2\n" * 50, "no column looks like the user"),
        (
            "log.csv",
            log(written("week %U of %Y")),
            "the times of 'time' have no format that is known",
        ),
        (
            "log.csv",
            log(head="customer,sku,time,stars,,").replace("\nk", ",,\nk"),
            "without a name",
        ),
        ("log.parquet", parquet()[:-40], "log.parquet: is no whole Parquet file"),
        (
            "log.zip",
            zipped("log.parquet", parquet()),
            "Parquet inside an archive is not read. Unpack",
        ),
        ("log.csv", log().encode("utf-16"), "log.csv: is no text that is read.*UTF-8"),
        ("log.csv", bytes(range(256)) * 20, "log.csv: is no text that is read"),
        ("log.csv.gz", gzip.compress(log().encode())[:-99], "log.csv.gz: is cut off or damaged"),
        ("log.csv.gz", log(), "log.csv.gz: is not a gzip file"),
        ("log.json", json.dumps(objects(lambda u, i, t: {"u": u})), "is one JSON list"),
        ("log.json", json.dumps(objects(lambda u, i, t: {"u": u}), indent=1), "is one JSON list"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path, name, content, says):
    with pytest.raises(UserError, match=says):
        proposed(tmp_path, content, name)


N = len(ROWS)


@pytest.mark.parametrize(
    ("columns", "name", "value"),
    [
        ({"customer": pa.array([r[0] for r in ROWS]).dictionary_encode()}, "customer", ROWS[0][0]),
        ({"customer": [r[0].encode() for r in ROWS]}, "customer", ROWS[0][0]),
        ({"customer": pa.array([Decimal(7)] * N, pa.decimal128(20, 2))}, "customer", "7"),
        ({"customer": pa.array([7.0] * N)}, "customer", "7"),
        ({"price": pa.array([Decimal("4.50")] * N, pa.decimal128(10, 2))}, "price", "4.50"),
        ({"tags": [["a", "b"]] * N}, "tags", "a, b"),
        ({"codes": [[1, 2]] * N}, "codes", "1, 2"),
        ({"in": [[{"a": 1}]] * N}, "in", '{"a":1}'),
        ({"map": pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int64()))}, "map", ""),
        ({"bytes": [b"\xff\xfe"] * N}, "bytes", ""),
        ({"day": pa.array([19_700] * N, pa.date32())}, "day", "2023-12-09"),
        ({"zoned": pa.array([0] * N, pa.timestamp("us", "Asia/Tokyo"))}, "zoned",
         "1970-01-01T09:00:00.000+09:00"),
    ],
)  # fmt: skip
def test_every_type_of_parquet_is_a_text_or_nothing(columns, name, value, tmp_path):
    made = proposed(tmp_path, parquet(**columns), "log.parquet")
    assert made.formats["interactions.time"] == "iso"
    raw = files.Raw(tmp_path / "log.parquet")
    column = pl.col(name)
    how = values.identifier if name == "customer" else lambda c, _: values.typed(c, {}, ())
    got = text_columns.read(
        raw, {"format": "parquet"}, Report(), [name], [how(column, ()).alias("x")], {}
    )
    assert got["x"][0] == value


def test_a_large_file_is_looked_at_in_its_beginning_alone(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(log())
    with path.open("ab") as out:
        out.truncate(6 << 30)  # sparse: nobody could read it all here
    with files.beginnings(1 << 20):
        (block,) = files.blocks(files.Raw(path), encodings=("latin-1",))
    assert block.text.splitlines()[1].startswith("k") and len(block.text) < 2 << 20
    assert detect.look(path).about["delimiter"] == ","


@given(st.text(max_size=300), st.sampled_from([",", ";", "\t"]))
@settings(max_examples=150, deadline=None)
def test_any_text_is_looked_at_or_one_error(tmp_path_factory, text, separator):
    path = tmp_path_factory.mktemp("any") / "log.csv"
    path.write_text(f"a{separator}b\n{text}", encoding="utf-8", errors="replace", newline="")
    try:
        assert detect.look(path).sample.height
    except UserError as error:
        assert "log.csv" in str(error)


@given(
    st.datetimes(dt.datetime(1980, 1, 1), dt.datetime(2099, 1, 1)),
    st.sampled_from(["s", "ms", "us", "minute", "day", "month"]),
    st.sampled_from(["Z", " UTC", "+00", "+00:00", " +0000", "+05:30", ""]),
)
@settings(max_examples=200, deadline=None)
def test_a_written_time_of_any_precision_is_its_moment(moment, grain, zone):
    parts = {"s": "%H:%M:%S", "ms": "%H:%M:%S.%f", "us": "%H:%M:%S.%f", "minute": "%H:%M"}
    zone = zone if grain in ("s", "ms", "us") else ""
    pattern = {"day": "%Y-%m-%d", "month": "%Y-%m"}.get(grain) or f"%Y-%m-%d {parts[grain]}"
    text = moment.strftime(pattern)
    text = text[:-3] if grain == "ms" else text
    how = "%Y-%m" if grain == "month" else "iso"
    frame = pl.DataFrame({"t": [text + zone]})
    got = frame.select(values.moment(pl.col("t"), how, "UTC")).item()
    expected = dt.datetime.strptime(text, pattern).replace(tzinfo=dt.UTC)
    expected -= dt.timedelta(hours=5, minutes=30) if zone == "+05:30" else dt.timedelta()
    assert abs(got - expected) < dt.timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["1995"] * 99 + ["V"], {"type": "integer"}),
        (["1995"] * 9 + ["V"], {"type": "text"}),
        (["4"] * 99 + ["3.5"], {"type": "number"}),
        (["007"] * 9 + ["012"], {"type": "text"}),
        (["1,5", "2,0"], {"type": "number", "decimal": ","}),
        (["yes", "no", ""], {"type": "yes-no"}),
        (["", "-"], {"type": "text"}),
    ],
)
def test_a_columns_type_is_what_nearly_all_its_values_are(column, kind):
    assert detect.number_type(pl.Series(column)) == kind

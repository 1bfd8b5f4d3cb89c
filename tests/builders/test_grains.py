"""`validate` is green on scenes of every source, however coarse or fine its files' stamps are.

The stamps are those of the raw files: a writer of made-up files is handed coarser moments, and
where the publisher's layout has room for milliseconds, they are written into the file.
"""

from __future__ import annotations

import functools
import gzip

import numpy as np
import polars as pl
import pytest

from usermirrorer.builders import validate
from usermirrorer.builders.raw import made_up
from usermirrorer.builders.raw.made_up import PUBLISHED, Size, write
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import build
from usermirrorer.builders.scenes.world import SceneConfig

SIZE = Size(users=60, items=90, interactions=1200)
#: What a source's layout can say; a review on Steam or of an app has a day and no more.
DAYS = ("month", "day")
SECONDS = (*DAYS, "second")
MILLISECONDS = (*SECONDS, "millisecond", "mixed")
ROOM = {name: MILLISECONDS if name.startswith("amazon") else SECONDS for name in PUBLISHED} | {
    "kuairec": MILLISECONDS,
    "lastfm": MILLISECONDS,
    "steam": DAYS,
    "mobilerec": DAYS,
}
CASES = [(name, grain) for name, grains in ROOM.items() for grain in grains]


def coarse(grain: str) -> pl.Expr:
    """The start of a unix second's month or day; mixed is what Last.fm has: 90 % of a month."""
    moment = pl.from_epoch("t")
    of = {"month": "1mo", "day": "1d"}
    start = moment.dt.truncate(of.get(grain, "1s" if grain != "mixed" else "1mo")).dt.epoch("s")
    return pl.when(pl.col("t") % 10 == 0).then("t").otherwise(start) if grain == "mixed" else start


def milliseconds(count: int) -> pl.Series:
    return pl.Series(np.random.default_rng(count).integers(1, 1000, count))


def finer(name: str, folder, grain: str) -> None:
    """Write milliseconds (seconds on Last.fm) into stamps of the raw files that are of a second."""
    if name == "lastfm":
        path = folder / "user_taggedartists-timestamps.dat"
        frame = pl.read_csv(path, separator="\t")
        some = frame["timestamp"] // 86_400_000 % 10 == 0 if grain == "mixed" else True
        within = milliseconds(len(frame)) * (86_399 if grain == "millisecond" else 86_000)
        frame.with_columns(pl.col("timestamp") + within * some).write_csv(path, separator="\t")
    elif name == "kuairec":
        path = next(folder.rglob("big_matrix.csv"))
        frame = pl.read_csv(path).with_columns(ms=milliseconds(SIZE.interactions))
        written = pl.concat_str(
            pl.col("time").str.head(20), pl.col("ms").cast(pl.String).str.zfill(3)
        )
        stamp = pl.col("timestamp") + pl.col("ms") / 1000
        frame.with_columns(time=written, timestamp=stamp).drop("ms").write_csv(path)
    else:
        (path,) = (p for p in folder.glob("*.jsonl.gz") if not p.name.startswith("meta_"))
        frame = pl.read_ndjson(gzip.decompress(path.read_bytes()))
        fine = pl.col("timestamp") + milliseconds(len(frame))
        whole = pl.col("timestamp") % 86_400_000 == 0 if grain == "mixed" else pl.lit(False)
        frame = frame.with_columns(pl.when(whole).then("timestamp").otherwise(fine))
        path.write_bytes(gzip.compress(frame.write_ndjson().encode()))


@pytest.mark.parametrize(("name", "grain"), CASES)
def test_scenes_of_a_log_of_any_grain_keep_every_promise(name, grain, tmp_path, monkeypatch):
    drawn = made_up.behaviors

    @functools.wraps(drawn)
    def coarser(*args, **more):
        made = drawn(*args, **more).with_columns(coarse(grain).alias("t"))
        return made.sort("t", "u", "i")

    monkeypatch.setattr(made_up, "behaviors", coarser)
    folder = write(name, tmp_path, SIZE)
    if grain in ("millisecond", "mixed") or (name, grain) == ("lastfm", "second"):
        finer(name, folder, grain)
    source = get_source(name)
    tables = source.read(folder, Report())
    stamps = tables.interactions["timestamp"]
    if grain == "month":
        assert stamps.dt.strftime("%Y-%m").n_unique() * 2 >= stamps.n_unique()
    if grain in ("millisecond", "mixed") and name != "lastfm":  # where an act is of a day
        assert (stamps.dt.epoch("ms") % 1000 != 0).any()
    vectors = np.random.default_rng(0).standard_normal((tables.items.height, 8), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    config = SceneConfig(train=60, test=30, time_cut=0.0, history=(1, 5))
    made = build.make_scenes(source, tables, vectors, config)[0]
    findings = validate.validate(made)
    assert [finding for finding in findings if finding.ok is False] == []
    assert made["train"].num_rows and made["test"].num_rows

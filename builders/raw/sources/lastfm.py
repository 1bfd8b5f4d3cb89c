"""Last.fm (HetRec 2011, 2k users): artists that users tagged, with their friends."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import columns, delimited, files
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

_TOP_TAGS = 5
#: Whose months the stamps count: they are midnights of Madrid, where the data were gathered.
_ZONE = "Europe/Madrid"
_SLICE = 20_000  # (artist, time) pairs whose tags are counted at once


def read(folder: Path, report: Report) -> Tables:
    """Read the HetRec folder.

    Only tagging has a time. Nearly all stamps are the first of a month, a few count milliseconds:
    an interaction is the first day on which a user tagged an artist, with the tags given on
    that day, and happens at the day's start, so that no order within a day is made up. Play
    counts have none: with them, later listening would reach earlier scenes, so `user_artists.dat`
    is not read. An artist's `text` names the tags that at least two users gave, so that no single
    behavior shows in it.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    tagged = _tagged(folder, report)
    items = _artists(folder, report)
    file = files.one(folder, "user_taggedartists-timestamps.dat")
    interactions = columns.known(_first_days(tagged), items, "item_id", report, file)
    friends = _numbers(
        folder, report, "user_friends.dat", {"userID": "user_id", "friendID": "friend_id"}
    )
    people = pl.concat([interactions["user_id"], friends["user_id"]]).unique(maintain_order=True)
    return Tables(
        users=people.to_frame("user_id"),
        items=items.join(_texts(tagged), on="item_id", how="left", maintain_order="left").select(
            "item_id",
            "title",
            pl.concat_str("title", "tags", separator=" - ", ignore_nulls=True).alias("text"),
            pl.lit(None, pl.Datetime("ms", "UTC")).alias("available_from"),
        ),
        interactions=interactions,
        extras={"friends": friends},
    )


def _numbers(folder: Path, report: Report, name: str, names: dict[str, str]) -> pl.DataFrame:
    return delimited.read_delimited(
        files.one(folder, name),
        report,
        list(names),
        [pl.col(old).alias(new) for old, new in names.items()],
        columns.filled(*names.values()),
        separator="\t",
    )


def _tagged(folder: Path, report: Report) -> pl.DataFrame:
    file = files.one(folder, "user_taggedartists-timestamps.dat")
    frame = delimited.read_delimited(
        file,
        report,
        ["userID", "artistID", "tagID", "timestamp"],
        [
            pl.col("userID").alias("user_id"),
            pl.col("artistID").alias("item_id"),
            pl.col("tagID").alias("tag_id"),
            columns.utc(pl.col("timestamp").cast(pl.Float64, strict=False) / 1000)
            .dt.convert_time_zone(_ZONE)
            .dt.truncate("1d")
            .dt.convert_time_zone("UTC")
            .alias("timestamp"),
        ],
        # A few taggings carry times before Last.fm existed (down to 1956).
        {**columns.filled("user_id", "item_id"), **columns.between_years(2005, 2011)},
        separator="\t",
    )
    tags = delimited.read_delimited(
        files.one(folder, "tags.dat"),
        report,
        ["tagID", "tagValue"],
        [pl.col("tagID").alias("tag_id"), clean_column(pl.col("tagValue"), 40).alias("tag")],
        columns.filled("tag_id", "tag"),
        separator="\t",
        encodings=("utf-8", "latin-1"),
    )
    tags = columns.unique(tags, "tag_id", report, "tags.dat")
    named = frame.join(tags, on="tag_id", how="inner", maintain_order="left")
    report.skip("tagging with an unknown tag", len(frame) - len(named), where=file)
    return named


def _artists(folder: Path, report: Report) -> pl.DataFrame:
    file = files.one(folder, "artists.dat")
    frame = delimited.read_delimited(
        file,
        report,
        ["id", "name"],
        [pl.col("id").alias("item_id"), clean_column(pl.col("name"), 80).alias("title")],
        columns.filled("item_id", "title"),
        separator="\t",
        encodings=("utf-8", "latin-1"),
    )
    return columns.unique(frame, "item_id", report, file)


def _first_days(tagged: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("timestamp") == pl.col("timestamp").min()
    return tagged.group_by("user_id", "item_id", maintain_order=True).agg(
        pl.col("timestamp").min(),
        pl.col("tag").filter(first).unique(maintain_order=True).head(10).alias("tag_values"),
    )


def _texts(tagged: pl.DataFrame) -> pl.DataFrame:
    counted = tagged.group_by("item_id", "tag").agg(pl.col("user_id").n_unique().alias("n"))
    return _top(counted.filter(pl.col("n") >= 2), ["item_id"])


def _top(counted: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Join the most frequent tags of each group to one text, ties in alphabetical order."""
    best = counted.sort([*by, "n", "tag"], descending=[*[False] * len(by), True, False])
    return best.group_by(by, maintain_order=True).agg(
        pl.col("tag").head(_TOP_TAGS).str.join(", ").alias("tags")
    )


def _item_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """The artist's most frequent `tags` so far, and how many friends tagged it so far.

    `listened_friends` is null where no friend did.
    """
    return pl.concat(
        [_tags_as_of(tables.interactions, rows), _friends_as_of(tables, rows)], how="horizontal"
    )


def _tags_as_of(interactions: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    key = ["item_id", "timestamp"]
    given = interactions.select("item_id", "tag_values", pl.col("timestamp").alias("given"))
    given = given.explode("tag_values").drop_nulls("tag_values").rename({"tag_values": "tag"})
    moments = rows.select(key).unique(maintain_order=True)
    known = pl.concat(
        _top(
            part.join(given, on="item_id")
            .filter(pl.col("given") < pl.col("timestamp"))
            .group_by([*key, "tag"])
            .agg(pl.len().alias("n")),
            key,
        )
        for part in moments.iter_slices(_SLICE)
    )
    return rows.select(key).join(known, on=key, how="left", maintain_order="left").select("tags")


def _friends_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    key = ["user_id", "item_id", "timestamp"]
    asked = rows.select(key).unique(maintain_order=True)
    tagged = tables.interactions.select(
        "item_id", pl.col("user_id").alias("friend_id"), pl.col("timestamp").alias("heard")
    )
    count = (
        asked.join(tables.extras["friends"].unique(), on="user_id")
        .join(tagged, on=["friend_id", "item_id"])
        .filter(pl.col("heard") < pl.col("timestamp"))
        .group_by(key)
        .agg(pl.col("friend_id").n_unique().cast(pl.Int64).alias("listened_friends"))
    )
    counted = rows.select(key).join(count, on=key, how="left", maintain_order="left")
    return counted.select("listened_friends")


_COLUMNS = {
    "interactions": {
        "tag_values": (pa.list_(pa.string()), "tags the user gave on that day"),
    },
    "friends": {
        "user_id": (pa.string(), "user"),
        "friend_id": (pa.string(), "friend of this user"),
    },
}
SOURCES = (
    Source(
        name="lastfm",
        domain="lastfm",
        title="Last.fm HetRec 2011 (2k users)",
        homepage="https://grouplens.org/datasets/hetrec-2011/",
        licence="Last.fm terms: non-commercial research use, no redistribution without permission",
        redistributable=False,
        citation=(
            "@inproceedings{cantador2011second, title={Second Workshop on Information "
            "Heterogeneity and Fusion in Recommender Systems (HetRec 2011)}, author={Cantador, "
            "Iv{\\'a}n and Brusilovsky, Peter and Kuflik, Tsvi}, booktitle={RecSys}, year={2011}}"
        ),
        files={
            "artists.dat": "17,632 artists",
            "tags.dat": "names of tags",
            "user_taggedartists-timestamps.dat": "who tagged which artist when",
            "user_friends.dat": "friendships",
        },
        sizes={"hetrec2011-lastfm-2k.zip": "2.6 MB"},
        hashes={
            "hetrec2011-lastfm-2k.zip": (
                "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c"
            )
        },
        limits=(
            "The text that is embedded for content similarity names the tags of all years; what a "
            "scene shows are those given before it."
        ),
        read=read,
        downloads={
            "hetrec2011-lastfm-2k.zip": (
                "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
            )
        },
        columns=_COLUMNS,
        features={"friends": ("listened_friends",), "behavior": ("tag_values",)},
        item_as_of=_item_as_of,
    ),
)

"""KuaiRec 2.0: short videos of Kuaishou, with daily counts of each video."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, delimited, files
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

_BEIJING = "Asia/Shanghai"
#: `register_days` counts to the end of the log, 2020-09-05 (days are those of Beijing).
_SNAPSHOT = pl.datetime(2020, 9, 5, time_zone=_BEIJING)
_COUNTS = {
    "play_cnt": "play_count",
    "like_cnt": "like_count",
    "comment_cnt": "comment_count",
    "share_cnt": "share_count",
}
#: A video counts as chosen when at least this share of it was watched. Kuaishou plays the next
#: video by itself, so that a shorter watch says what the site showed, not what the user wanted.
CHOSEN_FROM = 0.5
_UNTITLED = "无标题"  # the publisher's own word for a video without caption


def read(folder: Path, report: Report) -> Tables:
    """Read `big_matrix.csv` (else `small_matrix.csv`), with users, captions and daily counts.

    The matrices record how long a video was watched; KuaiRec has no likes by user. Videos that were
    left before half of them was seen (`CHOSEN_FROM`) are no behaviors: they are left out and
    counted in the report. Likes, comments and shares are known per video and day: `item_as_of` sums
    the days before the scene's.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    whole = files.has(folder, "big_matrix.csv")  # the small one holds some of its users and videos
    file = files.one(folder, "big_matrix.csv" if whole else "small_matrix.csv")
    daily = _daily(files.one(folder, "item_daily_features.csv"), report)
    items = _videos(files.one(folder, "kuairec_caption_category.csv"), report, daily)
    users = _people(files.one(folder, "user_features.csv"), report)
    interactions = _watched(file, report)
    interactions = columns.known(interactions, items, "item_id", report, file)
    interactions = columns.known(interactions, users, "user_id", report, file)
    interactions = columns.once(interactions, report, file)
    return Tables(
        users=users,
        items=as_of.not_after_first(items, interactions),
        interactions=interactions,
        extras={"daily": _totals(daily)},
    )


def _watched(file: files.Raw, report: Report) -> pl.DataFrame:
    """Read what was watched for long enough to count as chosen."""
    frame = delimited.read_delimited(
        file,
        report,
        ["user_id", "video_id", "play_duration", "timestamp", "watch_ratio"],
        [
            "user_id",
            pl.col("video_id").alias("item_id"),
            columns.utc(pl.col("timestamp").cast(pl.Float64, strict=False)).alias("timestamp"),
            (pl.col("play_duration").cast(pl.Float32, strict=False) / 1000).alias(
                "watched_seconds"
            ),
            pl.col("watch_ratio").cast(pl.Float32, strict=False),
        ],
        {
            **columns.filled("user_id", "item_id"),
            "watching time is not a number": pl.col("watched_seconds").is_between(0, 1e6)
            & pl.col("watch_ratio").is_between(0, 1e6),
            **columns.between_years(2020, 2021),
        },
    )
    return columns.behaviors(
        frame,
        pl.col("watch_ratio") >= CHOSEN_FROM,
        f"not chosen: less than {CHOSEN_FROM:.0%} of the video watched",
        report,
        file,
    )


def _people(file: files.Raw, report: Report) -> pl.DataFrame:
    numbers = ["register_days", "friend_user_num", "follow_user_num", "fans_user_num"]
    degree = pl.col("user_active_degree").str.replace("_active", "")
    author = pl.when(pl.col("is_video_author") == "1").then(pl.lit("Video Author"))
    streamer = pl.when(pl.col("is_live_streamer") == "1").then(pl.lit("Live Streamer"))
    frame = delimited.read_delimited(
        file,
        report,
        [
            "user_id",
            "user_active_degree",
            "is_live_streamer",
            "is_video_author",
            "register_days_range",
            *numbers,
        ],
        [
            "user_id",
            clean_column(pl.when(degree != "UNKNOWN").then(degree), 40).alias("active_degree"),
            pl.concat_str(author, streamer, separator=", ", ignore_nulls=True).alias("role"),
            clean_column(_stated("register_days_range"), 20).alias("register_days_range"),
            *(_number(name) for name in numbers),
        ],
        columns.filled("user_id"),
        quoted=True,
    )
    return columns.unique(frame, "user_id", report, file)


def _number(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_between(0, 1e15)).then(value).cast(pl.Int64).alias(name)


def _daily(file: files.Raw, report: Report) -> pl.DataFrame:
    return delimited.read_delimited(
        file,
        report,
        ["video_id", "date", "upload_dt", "video_duration", *_COUNTS],
        [
            pl.col("video_id").alias("item_id"),
            columns.parsed_day(pl.col("date"), "%Y%m%d", _BEIJING).alias("day"),
            columns.parsed_day(pl.col("upload_dt"), "%Y-%m-%d", _BEIJING).alias("uploaded"),
            (_number("video_duration") / 1000).alias("seconds"),
            *(_number(old).alias(new) for old, new in _COUNTS.items()),
        ],
        {**columns.filled("item_id"), **columns.between_years(2020, 2021, "day")},
        quoted=True,
    )


def _totals(daily: pl.DataFrame) -> pl.DataFrame:
    """Counts of each video summed over the log's days, known from the end of the day."""
    by_day = daily.group_by("item_id", "day").agg(pl.col(*_COUNTS.values()).sum())
    return by_day.sort("item_id", "day").select(
        "item_id",
        # A day's counts are complete when the next one begins; `latest` reads strictly before.
        (pl.col("day") + pl.duration(days=1) - pl.duration(milliseconds=1))
        .dt.cast_time_unit("ms")
        .alias("timestamp"),
        pl.col(*_COUNTS.values()).cum_sum().over("item_id"),
    )


def _videos(file: files.Raw, report: Report, daily: pl.DataFrame) -> pl.DataFrame:
    levels = [f"{level}_level_category_name" for level in ("first", "second", "third")]
    category = pl.concat_str(map(_stated, levels), separator="/", ignore_nulls=True)
    frame = delimited.read_delimited(
        file,
        report,
        ["video_id", "manual_cover_text", "caption", "topic_tag", *levels],
        [
            pl.col("video_id").alias("item_id"),
            clean_column(_without_ids("caption"), 100).alias("caption"),
            clean_column(_without_ids("manual_cover_text"), 60).alias("cover_text"),
            clean_column(category, 60).alias("category"),
        ],
        columns.filled("item_id"),
        quoted=True,
    )
    frame = columns.unique(frame, "item_id", report, file)
    once = daily.group_by("item_id").agg(
        pl.col("uploaded").min().alias("available_from"), pl.col("seconds").drop_nulls().first()
    )
    said = [pl.when(pl.col(c) != "").then(c) for c in ("caption", "cover_text")]
    every = [*said[:1], pl.when(pl.col("category") != "").then("category"), *said[1:]]
    return frame.join(once, on="item_id", how="left", maintain_order="left").select(
        "item_id",
        pl.coalesce(*said, pl.lit(_UNTITLED)).alias("title"),
        pl.concat_str(every, separator=" ", ignore_nulls=True).replace("", _UNTITLED).alias("text"),
        "available_from",
        "caption",
        "category",
        "cover_text",
        pl.col("seconds").round().cast(pl.Int64).alias("duration"),
    )


def _without_ids(name: str) -> pl.Expr:
    """Text without the account numbers behind handles: `@name(O3xhcy6vhfzcu3kw)` is `@name`."""
    return _stated(name).str.replace_all(r"(@[^@\n]{1,60}?)\s*[(（]O[0-9A-Za-z_-]{4,}[)）]", "${1}")


def _stated(name: str) -> pl.Expr:
    value = pl.col(name).str.strip_chars()
    return pl.when(~value.is_in(["", "UNKNOWN", "[]", "nan"])).then(value)


def _user_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """`registered_days`: days since registration at the scene's time.

    The file states a range beside the number. Where the number counted back to the scene lies
    below it, one of the two is not as of the end of the log: then the range is all that is known.
    """
    stated = tables.users.select("user_id", "register_days", "register_days_range")
    passed = (_SNAPSHOT.dt.convert_time_zone("UTC") - pl.col("timestamp")).dt.total_days()
    then = pl.col("register_days") - passed.clip(0)
    told = pl.col("register_days_range")
    lowest, highest = _bounds(told)
    outside = (then < lowest) | (pl.col("register_days") > highest)
    number = pl.when(then >= 0).then(then.cast(pl.String))
    return rows.join(stated, on="user_id", how="left", maintain_order="left").select(
        pl.when(outside.fill_null(False)).then(told).otherwise(number).alias("registered_days")
    )


def _bounds(told: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return both ends of `61-90`, `730+`, `<=14` or `[15,30)`; null where there is none."""
    numbers = told.str.extract_all(r"\d+").list.eval(pl.element().cast(pl.Int64, strict=False))
    only_upper = told.str.contains(r"^\s*[<≤]")
    lowest = pl.when(~only_upper).then(numbers.list.first())
    highest = pl.when(~told.str.contains(r"\+|>")).then(numbers.list.last())
    return lowest, highest


def _item_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """Plays, likes, comments and shares on the log's days before the scene's day."""
    return as_of.latest(rows, tables.extras["daily"], "item_id")


_COLUMNS = {
    "users": {
        "active_degree": (pa.string(), "full, high, middle, low, ... or empty"),
        "role": (pa.string(), "video author, live streamer, both or empty"),
        "register_days": (pa.int64(), "days since registration at the end of the log"),
        "register_days_range": (pa.string(), "the publisher's range of them, or null"),
        "friend_user_num": (pa.int64(), "friends at the end of the log"),
        "follow_user_num": (pa.int64(), "accounts followed at the end of the log"),
        "fans_user_num": (pa.int64(), "followers at the end of the log"),
    },
    "items": {
        "caption": (pa.string(), "caption of the video"),
        "category": (pa.string(), "categories from broad to narrow, split by /"),
        "cover_text": (pa.string(), "text on the cover"),
        "duration": (pa.int64(), "seconds"),
    },
    "interactions": {
        "watched_seconds": (pa.float32(), "time watched"),
        "watch_ratio": (
            pa.float32(),
            "time watched by length of the video, 0.5 or more",
        ),
    },
    "daily": {
        "item_id": (pa.string(), "video"),
        "timestamp": (pa.timestamp("ms", tz="UTC"), "end of the day, from when it is known"),
        "play_count": (pa.int64(), "plays on the log's days so far"),
        "like_count": (pa.int64(), "likes on the log's days so far"),
        "comment_count": (pa.int64(), "comments on the log's days so far"),
        "share_count": (pa.int64(), "shares on the log's days so far"),
    },
}
SOURCES = (
    Source(
        name="kuairec",
        domain="kuairec",
        title="KuaiRec 2.0",
        homepage="https://kuairec.com/",
        licence="CC BY-SA 4.0",
        redistributable=True,
        citation=(
            "@inproceedings{gao2022kuairec, title={KuaiRec: A Fully-Observed Dataset and Insights "
            "for Evaluating Recommender Systems}, author={Gao, Chongming and Li, Shijun and Lei, "
            "Wenqiang and Chen, Jiawei and Li, Biao and Jiang, Peng and He, Xiangnan and Mao, "
            "Jiaxin and Chua, Tat-Seng}, booktitle={CIKM}, year={2022}, "
            "doi={10.1145/3511808.3557220}}"
        ),
        files={
            "big_matrix.csv|small_matrix.csv": "12,530,806 (4,676,570) interactions",
            "user_features.csv": "7,176 users",
            "item_daily_features.csv": "counts of each video and day",
            "kuairec_caption_category.csv": "captions and categories",
        },
        sizes={"KuaiRec.zip": "432 MB"},
        hashes={
            "KuaiRec.zip": "md5:261550d472c48eff4990fb13c0e5bcf7",
            "kuairec_caption_category.csv": "md5:31bc38cdccdf75a71df137779035f8cb",
        },
        limits=(
            "A video counts as chosen if at least half of it was watched (watch_ratio >= 0.5): "
            "videos play by themselves, and KuaiRec records no likes of a user. "
            "Counts of friends, followers and follows, active degree and role of a person are one "
            "snapshot, made with the data."
        ),
        read=read,
        downloads={
            name: f"https://zenodo.org/records/18164998/files/{name}"
            for name in ("KuaiRec.zip", "kuairec_caption_category.csv")
        },
        columns=_COLUMNS,
        features={
            "title": ("caption", "title", "cover_text"),
            "counts": ("play_count", "like_count", "comment_count", "share_count"),
            "behavior": ("watched_seconds", "watch_ratio"),
        },
        user_as_of=_user_as_of,
        item_as_of=_item_as_of,
    ),
)

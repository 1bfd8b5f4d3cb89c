"""MIND, the Microsoft news dataset: impressions as they were logged, with what was clicked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import columns, delimited, files
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

_TIME = "%m/%d/%Y %I:%M:%S %p"
_LOGGED = r"^\S+-[01]( \S+-[01])*$"
_SLICE = 200_000  # impressions expanded at once


def read(folder: Path, report: Report) -> Tables:
    """Read a MIND folder: one or more splits (train, dev) of MINDsmall or MINDlarge.

    Clicks in impressions are interactions at the impression's time. The articles of a row's
    click history were read at an unknown earlier time: they become interactions one second apart,
    in their order, just before the first impression that lists them, with `timestamp_known`
    false. Only a user's earliest interaction with an article counts. Test splits carry no labels
    and are passed over.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    labelled = [file for file in files.locate(folder, "behaviors.tsv") if not _unlabelled(file)]
    if not labelled:
        raise UserError("only a test split is there, without clicks", where=folder)
    items = _news(folder, report)
    logs = pl.concat(
        _behaviors(file, split, report)
        for file, split in zip(labelled, _splits(labelled), strict=True)
    )
    logs = _of_known_news(logs, items, report, folder)
    clicks = _clicks(logs)
    interactions = columns.known(
        pl.concat([clicks, _histories(logs)])
        .sort("timestamp", maintain_order=True)
        .unique(["user_id", "item_id"], keep="first", maintain_order=True),
        items,
        "item_id",
        report,
        folder,
    )
    first = _first_seen(logs, interactions)
    return Tables(
        users=columns.users_of(logs),
        items=items.join(first, on="item_id", how="left", maintain_order="left"),
        interactions=interactions,
        impressions=logs.select("impression_id", "user_id", "timestamp", "item_ids", "clicked"),
    )


def _split(file: files.Raw) -> str:
    """Name of the split a file belongs to: its folder, or its archive."""
    inside = Path(file.member).parent.name if file.member else file.path.parent.name
    return inside or file.path.stem


def _splits(labelled: Sequence[files.Raw]) -> list[str]:
    """Name the split of each file; folders of one name in several places are told apart."""
    names = [_split(file) for file in labelled]
    if len(set(names)) == len(names):
        return names
    return [f"{name}-{number}" for number, name in enumerate(names, 1)]


def _unlabelled(file: files.Raw) -> bool:
    return _split(file).lower() in ("test", "mindlarge_test", "mindsmall_test")


def _news(folder: Path, report: Report) -> pl.DataFrame:
    names = ["item_id", "category", "subcategory", "title", "abstract", "url", "entities", "more"]
    text = pl.concat_str(
        "title", pl.concat_str("category", "subcategory", separator="/"), "abstract", separator=". "
    )
    tables = [
        delimited.read_delimited(
            file,
            report,
            names,
            [
                "item_id",
                clean_column(pl.col("title"), 160).alias("title"),
                clean_column(text, 500).alias("text"),
                clean_column(pl.col("category"), 40).alias("category"),
                clean_column(pl.col("subcategory"), 40).alias("subcategory"),
            ],
            columns.filled("item_id", "title"),
            separator="\t",
            header=False,
        )
        for file in files.locate(folder, "news.tsv")
    ]
    # The splits share most articles: one that is in both is no fault.
    return pl.concat([columns.unique(table, "item_id", report, folder) for table in tables]).unique(
        "item_id", keep="first", maintain_order=True
    )


def _behaviors(file: files.Raw, split: str, report: Report) -> pl.DataFrame:
    logged = pl.col("impressions").str.split(" ").list
    names = ["impression_id", "user_id", "time", "history", "impressions"]
    frame = delimited.read_delimited(
        file,
        report,
        names,
        [
            pl.format("{}-{}", pl.lit(split), "impression_id").alias("impression_id"),
            "user_id",
            columns.parsed_time(pl.col("time"), _TIME).alias("timestamp"),
            "history",
            pl.col("impressions").str.contains(_LOGGED).alias("labelled"),
            logged.eval(pl.element().str.replace("-[01]$", "")).alias("item_ids"),
            logged.eval(pl.element().str.ends_with("-1")).alias("clicked"),
        ],
        {
            **columns.filled("user_id"),
            "impression without click labels": pl.col("labelled"),
            **columns.between_years(2019, 2030),
        },
        separator="\t",
        header=False,
    )
    return columns.unique(frame.drop("labelled"), "impression_id", report, file)


def _of_known_news(
    logs: pl.DataFrame, items: pl.DataFrame, report: Report, folder: Path
) -> pl.DataFrame:
    """Drop impressions that show an article without metadata."""
    shown = pl.concat(
        part["item_ids"].explode().unique().to_frame("item_id") for part in logs.iter_slices(_SLICE)
    ).unique()
    unknown = shown.join(items, on="item_id", how="anti")["item_id"].sort()
    if not len(unknown):
        return logs
    whole = ~pl.col("item_ids").list.eval(pl.element().is_in(unknown.implode())).list.any()
    kept = logs.filter(whole)
    if not len(kept):
        raise UserError(
            f"every impression ({len(logs):,}) shows an article that news.tsv lacks, the first "
            f"{unknown[0]}",
            where=folder,
            fix="Give the news.tsv of the same split.",
        )
    report.skip("impression of an unknown item", len(logs) - len(kept), where=folder)
    return kept


def _clicks(logs: pl.DataFrame) -> pl.DataFrame:
    parts = [
        part.select("user_id", "item_ids", "timestamp", "clicked")
        .explode("item_ids", "clicked")
        .filter("clicked")
        for part in logs.iter_slices(_SLICE)
    ]
    return pl.concat(parts).select(
        "user_id",
        pl.col("item_ids").alias("item_id"),
        "timestamp",
        pl.lit(True).alias("timestamp_known"),
    )


def _histories(logs: pl.DataFrame) -> pl.DataFrame:
    earliest = (
        logs.select("user_id", "history", "timestamp")
        .filter(pl.col("history") != "")
        .sort("timestamp", maintain_order=True)
        .unique(["user_id", "history"], keep="first", maintain_order=True)
    )
    listed = earliest.with_columns(pl.col("history").str.split(" ").alias("item_id"))
    back = pl.int_ranges(pl.col("item_id").list.len().cast(pl.Int64), 0, -1)
    return (
        listed.with_columns(back.alias("back"))
        .explode("item_id", "back")
        .select(
            "user_id",
            "item_id",
            pl.col("timestamp") - pl.duration(seconds="back", time_unit="ms"),
            pl.lit(False).alias("timestamp_known"),
        )
    )


def _first_seen(logs: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """When an article was first shown or read: MIND states no publication dates."""
    shown = [
        part.select("item_ids", "timestamp")
        .explode("item_ids")
        .rename({"item_ids": "item_id"})
        .group_by("item_id")
        .agg(pl.col("timestamp").min())
        for part in logs.iter_slices(_SLICE)
    ]
    seen = pl.concat([*shown, interactions.select("item_id", "timestamp")])
    return seen.group_by("item_id").agg(pl.col("timestamp").min().alias("available_from"))


_COLUMNS = {
    "items": {
        "category": (pa.string(), "as the publisher names it"),
        "subcategory": (pa.string(), "as the publisher names it"),
    },
    "interactions": {
        "timestamp_known": (pa.bool_(), "false for articles of the click history"),
    },
}
SOURCES = (
    Source(
        name="mind",
        domain="mind",
        title="Microsoft News Dataset (MIND)",
        homepage="https://msnews.github.io/",
        licence="Microsoft Research License Terms: research only, no redistribution of the data",
        redistributable=False,
        citation=(
            "@inproceedings{wu2020mind, title={MIND: A Large-scale Dataset for News "
            "Recommendation}, author={Wu, Fangzhao and Qiao, Ying and Chen, Jiun-Hung and Wu, "
            "Chuhan and Qi, Tao and Lian, Jianxun and Liu, Danyang and Xie, Xing and Gao, "
            "Jianfeng and Wu, Winnie and Zhou, Ming}, booktitle={ACL}, year={2020}}"
        ),
        files={
            "behaviors.tsv": "impressions with clicks, one file per split",
            "news.tsv": "articles, one file per split",
        },
        sizes={
            "MINDsmall_train.zip": "53 MB",
            "MINDsmall_dev.zip": "31 MB",
            "MINDlarge_train.zip": "531 MB",
            "MINDlarge_dev.zip": "103 MB",
        },
        columns=_COLUMNS,
        features={"time": ("ago", "timestamp_known")},
        read=read,
        logged=True,
    ),
)

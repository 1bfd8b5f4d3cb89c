"""MobileRec: reviews of apps on Google Play."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, delimited, files
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables


def read(folder: Path, report: Report) -> Tables:
    """Read `mobilerec_final.csv` and `app_meta.csv`.

    Ratings of an app are those in this source before the scene, not the metadata's, which count
    later reviews.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    items = _apps(files.one(folder, "app_meta.csv"), report)
    file = files.one(folder, "mobilerec_final.csv")
    interactions = delimited.read_delimited(
        file,
        report,
        ["app_package", "review", "rating", "uid", "unix_timestamp"],
        [
            pl.col("uid").alias("user_id"),
            pl.col("app_package").alias("item_id"),
            columns.utc(pl.col("unix_timestamp").cast(pl.Float64, strict=False)).alias("timestamp"),
            pl.col("rating").cast(pl.Float32, strict=False),
            clean_column(pl.col("review"), 200).alias("review"),
        ],
        {
            **columns.filled("user_id", "item_id"),
            "rating outside of 1 to 5": pl.col("rating").is_between(1, 5),
            **columns.between_years(2008, 2030),
        },
        quoted=True,
    )
    interactions = columns.known(interactions, items, "item_id", report, file)
    interactions = columns.once(interactions, report, file)
    return Tables(users=columns.users_of(interactions), items=items, interactions=interactions)


def _apps(file: files.Raw, report: Report) -> pl.DataFrame:
    def line(name: str, limit: int) -> pl.Expr:
        stated = pl.when(~pl.col(name).is_in(["None", "nan"])).then(name)
        return clean_column(stated, limit).alias(name)

    frame = delimited.read_delimited(
        file,
        report,
        ["app_package", "app_name", "developer_name", "app_category", "description", "price"],
        [
            pl.col("app_package").alias("item_id"),
            clean_column(pl.col("app_name"), 100).alias("title"),
            line("app_category", 40),
            line("developer_name", 60),
            line("description", 150),
            clean_column(pl.col("price").replace("Install", "Free"), 20).alias("price"),
        ],
        columns.filled("item_id", "title"),
        quoted=True,
    )
    shown = [pl.when(pl.col(c) != "").then(c) for c in ("title", "app_category", "description")]
    return columns.unique(frame, "item_id", report, file).with_columns(
        pl.concat_str(shown, separator=" - ", ignore_nulls=True).alias("text"),
        pl.lit(None, pl.Datetime("ms", "UTC")).alias("available_from"),
    )


def _item_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """Average rating and number of reviews in this source before the scene."""
    names = {"average_rating": "avg_rating", "rating_number": "num_reviews"}
    return as_of.ratings(rows, tables.interactions).rename(names)


_COLUMNS = {
    "items": {
        "app_category": (pa.string(), "category in the store"),
        "developer_name": (pa.string(), "who made it"),
        "description": (pa.string(), "beginning of the description"),
        "price": (pa.string(), "as in the store, or Free"),
    },
    "interactions": {
        "rating": (pa.float32(), "1 to 5"),
        "review": (pa.string(), "beginning of the review"),
    },
}
SOURCES = (
    Source(
        name="mobilerec",
        domain="mobilerec",
        title="MobileRec",
        homepage="https://huggingface.co/datasets/recmeapp/mobilerec",
        licence="no licence is stated; reviews belong to their authors and to Google, research use",
        redistributable=False,
        citation=(
            "@inproceedings{maqbool2023mobilerec, title={MobileRec: A Large Scale Dataset for "
            "Mobile Apps Recommendation}, author={Maqbool, M. H. and Farooq, Umar and Mosharrof, "
            "Adib and Siddique, A. B. and Foroosh, Hassan}, booktitle={SIGIR}, year={2023}}"
        ),
        files={
            "mobilerec_final.csv": "19.3M reviews; the paper took the first 100,000",
            "app_meta.csv": "10,173 apps",
        },
        sizes={"mobilerec_final.csv": "4.42 GB", "app_meta.csv": "21.8 MB"},
        limits=("Price, category and description are the store's of the crawl."),
        read=read,
        downloads={
            name: f"https://huggingface.co/datasets/recmeapp/mobilerec/resolve/main/{path}"
            for name, path in (
                ("mobilerec_final.csv", "interactions/mobilerec_final.csv"),
                ("app_meta.csv", "app_meta/app_meta.csv"),
            )
        },
        columns=_COLUMNS,
        features={
            "title": ("title",),
            "reviews": ("avg_rating", "num_reviews"),
            "category": ("app_category",),
            "developer": ("developer_name",),
            "behavior": ("rating", "review"),
        },
        item_as_of=_item_as_of,
    ),
)

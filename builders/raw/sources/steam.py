"""Steam (UCSD): games and reviews, one Python dict literal per line; read without evaluation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, files, json_lines
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

_TEXTS = pl.List(pl.String)
_GAMES = {
    "id": pl.String,
    "app_name": pl.String,
    "title": pl.String,
    "genres": _TEXTS,
    "tags": _TEXTS,
    "specs": _TEXTS,
    "developer": pl.String,
    "publisher": pl.String,
    "release_date": pl.String,
    "sentiment": pl.String,
    "price": pl.String,
}
_REVIEWS = {
    "username": pl.String,
    "product_id": pl.String,
    "date": pl.String,
    "hours": pl.Float64,
    "text": pl.String,
}


def read(folder: Path, report: Report) -> Tables:
    """Read `steam_games.json` and `steam_reviews.json`.

    A review counts as the purchase, at the start of its day (UTC): dates are all there is. User
    names are replaced by a hash of them. `hours` are as of the review.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    items = _games(files.one(folder, "steam_games.json"), report)
    file = files.one(folder, "steam_reviews.json", "steam_reviews_*.json", "steam_new.json")
    interactions = json_lines.read_json_lines(
        file,
        report,
        _REVIEWS,
        [
            pl.col("username").map_batches(_pseudonyms, return_dtype=pl.String).alias("user_id"),
            pl.col("product_id").alias("item_id"),
            columns.parsed_day(pl.col("date").str.head(10), "%Y-%m-%d").alias("timestamp"),
            pl.when(pl.col("hours") > 0).then("hours").cast(pl.Float32).alias("hours_played"),
            clean_column(pl.col("text"), 300).alias("review_text"),
        ],
        {**columns.filled("user_id", "item_id"), **columns.between_years(2003, 2030)},
        python_literals=True,
    )
    interactions = columns.known(interactions, items, "item_id", report, file)
    interactions = columns.once(interactions, report, file)
    return Tables(
        users=columns.users_of(interactions),
        items=as_of.not_after_first(items, interactions),
        interactions=interactions,
    )


def _pseudonyms(names: pl.Series) -> pl.Series:
    """Display names are personal: keep 64 bits of their hash instead."""
    hashed = [name and hashlib.blake2s(name.encode(), digest_size=8).hexdigest() for name in names]
    return pl.Series(names.name, hashed, dtype=pl.String)


def _games(file: files.Raw, report: Report) -> pl.DataFrame:
    def listed(name: str, limit: int) -> pl.Expr:
        return columns.joined(pl.col(name).list.head(8), ", ", limit).alias(name)

    def line(name: str) -> pl.Expr:
        return clean_column(pl.col(name), 80).alias(name)

    released = pl.col("release_date")
    frame = json_lines.read_json_lines(
        file,
        report,
        _GAMES,
        [
            pl.col("id").alias("item_id"),
            clean_column(pl.coalesce("app_name", "title"), 120).alias("title"),
            columns.parsed_day(released, "%Y-%m-%d").alias("available_from"),
            listed("genres", 100),
            listed("tags", 150),
            listed("specs", 150),
            line("developer"),
            line("publisher"),
            line("release_date"),
            line("sentiment"),
            _price(pl.col("price")).alias("price"),
        ],
        columns.filled("item_id", "title"),
        python_literals=True,
    )
    parts = [pl.when(pl.col(c) != "").then(c) for c in ("title", "genres", "tags")]
    text = pl.concat_str(parts, separator=" - ", ignore_nulls=True).alias("text")
    return columns.unique(frame, "item_id", report, file).with_columns(text)


def _price(price: pl.Expr) -> pl.Expr:
    """`$4.99` from a number; words such as `Free To Play` stay as they are."""
    number = price.cast(pl.Decimal(12, 2), strict=False)
    words = clean_column(price, 40)
    return pl.when(number.is_not_null()).then(pl.format("${}", number)).otherwise(words)


def _user_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """`products`: games the user had bought before the scene, as far as this source knows.

    The raw field `products` is as of the crawl, years after most scenes.
    """
    bought = (
        tables.interactions.select("user_id", "item_id", "timestamp")
        .join(rows.select("user_id").unique(), on="user_id", how="semi")
        .sort("timestamp")
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
        .select(
            "user_id", "timestamp", pl.int_range(1, pl.len() + 1).over("user_id").alias("products")
        )
    )
    return as_of.latest(rows, bought, "user_id")


_COLUMNS = {
    "items": {
        "genres": (pa.string(), "up to eight"),
        "tags": (pa.string(), "up to eight, by players"),
        "specs": (pa.string(), "up to eight, as Single-player"),
        "developer": (pa.string(), "who made it"),
        "publisher": (pa.string(), "who sells it"),
        "release_date": (pa.string(), "as the store says it, not always a date"),
        "sentiment": (pa.string(), "the store's word for all reviews up to the crawl"),
        "price": (pa.string(), "as $4.99, or words"),
    },
    "interactions": {
        "hours_played": (pa.float32(), "up to the review, null: none"),
        "review_text": (pa.string(), "beginning of the review"),
    },
}
SOURCES = (
    Source(
        name="steam",
        domain="steam",
        title="Steam Video Game and Bundle Data (UCSD)",
        homepage="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        licence="no licence is stated; texts belong to their authors and to Valve, research use",
        redistributable=False,
        citation=(
            "@inproceedings{kang2018self, title={Self-Attentive Sequential Recommendation}, "
            "author={Kang, Wang-Cheng and McAuley, Julian}, booktitle={ICDM}, year={2018}} "
            "@inproceedings{oneill2016condensing, title={Condensing Steam: Distilling the "
            "Diversity of Gamer Behavior}, author={O'Neill, Mark and Vaziripour, Elham and Wu, "
            "Justin and Zappala, Daniel}, booktitle={IMC}, year={2016}}"
        ),
        files={
            "steam_games.json.gz": "32,135 games, Python literals",
            "steam_reviews.json.gz|steam_reviews_*.json.gz|steam_new.json.gz": (
                "7.8M reviews, Python literals"
            ),
        },
        sizes={"steam_games.json.gz": "2.7 MB", "steam_reviews.json.gz": "1.3 GB"},
        limits=(
            "Sentiment, tags and price are the store's of the crawl. The sentiment, which appendix "
            "E.1 shows, sums up everyone's reviews, later ones too; the reviews in the raw files "
            "carry no verdict from which an earlier one could be computed."
        ),
        read=read,
        downloads={
            name: f"https://cseweb.ucsd.edu/~wckang/{name}"
            for name in ("steam_games.json.gz", "steam_reviews.json.gz")
        },
        columns=_COLUMNS,
        features={  # as Table 10 names them
            "title": ("title",),
            "tags": ("tags", "genres"),
            "developer": ("developer", "publisher"),
            "released-time": ("release_date", "new_release"),
            "specifications": ("specs",),
            "player-reviews": ("sentiment",),
            "price": ("price",),
            "behavior": ("hours_played", "review_text"),
        },
        user_as_of=_user_as_of,
    ),
)

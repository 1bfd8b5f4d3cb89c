"""Amazon reviews of four categories, in the 2018 and the 2023 layout."""

from __future__ import annotations

import functools
from pathlib import Path

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, files, json_lines
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

_TEXTS = pl.List(pl.String)
_REVIEWS_2018 = {
    "reviewerID": pl.String,
    "asin": pl.String,
    "overall": pl.Float64,
    "summary": pl.String,
    "reviewText": pl.String,
    "unixReviewTime": pl.Float64,
}
_REVIEWS_2023 = {
    "user_id": pl.String,
    "parent_asin": pl.String,
    "rating": pl.Float64,
    "title": pl.String,
    "text": pl.String,
    "timestamp": pl.Float64,  # milliseconds
}
#: Some metadata of 2018 hold the page's own code where the title should be.
_NO_PAGE = {
    "code of a page in place of the title": ~pl.col("title").str.contains(
        r"getTime\(\)|function\s*\(|^var [A-Za-z]"
    )
}
_META_2018 = {
    "asin": pl.String,
    "title": pl.String,
    "category": _TEXTS,
    "main_cat": pl.String,
    "description": _TEXTS,
    "price": pl.String,
    "date": pl.String,
}
_META_2023 = {
    "parent_asin": pl.String,
    "title": pl.String,
    "categories": _TEXTS,
    "main_category": pl.String,
    "description": _TEXTS,
    "price": pl.String,
    "details": pl.Struct({"Date First Available": pl.String}),
}


def read(folder: Path, report: Report, *, name_2018: str, name_2023: str) -> Tables:
    """Read one category: `<name>.jsonl` with `meta_<name>.jsonl` (2023), or `.json` (2018).

    In the 2023 layout an item is a parent product, as its publisher recommends. Ratings are not
    taken from the metadata, which count reviews of later years: see `_item_as_of`.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    reviews = (f"{name_2023}.jsonl", f"{name_2018}.json", f"{name_2018}_5.json")
    file = files.one(folder, *reviews)
    is_2023 = files.matches(file, reviews[0])
    meta = f"meta_{name_2023}.jsonl" if is_2023 else f"meta_{name_2018}.json"
    items = _items(files.one(folder, meta), report, is_2023)
    interactions = _interactions(file, report, is_2023)
    interactions = columns.known(interactions, items, "item_id", report, file)
    interactions = columns.once(interactions, report, file)
    return Tables(
        users=columns.users_of(interactions),
        items=as_of.not_after_first(items, interactions),
        interactions=interactions,
    )


def _interactions(file: files.Raw, report: Report, is_2023: bool) -> pl.DataFrame:
    user, item, rating, summary, text, time = _REVIEWS_2023 if is_2023 else _REVIEWS_2018
    return json_lines.read_json_lines(
        file,
        report,
        _REVIEWS_2023 if is_2023 else _REVIEWS_2018,
        [
            pl.col(user).alias("user_id"),
            pl.col(item).alias("item_id"),
            columns.utc(pl.col(time) / (1000 if is_2023 else 1)).alias("timestamp"),
            pl.col(rating).cast(pl.Float32).alias("rating"),
            clean_column(pl.col(summary), 100).alias("review_summary"),
            clean_column(pl.col(text), 300).alias("review_text"),
        ],
        {
            **columns.filled("user_id", "item_id"),
            "rating outside of 1 to 5": pl.col("rating").is_between(1, 5),
            **columns.between_years(1995, 2030),
        },
    )


def _items(file: files.Raw, report: Report, is_2023: bool) -> pl.DataFrame:
    item, title, categories, main, description, price, *_ = _META_2023 if is_2023 else _META_2018
    date = pl.col("details").struct.field("Date First Available") if is_2023 else pl.col("date")
    # Metadata of 2018 put the department's name first, repeat levels and, from broken pages, hold
    # markup: as a level of the path, as an image in place of the main category, as the price.
    levels = pl.col(categories).list.eval(columns.without_markup(pl.element()))
    levels = levels.list.eval(pl.element().filter(pl.element() != "")).list.unique(
        maintain_order=True
    )
    path = levels.list.head(4).list.join(" > ", ignore_nulls=True).fill_null("")
    category = pl.when(path != "").then(path).otherwise(columns.without_markup(pl.col(main)))
    about = pl.col(description).list.join(" ", ignore_nulls=True).fill_null("")
    frame = json_lines.read_json_lines(
        file,
        report,
        _META_2023 if is_2023 else _META_2018,
        [
            pl.col(item).alias("item_id"),
            clean_column(pl.col(title), 120).alias("title"),
            clean_column(category, 100).alias("category"),
            clean_column(about, 300).alias("about"),
            _price(pl.col(price)).alias("price"),
            columns.parsed_day(date.str.strip_chars(), "%B %d, %Y").alias("available_from"),
        ],
        {**columns.filled("item_id", "title"), **_NO_PAGE},
    )
    parts = [pl.when(pl.col(c) != "").then(c) for c in ("title", "category", "about")]
    text = pl.concat_str(parts, separator=" - ", ignore_nulls=True).alias("text")
    items = columns.unique(frame, "item_id", report, file).with_columns(text)
    return items.select("item_id", "title", "text", "available_from", "category", "price")


def _price(price: pl.Expr) -> pl.Expr:
    """`$12.99` from `12.99`, `$12.99` or `from 12.99`; "" from anything else."""
    number = (
        price.str.extract(r"^\s*(?:from\s+)?\$?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\b")
        .str.replace_all(",", "")
        .cast(pl.Decimal(12, 2), strict=False)
    )
    return pl.when(number > 0).then(pl.format("${}", number)).otherwise(pl.lit(""))


def _item_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """Average rating and number of ratings in this source before the scene."""
    return as_of.ratings(rows, tables.interactions)


_COLUMNS = {
    "items": {
        "category": (pa.string(), "path of categories, else the main one"),
        "price": (pa.string(), "as $12.99, or empty"),
    },
    "interactions": {
        "rating": (pa.float32(), "1 to 5"),
        "review_summary": (pa.string(), "headline of the review"),
        "review_text": (pa.string(), "beginning of the review"),
    },
}
_RAW_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"


def _source(name: str, title: str, name_2018: str, name_2023: str, size: str) -> Source:
    return Source(
        name=name,
        domain="amazon",
        title=f"Amazon Reviews: {title}",
        homepage="https://amazon-reviews-2023.github.io/",
        licence="no licence is stated; texts belong to their authors and to Amazon, research use",
        redistributable=False,
        citation=(
            "@article{hou2024bridging, title={Bridging Language and Items for Retrieval and "
            "Recommendation}, author={Hou, Yupeng and Li, Jiacheng and He, Zhankui and Yan, An "
            "and Chen, Xiusi and McAuley, Julian}, journal={arXiv:2403.03952}, year={2024}} "
            "@inproceedings{ni2019justifying, title={Justifying Recommendations using "
            "Distantly-Labeled Reviews and Fine-Grained Aspects}, author={Ni, Jianmo and Li, "
            "Jiacheng and McAuley, Julian}, booktitle={EMNLP-IJCNLP}, year={2019}}"
        ),
        files={
            f"{name_2023}.jsonl.gz|{name_2018}.json.gz|{name_2018}_5.json.gz": "reviews",
            f"meta_{name_2023}.jsonl.gz|meta_{name_2018}.json.gz": "product metadata",
        },
        sizes={f"{name_2023}.jsonl.gz": size},
        downloads={
            f"{name_2023}.jsonl.gz": f"{_RAW_2023}/review_categories/{name_2023}.jsonl.gz",
            f"meta_{name_2023}.jsonl.gz": f"{_RAW_2023}/meta_categories/meta_{name_2023}.jsonl.gz",
        },
        columns=_COLUMNS,
        features={
            "ratings": ("average_rating", "rating_number"),
            "behavior": ("rating", "review_summary", "review_text"),
        },
        limits="Price and category are the store's of the crawl.",
        read=functools.partial(read, name_2018=name_2018, name_2023=name_2023),
        item_as_of=_item_as_of,
    )


SOURCES = (
    _source("amazon_fashion", "Fashion", "AMAZON_FASHION", "Amazon_Fashion", "2.5M reviews"),
    _source("amazon_beauty", "Beauty", "All_Beauty", "All_Beauty", "0.7M reviews"),
    _source(
        "amazon_grocery",
        "Grocery and Gourmet Food",
        "Grocery_and_Gourmet_Food",
        "Grocery_and_Gourmet_Food",
        "14.3M reviews",
    ),
    _source("amazon_office", "Office", "Office_Products", "Office_Products", "12.8M reviews"),
)

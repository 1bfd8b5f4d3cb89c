"""Goodreads (UCSD book graph): shelves, ratings and reviews of books."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, files, json_lines
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

#: Files whose names begin as those of books do.
_NO_GENRES = ("_authors", "_genres_initial", "_series", "_works", "_extra")
_TIME = "%a %b %d %H:%M:%S %z %Y"
_GENRES = (
    "children",
    "comics, graphic",
    "fantasy, paranormal",
    "fiction",
    "history, historical fiction, biography",
    "mystery, thriller, crime",
    "non-fiction",
    "poetry",
    "romance",
    "young-adult",
)
_BOOKS = {
    "book_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "authors": pl.List(pl.Struct({"author_id": pl.String})),
    "publisher": pl.String,
    "num_pages": pl.String,
    "publication_year": pl.String,
    "publication_month": pl.String,
    "publication_day": pl.String,
}
_SHELVES = {
    "user_id": pl.String,
    "book_id": pl.String,
    "is_read": pl.Boolean,
    "rating": pl.Float64,
    "review_text_incomplete": pl.String,
    "date_added": pl.String,
    "date_updated": pl.String,
}


def read(folder: Path, report: Report) -> Tables:
    """Read genres (as `goodreads_books_comics_graphic.json.gz`), united, or the whole graph.

    Each file of interactions is read with the books of its genre, or those of the whole graph.
    Review texts are taken from `goodreads_reviews*` of the genre where that file is there.
    A book is interacted with when it is put on a shelf (`date_added`). Whether it was read, its
    rating and its review are known from `date_updated`, often months later. Average ratings are
    those in this source before the scene, not the metadata's, which count later years.

    Raises:
        UserError: if a file is missing, damaged, or has no usable row.
    """
    families = _families(folder)
    books = _books(folder, [family.books for family in families], report)
    interactions = pl.concat([_of_family(family, books, report) for family in families])
    # A book of several genres stands in the file of each: one that is in both is no fault.
    interactions = interactions.unique(
        ["user_id", "item_id", "timestamp"], keep="first", maintain_order=True
    )
    return Tables(
        users=columns.users_of(interactions),
        items=as_of.not_after_first(books, interactions),
        interactions=interactions,
    )


class _Family(NamedTuple):
    """The files of one genre, or of the whole graph."""

    interactions: files.Raw
    books: files.Raw
    reviews: files.Raw | None


def _families(folder: Path) -> list[_Family]:
    """Return the files that belong together.

    Raises:
        UserError: if a file of interactions has no books, or one is there more than once.
    """
    shelves, books, reviews = (
        _by_genre(folder, kind) for kind in ("interactions", "books", "reviews")
    )
    families = []
    for genre, file in shelves.items():
        fitting = books.get(genre) or books.get("")
        if fitting is None:
            raise UserError(
                f"its books are not there, only those of {', '.join(books)}",
                where=file,
                fix=f"Add goodreads_books{genre}.json.gz.",
            )
        families.append(_Family(file, fitting, reviews.get(genre) or reviews.get("")))
    return families


def _by_genre(folder: Path, kind: str) -> dict[str, files.Raw]:
    """Return the files of a kind by what stands behind it in their names; "" of the whole graph."""
    prefix = f"goodreads_{kind}"
    if kind == "reviews" and not files.has(folder, f"{prefix}*.json"):
        return {}
    by_genre: dict[str, files.Raw] = {}
    for file in files.locate(folder, f"{prefix}*.json"):
        genre = file.name.lower().removeprefix(prefix).removesuffix(".json")
        genre = "" if genre == "_dedup" else genre.removesuffix("_dedup")
        if genre in _NO_GENRES:
            continue
        if genre in by_genre:
            raise UserError(
                f"is there more than once: {by_genre[genre]}, {file}", where=folder, fix="Keep one."
            )
        by_genre[genre] = file
    return by_genre


def _of_family(family: _Family, books: pl.DataFrame, report: Report) -> pl.DataFrame:
    file = family.interactions
    shelved = columns.known(_shelved(file, report), books, "item_id", report, file)
    shelved = columns.once(shelved, report, file)
    return shelved if family.reviews is None else _with_reviews(shelved, family.reviews, report)


def _with_reviews(shelved: pl.DataFrame, file: files.Raw, report: Report) -> pl.DataFrame:
    """Put whole reviews in place of the beginnings that the shelves hold."""
    texts = json_lines.read_json_lines(
        file,
        report,
        {"user_id": pl.String, "book_id": pl.String, "review_text": pl.String},
        [
            "user_id",
            pl.col("book_id").alias("item_id"),
            clean_column(pl.col("review_text"), 300).alias("whole"),
        ],
        columns.filled("user_id", "item_id"),
    )
    key = ["user_id", "item_id"]
    texts = texts.filter(pl.col("whole") != "").unique(key, keep="first", maintain_order=True)
    joined = shelved.join(texts, on=key, how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("whole", "review").alias("review")).drop("whole")


def _shelved(file: files.Raw, report: Report) -> pl.DataFrame:
    added = columns.parsed_time(pl.col("date_added"), _TIME)
    updated = columns.parsed_time(pl.col("date_updated"), _TIME)
    return json_lines.read_json_lines(
        file,
        report,
        _SHELVES,
        [
            "user_id",
            pl.col("book_id").alias("item_id"),
            added.alias("timestamp"),
            "is_read",
            pl.when(pl.col("rating").is_between(1, 5)).then("rating").cast(pl.Float32),  # 0: none
            clean_column(pl.col("review_text_incomplete"), 300).alias("review"),
            pl.max_horizontal(added, updated).alias("updated_at"),
        ],
        {**columns.filled("user_id", "item_id"), **columns.between_years(2006, 2030)},
    )


def _books(folder: Path, sources: Sequence[files.Raw], report: Report) -> pl.DataFrame:
    parts = [_of_books(file, report) for file in dict.fromkeys(sources)]
    # Genres share books: one that is in several is no fault.
    frame = pl.concat(parts).unique("item_id", keep="first", maintain_order=True)
    authors = _authors(folder, report, frame)
    frame = frame.drop("authors").join(authors, on="item_id", how="left", maintain_order="left")
    frame = frame.join(_genres(folder, report), on="item_id", how="left", maintain_order="left")
    return _shown(frame)


def _of_books(file: files.Raw, report: Report) -> pl.DataFrame:
    day = pl.concat_str(
        "publication_year",
        pl.col("publication_month").replace("", "1").fill_null("1"),
        pl.col("publication_day").replace("", "1").fill_null("1"),
        separator="-",
    )
    frame = json_lines.read_json_lines(
        file,
        report,
        _BOOKS,
        [
            pl.col("book_id").alias("item_id"),
            clean_column(pl.col("title"), 120).alias("title"),
            clean_column(pl.col("description"), 300).alias("description"),
            pl.col("authors").list.head(3),
            clean_column(pl.col("publisher"), 60).alias("publisher"),
            _whole("num_pages", 1, 100_000),
            _whole("publication_year", 1000, 2030),
            columns.parsed_day(day, "%Y-%m-%d").alias("published"),
        ],
        columns.filled("item_id", "title"),
    )
    return columns.unique(frame, "item_id", report, file)


def _shown(frame: pl.DataFrame) -> pl.DataFrame:
    shown = [
        pl.when(pl.col(c) != "").then(c) for c in ("title", "genres", "authors", "description")
    ]
    year = pl.datetime("publication_year", 1, 1, time_zone="UTC").dt.cast_time_unit("ms")
    return frame.select(
        "item_id",
        "title",
        pl.concat_str(shown, separator=" - ", ignore_nulls=True).alias("text"),
        pl.when(pl.col("publication_year").is_not_null())
        .then(pl.coalesce("published", year))
        .alias("available_from"),
        pl.col("genres", "authors").fill_null(""),
        "description",
        "publisher",
        "num_pages",
        "publication_year",
    )


def _whole(name: str, lowest: int, highest: int) -> pl.Expr:
    number = pl.col(name).cast(pl.Int64, strict=False)
    return pl.when(number.is_between(lowest, highest)).then(number).cast(pl.Int32).alias(name)


def _authors(folder: Path, report: Report, books: pl.DataFrame) -> pl.DataFrame:
    names = json_lines.read_json_lines(
        files.one(folder, "goodreads_book_authors.json"),
        report,
        {"author_id": pl.String, "name": pl.String},
        ["author_id", clean_column(pl.col("name"), 60).alias("name")],
        columns.filled("author_id", "name"),
    )
    names = columns.unique(names, "author_id", report, "goodreads_book_authors.json")
    return (
        books.select("item_id", "authors")
        .explode("authors")
        .select("item_id", pl.col("authors").struct.field("author_id"))
        .join(names, on="author_id", maintain_order="left")
        .group_by("item_id", maintain_order=True)
        .agg(pl.col("name").str.join(", ").alias("authors"))
    )


def _genres(folder: Path, report: Report) -> pl.DataFrame:
    """The (up to) three genres under which most readers shelved the book."""
    # Sorting texts such as `9999960|poetry` (fewer for more votes) sorts by votes, then by name.
    ranks = []
    for name in _GENRES:
        votes = pl.col("genres").struct.field(name).clip(0, 9_999_999)
        rank = (9_999_999 - votes).cast(pl.Int64).cast(pl.String).str.zfill(7)
        ranks.append(pl.when(votes > 0).then(pl.format("{}|{}", rank, pl.lit(name))))
    best = pl.concat_list(ranks).list.drop_nulls().list.sort().list.head(3).list.join(", ")
    frame = json_lines.read_json_lines(
        files.one(folder, "goodreads_book_genres_initial.json"),
        report,
        {"book_id": pl.String, "genres": pl.Struct(dict.fromkeys(_GENRES, pl.Float64))},
        [
            pl.col("book_id").alias("item_id"),
            best.str.replace_all(r"\d{7}\|", "").fill_null("").alias("genres"),
        ],
        columns.filled("item_id"),
    )
    return columns.unique(frame, "item_id", report, "goodreads_book_genres_initial.json")


def _item_as_of(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """Average rating and number of ratings in this source before the scene."""
    rated = as_of.ratings(rows, tables.interactions, time="updated_at")
    return rated.rename({"rating_number": "ratings_count"})


_COLUMNS = {
    "items": {
        "genres": (pa.string(), "up to three, by readers' shelves"),
        "authors": (pa.string(), "up to three names"),
        "description": (pa.string(), "beginning of the blurb"),
        "publisher": (pa.string(), "of this edition"),
        "num_pages": (pa.int32(), "null: not known"),
        "publication_year": (pa.int32(), "null: not known"),
    },
    "interactions": {
        "is_read": (pa.bool_(), "whether the book was read, known from updated_at"),
        "rating": (pa.float32(), "1 to 5, null: none; known from updated_at"),
        "review": (pa.string(), "beginning of the review, known from updated_at"),
        "updated_at": (pa.timestamp("ms", tz="UTC"), "last change of the shelf entry"),
    },
}
SOURCES = (
    Source(
        name="goodreads",
        domain="goodreads",
        title="UCSD Book Graph (Goodreads)",
        homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
        licence="academic use only, no redistribution of the data (UCSD Book Graph page)",
        redistributable=False,
        citation=(
            "@inproceedings{wan2018item, title={Item Recommendation on Monotonic Behavior "
            "Chains}, author={Wan, Mengting and McAuley, Julian}, booktitle={RecSys}, "
            "year={2018}} @inproceedings{wan2019fine, title={Fine-Grained Spoiler Detection from "
            "Large-Scale Review Corpora}, author={Wan, Mengting and Misra, Rishabh and Nakashole, "
            "Ndapa and McAuley, Julian}, booktitle={ACL}, year={2019}}"
        ),
        files={
            "goodreads_interactions_comics_graphic.json.gz|goodreads_interactions*.json.gz": (
                "shelves of users; the paper's genre has 7,347,630"
            ),
            "goodreads_books_comics_graphic.json.gz|goodreads_books*.json.gz": (
                "books; the paper's genre has 89,411"
            ),
            "goodreads_reviews*.json.gz": "texts of reviews, if you have them",
            "goodreads_book_authors.json.gz": "names of authors",
            "goodreads_book_genres_initial.json.gz": "genres by readers' shelves",
        },
        sizes={
            "goodreads_book_authors.json.gz": "17 MB",
            "goodreads_book_genres_initial.json.gz": "23 MB",
        },
        limits=("Genres are counted from readers' shelves up to the crawl."),
        read=read,
        downloads={
            Path(path).name: f"https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/{path}"
            for path in (
                "byGenre/goodreads_interactions_comics_graphic.json.gz",
                "byGenre/goodreads_books_comics_graphic.json.gz",
                "goodreads_book_authors.json.gz",
                "goodreads_book_genres_initial.json.gz",
            )
        },
        columns=_COLUMNS,
        features={  # as Table 11 names them
            "title": ("title",),
            "tags": ("genres",),
            "author": ("authors",),
            "published-at": ("publication_year", "publisher", "num_pages"),
            "rating": ("average_rating", "ratings_count"),
            "description": ("description",),
            "behavior": ("is_read", "rating", "review"),
        },
        item_as_of=_item_as_of,
        known_from={"is_read": "updated_at", "rating": "updated_at", "review": "updated_at"},
    ),
)

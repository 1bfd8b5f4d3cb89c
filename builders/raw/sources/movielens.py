"""MovieLens: 1M (`::`, latin-1), 100K original (`u.*`) and RecBole's atomic files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import clean_column
from usermirrorer.builders.raw import as_of, columns, delimited, files
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Source, Tables

_GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_OCCUPATIONS_1M = [
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
]
#: Age bands of MovieLens-1M by their lowest age; MovieLens-100K's exact ages fall into the same.
_AGE_BANDS = (
    (56, "56+"),
    (50, "50-55"),
    (45, "45-49"),
    (35, "35-44"),
    (25, "25-34"),
    (18, "18-24"),
)
_OLDEST = 120
_MISSING_YEAR = -1


def read(folder: Path, report: Report) -> Tables:
    """Read MovieLens, whichever of the three layouts is there.

    Raises:
        UserError: if no layout fits or several do, or a file is missing, damaged, or has no usable
            row.
    """
    readers = {"ratings.dat": _read_1m, "u.data": _read_100k, "*.inter": _atomic}
    markers = [marker for marker in readers if files.has(folder, marker)]
    if len(markers) > 1:
        raise UserError(
            f"several MovieLens layouts are there: {', '.join(markers)}",
            where=folder,
            fix="Give the folder or archive of one.",
        )
    file = files.one(folder, *(markers or readers))
    users, items, ratings = readers[markers[0]](folder, report)
    return _canonical(users, items, ratings, report, file)


_Three = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


def _table(
    file: files.Raw,
    report: Report,
    separator: str,
    names: list[str],
    select: Sequence[pl.Expr | str],
    *,
    header: bool = False,
) -> pl.DataFrame:
    """Read a file of users or items; its first column is the id."""
    first = select[0]
    key = first if isinstance(first, str) else first.meta.output_name()
    return columns.unique(
        delimited.read_delimited(
            file,
            report,
            names,
            select,
            columns.filled(key),
            separator=separator,
            header=header,
            encodings=("utf-8", "latin-1"),
        ),
        key,
        report,
        file,
    )


def _ratings(
    file: files.Raw, report: Report, separator: str, names: list[str], *, header: bool = False
) -> pl.DataFrame:
    user, item, rating, time = names
    return delimited.read_delimited(
        file,
        report,
        names,
        [
            pl.col(user).alias("user_id"),
            pl.col(item).alias("item_id"),
            pl.col(rating).cast(pl.Float32, strict=False).alias("rating"),
            columns.utc(pl.col(time)).alias("timestamp"),
        ],
        {
            **columns.filled("user_id", "item_id"),
            "rating outside of 0.5 to 5": pl.col("rating").is_between(0.5, 5),
            **columns.between_years(1995, 2030),
        },
        separator=separator,
        header=header,
    )


_EVENT = ["user_id", "item_id", "rating", "timestamp"]


def _read_1m(folder: Path, report: Report) -> _Three:
    people = ["user_id", "gender", "age", "occupation", "zip"]
    users = _table(files.one(folder, "users.dat"), report, "::", people, [*people])
    films = ["item_id", "title", "genres"]
    year = _year_of_title()
    return (
        users.with_columns(_occupation_of_code(pl.col("occupation"))),
        _table(files.one(folder, "movies.dat"), report, "::", films, [*films, year]),
        _ratings(files.one(folder, "ratings.dat"), report, "::", _EVENT),
    )


def _read_100k(folder: Path, report: Report) -> _Three:
    people = ["user_id", "age", "gender", "occupation", "zip"]
    flags = [f"g{i}" for i in range(len(_GENRES_100K))]
    films = ["item_id", "title", "release", "video_release", "url", *flags]
    genres = pl.concat_list(
        pl.when(pl.col(flag) == "1").then(pl.lit(name))
        for flag, name in zip(flags, _GENRES_100K, strict=True)
        if name != "unknown"
    ).list.drop_nulls()
    chosen: list[pl.Expr | str] = [
        "item_id",
        "title",
        genres.list.join("|").alias("genres"),
        _year_of_title(),
    ]
    return (
        _table(files.one(folder, "u.user"), report, "|", people, people),
        _table(files.one(folder, "u.item"), report, "|", films, chosen),
        _ratings(files.one(folder, "u.data"), report, "\t", _EVENT),
    )


def _atomic(folder: Path, report: Report) -> _Three:
    """RecBole's files; the headers of its MovieLens-100K and -1M differ, and 1M's are wrong."""
    users, items = files.one(folder, "*.user"), files.one(folder, "*.item")
    persons = [f"{name}:token" for name in ("user_id", "age", "gender", "occupation", "zip_code")]
    event = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    named = delimited.header(items, "\t")
    title = _one_of(named, "movie_title:token_seq", "movie_title:token", where=items)
    genres = _one_of(named, "class:token_seq", "genre:token_seq", where=items)
    films, year = ["item_id:token", title, genres], _year_of_title(title)
    if "release_year:token" in named:
        films.append("release_year:token")
        year = pl.col(films[-1]).cast(pl.Int32, strict=False).fill_null(_MISSING_YEAR).alias("year")
    chosen = [
        pl.col("item_id:token").alias("item_id"),
        pl.col(title).alias("title"),
        pl.col(genres).str.replace_all(" ", "|").alias("genres"),
        year,
    ]
    told = _persons(pl.col("gender:token"), pl.col("age:token"))
    return (
        _table(users, report, "\t", persons, told, header=True),
        _table(items, report, "\t", films, chosen, header=True),
        _ratings(files.one(folder, "*.inter"), report, "\t", event, header=True),
    )


def _one_of(named: Sequence[str], *candidates: str, where: files.Raw) -> str:
    there = [name for name in candidates if name in named]
    if not there:
        raise UserError(f"column(s) {' or '.join(candidates)} are missing", where=f"{where}:1")
    return there[0]


def _persons(gender: pl.Expr, age: pl.Expr) -> list[pl.Expr | str]:
    """Fields of a person, by what they hold: a header may have swapped gender and age."""
    swapped = age.is_in(["M", "F"])
    return [
        pl.col("user_id:token").alias("user_id"),
        pl.when(swapped).then(age).otherwise(gender).alias("gender"),
        pl.when(swapped).then(gender).otherwise(age).alias("age"),
        _occupation(pl.col("occupation:token")).alias("occupation"),
        pl.col("zip_code:token").alias("zip"),
    ]


def _occupation_of_code(code: pl.Expr) -> pl.Expr:
    """The name of a code of MovieLens-1M; what is no code says nothing."""
    names = {str(i): name for i, name in enumerate(_OCCUPATIONS_1M)}
    return code.replace_strict(names, default="", return_dtype=pl.String)


def _occupation(token: pl.Expr) -> pl.Expr:
    """Of RecBole's files: MovieLens-100K's words stay, a code of MovieLens-1M gets its name."""
    return (
        pl.when(token.str.contains("[A-Za-z]{3}")).then(token).otherwise(_occupation_of_code(token))
    )


def _year_of_title(title: str = "title") -> pl.Expr:
    year = pl.col(title).str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32, strict=False)
    return year.fill_null(_MISSING_YEAR).alias("year")


def _canonical(
    users: pl.DataFrame, items: pl.DataFrame, ratings: pl.DataFrame, report: Report, file: files.Raw
) -> Tables:
    interactions = columns.known(ratings, items, "item_id", report, file)
    interactions = columns.known(interactions, users, "user_id", report, file)
    interactions = columns.once(interactions, report, file)
    items = as_of.not_after_first(_movies(items), interactions)
    return Tables(_people(users), items, interactions)


def _people(users: pl.DataFrame) -> pl.DataFrame:
    age = pl.col("age").cast(pl.Int32, strict=False)
    band: Any = pl.when(~age.is_between(1, _OLDEST).fill_null(False)).then(pl.lit(""))
    for lowest, name in _AGE_BANDS:
        band = band.when(age >= lowest).then(pl.lit(name))
    return users.select(
        "user_id",
        pl.col("gender").replace_strict({"M": "male", "F": "female"}, default=""),
        band.otherwise(pl.lit("Under 18")).alias("age"),
        clean_column(pl.col("occupation"), 40),
        # Behind the five digits may stand the delivery route, as in 94043-1234. What has another
        # form is no ZIP code, and its first five digits are of another place.
        pl.col("zip")
        .str.extract(r"^\s*(\d{5})(?:-?\d{4})?\s*$")
        .replace_strict(_places(), default="")
        .alias("location"),
    )


@functools.cache
def _places() -> dict[str, str]:
    """City and state of every US ZIP code."""
    import zipcodes

    return {
        place["zip_code"]: f"{_city(place['city'])}, {place['state']}"
        for place in zipcodes.list_all()
    }


def _city(name: str) -> str:
    """`Ann Arbor` from capitals; the post offices of the forces stay APO, FPO and DPO."""
    words = name.title().split(" ")
    return " ".join(w.upper() if w.upper() in ("APO", "FPO", "DPO") else w for w in words)


def _movies(items: pl.DataFrame) -> pl.DataFrame:
    year = pl.col("year")
    named = pl.col("title").str.contains(r"\(\d{4}\)\s*$")
    titled = (
        pl.when(named | (year == _MISSING_YEAR))
        .then(pl.col("title"))
        .otherwise(pl.format("{} ({})", pl.col("title"), year))
    )
    shown = [pl.when(pl.col(c) != "").then(c) for c in ("title", "genres")]
    known = pl.when(year.is_between(1850, 2030)).then(year)
    return items.with_columns(
        clean_column(titled, 120).alias("title"), clean_column(pl.col("genres"), 100)
    ).select(
        "item_id",
        "title",
        pl.concat_str(shown, separator=" - ", ignore_nulls=True).alias("text"),
        pl.datetime(known, 1, 1, time_zone="UTC").dt.cast_time_unit("ms").alias("available_from"),
        "genres",
        known.alias("year"),
    )


_COLUMNS = {
    "users": {
        "gender": (pa.string(), "male, female or empty"),
        "age": (pa.string(), "band of years, as 25-34, or empty"),
        "occupation": (pa.string(), "by name, or empty"),
        "location": (pa.string(), "city and state of the ZIP code, or empty"),
    },
    "items": {
        "genres": (pa.string(), "split by |"),
        "year": (pa.int32(), "of release, null: not known"),
    },
    "interactions": {"rating": (pa.float32(), "0.5 to 5")},
}
SOURCES = (
    Source(
        name="movielens",
        domain="movielens",
        title="MovieLens",
        homepage="https://grouplens.org/datasets/movielens/",
        licence="GroupLens research use; no redistribution without permission",
        redistributable=False,
        citation=(
            "@article{harper2015movielens, title={The MovieLens Datasets: History and Context}, "
            "author={Harper, F. Maxwell and Konstan, Joseph A.}, journal={ACM Transactions on "
            "Interactive Intelligent Systems}, volume={5}, number={4}, year={2015}}"
        ),
        files={
            "ratings.dat|u.data|*.inter": "ratings",
            "movies.dat|u.item|*.item": "movies",
            "users.dat|u.user|*.user": "users",
        },
        columns=_COLUMNS,
        read=read,
        alternatives=("ml-100k.zip",),
        sizes={"ml-1m.zip": "6 MB", "ml-100k.zip": "5 MB"},
        hashes={
            "ml-1m.zip": "md5:c4d9eecfca2ab87c1945afe126590906",
            "ml-100k.zip": "md5:0e33842e24a9c977be4e0107933c0723",
        },
        downloads={
            "ml-1m.zip": "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "ml-100k.zip": "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        },
    ),
)

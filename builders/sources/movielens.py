"""MovieLens: 1M (`::`, latin-1), 100K original (`u.*`) and RecBole's atomic files."""

from __future__ import annotations

import functools
from pathlib import Path

import polars as pl
from usermirrorer.builders.errors import UserError
from usermirrorer.builders.sources import Report, Source, Tables, find_file
from usermirrorer.builders.text import clean

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
_EARLIEST, _LATEST = 788_918_400, 4_102_444_800  # 1995 (MovieLens began) to 2100
_MISSING_YEAR = -1


def read(folder: Path, report: Report) -> Tables:
    """Read a MovieLens folder, whichever of the three layouts it has.

    Raises:
        UserError: if no layout fits or a file cannot be parsed.
    """
    folder = Path(folder)
    for marker, reader in (("ratings.dat", _read_1m), ("u.data", _read_100k), ("*.inter", _atomic)):
        if folder.is_dir() and any(folder.rglob(marker)):
            return _canonical(*reader(folder), report, folder)
    raise UserError(
        "no MovieLens layout is there",
        where=folder,
        fix="Expected ratings.dat (1M), u.data (100K) or *.inter (RecBole).",
    )


def _lines(path: Path, separator: str, names: list[str]) -> pl.DataFrame:
    """Split a headerless latin-1 file; a line with another number of fields is an error."""
    text = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
    rows = pl.DataFrame({"line": [line for line in text.split("\n") if line]})
    fields = rows.select(pl.col("line").str.split(separator))["line"]
    wrong = (fields.list.len() != len(names)).arg_true()
    if len(rows) == 0 or len(wrong):
        line = int(wrong[0]) + 1 if len(wrong) else 1
        raise UserError(
            f"expected {len(names)} fields split by {separator!r}", where=f"{path}:{line}"
        )
    return fields.to_frame("f").select(
        pl.col("f").list.get(i).alias(n) for i, n in enumerate(names)
    )


def _read_1m(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    users = _lines(
        find_file(folder, "users.dat"), "::", ["user_id", "gender", "age", "occupation", "zip"]
    )
    names = {str(i): name for i, name in enumerate(_OCCUPATIONS_1M)}
    users = users.with_columns(pl.col("occupation").replace(names))
    items = _lines(find_file(folder, "movies.dat"), "::", ["item_id", "title", "genres"])
    ratings = _lines(
        find_file(folder, "ratings.dat"), "::", ["user_id", "item_id", "rating", "timestamp"]
    )
    return users, items.with_columns(_year_of_title()), ratings


def _read_100k(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    users = _lines(
        find_file(folder, "u.user"), "|", ["user_id", "age", "gender", "occupation", "zip"]
    )
    flags = [f"g{i}" for i in range(len(_GENRES_100K))]
    items = _lines(
        find_file(folder, "u.item"),
        "|",
        ["item_id", "title", "release", "video_release", "url", *flags],
    )
    genres = pl.concat_list(
        pl.when(pl.col(flag) == "1").then(pl.lit(name))
        for flag, name in zip(flags, _GENRES_100K, strict=True)
    ).list.drop_nulls()
    items = items.with_columns(genres.list.join("|").alias("genres"), _year_of_title())
    ratings = _lines(
        find_file(folder, "u.data"), "\t", ["user_id", "item_id", "rating", "timestamp"]
    )
    return users, items.select("item_id", "title", "genres", "year"), ratings


def _atomic(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    def table(suffix: str) -> pl.DataFrame:
        path = find_file(folder, f"*.{suffix}")
        try:
            frame = pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
        except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot be parsed: {str(error).splitlines()[0]}", where=path
            ) from error
        return frame.rename({name: name.partition(":")[0] for name in frame.columns})

    users = _select(
        table("user").rename({"zip_code": "zip"}),
        folder,
        ["user_id", "age", "gender", "occupation", "zip"],
    )
    items = table("item").rename(
        {"movie_title": "title", "class": "genres", "release_year": "year"}
    )
    items = _select(items, folder, ["item_id", "title", "genres", "year"]).with_columns(
        pl.col("genres").str.replace_all(" ", "|"),
        pl.col("year").cast(pl.Int32, strict=False).fill_null(_MISSING_YEAR),
    )
    return (
        users,
        items,
        _select(table("inter"), folder, ["user_id", "item_id", "rating", "timestamp"]),
    )


def _select(frame: pl.DataFrame, folder: Path, names: list[str]) -> pl.DataFrame:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(f"column(s) {', '.join(missing)} are missing", where=folder)
    return frame.select(names)


def _year_of_title() -> pl.Expr:
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32, strict=False)
    return year.fill_null(_MISSING_YEAR).alias("year")


def _canonical(
    users: pl.DataFrame, items: pl.DataFrame, ratings: pl.DataFrame, report: Report, folder: Path
) -> Tables:
    users = _unique(users, "user_id", report, folder)
    items = _unique(items, "item_id", report, folder)
    numbers = ratings.with_columns(
        pl.col("rating").cast(pl.Float32, strict=False),
        pl.col("timestamp").cast(pl.Float64, strict=False).cast(pl.Int64, strict=False),
    )
    good = pl.col("timestamp").is_between(_EARLIEST, _LATEST) & pl.col("rating").is_between(0.5, 5)
    kept = numbers.filter(good)
    report.skip("rating or timestamp out of range", len(numbers) - len(kept), where=folder)
    known = kept.join(items.select("item_id"), on="item_id", how="semi").join(
        users.select("user_id"), on="user_id", how="semi"
    )
    report.skip("interaction of an unknown user or item", len(kept) - len(known), where=folder)
    return Tables(_people(users), _movies(items), known.with_columns(_utc("timestamp")))


def _unique(frame: pl.DataFrame, key: str, report: Report, folder: Path) -> pl.DataFrame:
    kept = frame.filter(pl.col(key) != "").unique(key, keep="first", maintain_order=True)
    report.skip(f"duplicate or empty {key}", len(frame) - len(kept), where=folder)
    return kept


def _utc(name: str) -> pl.Expr:
    return pl.from_epoch(name, time_unit="s").dt.cast_time_unit("ms").dt.replace_time_zone("UTC")


def _people(users: pl.DataFrame) -> pl.DataFrame:
    age = pl.col("age").cast(pl.Int32, strict=False)
    band = pl.when(age.is_null()).then(pl.lit(""))
    for lowest, name in _AGE_BANDS:
        band = band.when(age >= lowest).then(pl.lit(name))
    places = {zip_: _place(zip_) for zip_ in users["zip"].unique().to_list() if zip_}
    return users.select(
        "user_id",
        pl.col("gender").replace_strict({"M": "male", "F": "female"}, default=""),
        band.otherwise(pl.lit("Under 18")).alias("age"),
        pl.col("occupation").map_elements(clean, return_dtype=pl.String),
        pl.col("zip").replace_strict(places, default="").alias("location"),
    )


@functools.cache
def _place(zip_code: str) -> str:
    """City and state of a US ZIP code, "" if it is none."""
    import zipcodes

    code = zip_code[:5]
    if not (len(code) == 5 and code.isdigit()):
        return ""
    found = zipcodes.matching(code)
    return f"{found[0]['city'].title()}, {found[0]['state']}" if found else ""


def _movies(items: pl.DataFrame) -> pl.DataFrame:
    def text(row: dict[str, object]) -> str:
        return f"{row['title']} - {row['genres']}" if row["genres"] else str(row["title"])

    year = pl.col("year")
    named = pl.col("title").str.contains(r"\(\d{4}\)\s*$")
    titled = (
        pl.when(named | (year == _MISSING_YEAR))
        .then(pl.col("title"))
        .otherwise(pl.format("{} ({})", pl.col("title"), year))
    )
    frame = items.with_columns(
        titled.map_elements(lambda t: clean(t, 120), return_dtype=pl.String).alias("title")
    )
    frame = frame.with_columns(pl.col("genres").map_elements(clean, return_dtype=pl.String))
    return frame.select(
        "item_id",
        "title",
        pl.struct("title", "genres").map_elements(text, return_dtype=pl.String).alias("text"),
        pl.when(year == _MISSING_YEAR)
        .then(None)
        .otherwise(pl.datetime(year.clip(1, 9999), 1, 1, time_zone="UTC"))
        .dt.cast_time_unit("ms")
        .alias("available_from"),
        "genres",
        pl.when(year == _MISSING_YEAR).then(None).otherwise(year).alias("year"),
    )


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
        read=read,
        downloads={
            "ml-1m.zip": "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "ml-100k.zip": "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        },
    ),
)

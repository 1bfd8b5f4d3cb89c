"""Made-up raw data in the exact layouts of the publishers, at any size up to the published one.

    python -m usermirrorer.builders.raw.made_up kuairec FOLDER [SHARE | USERS ITEMS INTERACTIONS]

writes a source at its published size, that share of its users and interactions, or so many.
Popularity is skewed, users differ in how much they do and prefer some of the items, and everything
depends on the seed alone.
"""

from __future__ import annotations

import functools
import gzip
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

_SLICE = 250_000
_GROUPS = 20  # tastes: a user prefers items of one of them
_HOW = ["amber", "blue", "bright", "deep", "distant", "empty", "frozen", "golden", "hidden", "last"]
_MORE = ["lonely", "lost", "quiet", "red", "secret", "silent", "small", "violet", "wild", "young"]
_WHAT = ["arrow", "city", "dragon", "forest", "garden", "harbor", "hour", "house", "island", "moon"]
_ALSO = [
    "ocean",
    "orchard",
    "pilgrim",
    "river",
    "road",
    "shadow",
    "song",
    "star",
    "tower",
    "valley",
]
_WORDS = [*_HOW, *_MORE, *_WHAT, *_ALSO]


@dataclass(frozen=True)
class Size:
    """How much of a source to write."""

    users: int
    items: int
    interactions: int

    def share(self, part: float) -> Size:
        """Return the size with this part of the users and interactions, and all items."""
        return Size(
            max(int(self.users * part), 2), self.items, max(int(self.interactions * part), 2)
        )


#: Table 4 of the paper (MIND: impressions are counted as interactions).
PUBLISHED = {
    "mind": Size(307_353, 130_379, 552_043),
    "movielens": Size(6_040, 3_883, 1_000_209),
    "kuairec": Size(7_176, 10_728, 12_530_806),
    "goodreads": Size(342_415, 89_411, 6_995_891),
    "mobilerec": Size(15_141, 10_173, 100_000),
    "steam": Size(250_793, 32_132, 2_091_415),
    "lastfm": Size(1_892, 17_632, 70_297),
    "amazon_fashion": Size(14_791, 97_287, 56_086),
    "amazon_beauty": Size(1_620, 37_580, 14_984),
    "amazon_grocery": Size(24_076, 63_122, 378_775),
    "amazon_office": Size(11_453, 64_726, 162_297),
}


def write(source: str, folder: Path, size: Size | None = None, seed: int = 0) -> Path:
    """Write the raw files of `source` (a name of `PUBLISHED`) into `folder` and return it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[source](folder, size or PUBLISHED[source], np.random.default_rng(seed))
    return folder


def behaviors(
    rng: np.random.Generator, size: Size, start: int, days: int, *, skew: float = 0.7
) -> pl.DataFrame:
    """Draw who (`u`) met what (`i`) when (`t`, unix seconds), every pair once, sorted by time.

    Every user has at least two behaviors where there are enough of them.
    """
    mean = size.interactions / size.users
    activity = rng.lognormal(0, 1, size.users)
    for _ in range(8):  # nobody meets nearly everything, or the last pairs were never found
        activity = np.minimum(activity / activity.mean(), 0.4 * size.items / mean)
    taste = min(0.6, 0.3 * size.items / _GROUPS / mean)  # share of behaviors in the own group
    popularity = 1 / np.arange(1, size.items + 1) ** skew
    group_of_item = rng.integers(0, _GROUPS, size.items)
    inside = _by_group(popularity, group_of_item)
    keys = np.empty(0, np.int64)
    base = np.repeat(np.arange(size.users), 2)[: size.interactions]
    while len(keys) < size.interactions:
        more = size.interactions - len(keys)
        users = np.concatenate(
            [
                base[len(keys) :],
                rng.choice(size.users, int(more * 1.2) + 10, p=activity / activity.sum()),
            ]
        )
        items = rng.choice(size.items, len(users), p=popularity / popularity.sum())
        own = rng.random(len(users)) < taste
        items[own] = inside(rng, users[own] % _GROUPS)
        fresh = users * size.items + items
        merged = np.concatenate([keys, fresh])
        keys = merged[np.sort(np.unique(merged, return_index=True)[1])][: size.interactions]
    users, items = np.divmod(keys, size.items)
    begin = rng.random(size.users) * 0.7
    moment = begin[users] + rng.random(len(users)) ** 2 * (1 - begin[users])
    time = (start + moment * days * 86_400).astype(np.int64)
    return pl.DataFrame({"u": users, "i": items, "t": time}).sort("t", "u", "i")


def _by_group(popularity: np.ndarray, group: np.ndarray) -> Callable[..., np.ndarray]:
    """Return a function that draws one item of each asked group, by popularity."""
    order = np.argsort(group, kind="stable")
    total = np.cumsum(popularity[order])
    ends = np.searchsorted(group[order], np.arange(_GROUPS), side="right")
    upper = np.concatenate([[0.0], total])[ends]
    lower = np.concatenate([[0.0], upper[:-1]])

    def draw(rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray:
        point = lower[wanted] + rng.random(len(wanted)) * (upper - lower)[wanted]
        return order[np.minimum(np.searchsorted(total, point), len(order) - 1)]

    return draw


def titles(rng: np.random.Generator, count: int, words: int = 3) -> list[str]:
    """Return different titles of a few words and a number."""
    drawn = np.array(_WORDS)[rng.integers(0, len(_WORDS), (count, words))]
    return [f"{' '.join(row).title()} {n}" for n, row in enumerate(drawn, 1)]


def _pick(rng: np.random.Generator, values: Sequence[str], count: int) -> pl.Series:
    return pl.Series(
        np.array(values, dtype=object)[rng.integers(0, len(values), count)], dtype=pl.String
    )


def _text(rng: np.random.Generator, count: int, words: int = 12) -> pl.Series:
    """Reviews: some hundred different ones, drawn again and again."""
    many = [" ".join(row) for row in np.array(_WORDS)[rng.integers(0, len(_WORDS), (500, words))]]
    return _pick(rng, [*many, ""], count)


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield from frame.iter_slices(_SLICE)


def _write_lines(path: Path, frame: pl.DataFrame, line: Callable[[pl.DataFrame], bytes]) -> None:
    """Write a frame slice by slice, in gzip if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = functools.partial(gzip.open, compresslevel=1) if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        for part in _slices(frame):
            file.write(line(part))


def _json(part: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    part.write_ndjson(buffer)
    return buffer.getvalue()


def _joined(separator: str, encoding: str = "utf-8") -> Callable[[pl.DataFrame], bytes]:
    def line(part: pl.DataFrame) -> bytes:
        text = part.select(
            pl.concat_str(pl.all().cast(pl.String).fill_null(""), separator=separator)
        )
        return ("\n".join(text.to_series()) + "\n").encode(encoding)

    return line


def _csv(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_csv(path)


def _id(name: str, pattern: str, alias: str) -> pl.Expr:
    return pl.format(pattern, pl.col(name)).alias(alias)


def _movielens(folder: Path, size: Size, rng: np.random.Generator) -> None:
    genres = ["Drama", "Comedy", "Action|Thriller", "Children's|Comedy", "Horror", "Sci-Fi|War"]
    number = pl.Series(np.arange(1, size.items + 1))
    movies = pl.DataFrame(
        {
            "i": number,
            "title": [
                f"{t} ({y})"
                for t, y in zip(
                    titles(rng, size.items), rng.integers(1930, 2001, size.items), strict=True
                )
            ],
            "genres": _pick(rng, genres, size.items),
        }
    )
    people = pl.DataFrame(
        {
            "u": np.arange(1, size.users + 1),
            "gender": _pick(rng, ["F", "M"], size.users),
            "age": _pick(rng, ["1", "18", "25", "35", "45", "50", "56"], size.users),
            "occupation": rng.integers(0, 21, size.users),
            "zip": _pick(rng, ["48067", "70072", "55117", "02460", "94043"], size.users),
        }
    )
    log = behaviors(rng, size, 956_703_932, 1_000).with_columns(
        pl.Series("r", rng.integers(1, 6, size.interactions))
    )
    write_lines = functools.partial(_write_lines, line=_joined("::", "latin-1"))
    write_lines(folder / "ml-1m/movies.dat", movies)
    write_lines(folder / "ml-1m/users.dat", people)
    write_lines(
        folder / "ml-1m/ratings.dat", log.select(pl.col("u") + 1, pl.col("i") + 1, "r", "t")
    )


def _kuairec(folder: Path, size: Size, rng: np.random.Generator) -> None:
    data = folder / "KuaiRec 2.0" / "data"
    seconds = rng.integers(5_000, 60_000, size.items)
    log = behaviors(rng, size, 1_593_878_400, 62, skew=0.2).with_columns(
        pl.Series("play", rng.integers(0, 40_000, size.interactions)),
    )
    # From half of a video on, a watch counts as chosen: all of them do, up to 2.5 times its length.
    log = log.with_columns(pl.Series("length", seconds[log["i"].to_numpy()])).with_columns(
        (pl.col("length") * (0.5 + pl.col("play") / 20_000)).ceil().cast(pl.Int64).alias("play")
    )
    local = pl.from_epoch(pl.col("t") + 8 * 3600)
    _csv(
        data / "big_matrix.csv",
        log.select(
            pl.col("u").alias("user_id"),
            pl.col("i").alias("video_id"),
            pl.col("play").alias("play_duration"),
            pl.col("length").alias("video_duration"),
            local.dt.strftime("%Y-%m-%d %H:%M:%S.000").alias("time"),
            local.dt.strftime("%Y%m%d").alias("date"),
            pl.col("t").cast(pl.Float64).alias("timestamp"),
            (pl.col("play") / pl.col("length")).alias("watch_ratio"),
        ),
    )
    _csv(data / "user_features.csv", _watchers(size, rng))
    _csv(data / "kuairec_caption_category.csv", _captions(size, rng))
    _csv(data / "item_daily_features.csv", _daily(size, seconds, rng))


def _watchers(size: Size, rng: np.random.Generator) -> pl.DataFrame:
    users: dict[str, ArrayLike] = {"user_id": np.arange(size.users)}
    users["user_active_degree"] = _pick(rng, ["full_active", "high_active", "UNKNOWN"], size.users)
    for name, high in (("is_lowactive_period", 1), ("is_live_streamer", 2), ("is_video_author", 2)):
        users[name] = rng.integers(0, high, size.users)
    for name in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days"):
        users[name] = rng.integers(0, 500, size.users)
        users[f"{name}_range"] = _pick(rng, ["(0,10]", "(10,50]"], size.users)
    users |= {f"onehot_feat{n}": rng.integers(0, 9, size.users) for n in range(18)}
    return pl.DataFrame(users)


def _daily(size: Size, seconds: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    days = pl.DataFrame(
        {"date": [20200705 + d for d in range(27)] + [20200801 + d for d in range(31)]}
    )
    daily = pl.DataFrame({"video_id": np.arange(size.items), "video_duration": seconds}).join(
        days, how="cross"
    )
    counts = {
        f"{name}_cnt": rng.integers(0, top, len(daily))
        for name, top in (
            ("show", 9999),
            ("play", 5000),
            ("like", 300),
            ("comment", 40),
            ("share", 10),
        )
    }
    return daily.with_columns(
        pl.lit("2020-06-30").alias("upload_dt"),
        pl.lit("NORMAL").alias("video_type"),
        *(pl.Series(k, v) for k, v in counts.items()),
    )


def _captions(size: Size, rng: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "video_id": np.arange(size.items),
            "manual_cover_text": _pick(rng, ["UNKNOWN", "今天的故事"], size.items),
            "caption": [f"{title},\n真好看" for title in titles(rng, size.items)],
            "topic_tag": ["[]"] * size.items,
            "first_level_category_id": rng.integers(1, 30, size.items),
            "first_level_category_name": _pick(rng, ["颜值", "喜剧", "美食", "游戏"], size.items),
            "second_level_category_id": [-124] * size.items,
            "second_level_category_name": ["UNKNOWN"] * size.items,
            "third_level_category_id": [-124] * size.items,
            "third_level_category_name": ["UNKNOWN"] * size.items,
        }
    )


def _goodreads(folder: Path, size: Size, rng: np.random.Generator) -> None:
    written = rng.integers(0, size.items // 3 + 1, size.items)
    books = pl.DataFrame(
        {
            "isbn": [""] * size.items,
            "text_reviews_count": ["3"] * size.items,
            "popular_shelves": [[{"count": "58", "name": "to-read"}]] * size.items,
            "average_rating": ["4.03"] * size.items,
            "description": _text(rng, size.items, 40),
            "authors": [[{"author_id": str(a), "role": ""}] for a in written],
            "publisher": _pick(rng, ["Dark Horse", "Image", "Dargaud", ""], size.items),
            "num_pages": _pick(rng, ["144", "32", ""], size.items),
            "publication_day": _pick(rng, ["", "3"], size.items),
            "publication_month": _pick(rng, ["", "9"], size.items),
            "publication_year": [str(year) for year in rng.integers(1980, 2014, size.items)],
            "book_id": [str(b) for b in range(size.items)],
            "ratings_count": ["10"] * size.items,
            "title": titles(rng, size.items),
        }
    )
    _write_lines(folder / "goodreads_books_comics_graphic.json.gz", books, _json)
    _goodreads_authors(folder, written, rng)
    _goodreads_genres(folder, books["book_id"], rng)
    log = behaviors(rng, size, 1_230_768_000, 3_000).with_columns(
        pl.Series("rating", rng.integers(0, 6, size.interactions)),
        pl.Series("later", rng.integers(0, 100 * 86_400, size.interactions)),
        pl.Series("review_text_incomplete", _text(rng, size.interactions)),
    )
    form = "%a %b %d %H:%M:%S -0700 %Y"
    shelved = log.select(
        pl.col("u").cast(pl.String).str.zfill(32).alias("user_id"),
        pl.col("i").cast(pl.String).alias("book_id"),
        pl.int_range(pl.len()).cast(pl.String).str.zfill(32).alias("review_id"),
        (pl.col("rating") > 0).alias("is_read"),
        "rating",
        "review_text_incomplete",
        pl.from_epoch("t").dt.strftime(form).alias("date_added"),
        pl.from_epoch(pl.col("t") + pl.col("later")).dt.strftime(form).alias("date_updated"),
        pl.lit("").alias("read_at"),
        pl.lit("").alias("started_at"),
    )
    _write_lines(folder / "goodreads_interactions_comics_graphic.json.gz", shelved, _json)


def _goodreads_authors(folder: Path, written: np.ndarray, rng: np.random.Generator) -> None:
    names = pl.DataFrame({"author_id": [str(a) for a in np.unique(written)]})
    names = names.with_columns(
        pl.Series("name", titles(rng, len(names), 2)), ratings_count=pl.lit("4")
    )
    _write_lines(folder / "goodreads_book_authors.json.gz", names, _json)


def _goodreads_genres(folder: Path, books: pl.Series, rng: np.random.Generator) -> None:
    genres = pl.DataFrame(
        {
            "book_id": books,
            "genres": [
                {"comics, graphic": int(a), "fiction": int(b)}
                for a, b in rng.integers(0, 50, (len(books), 2))
            ],
        }
    )
    _write_lines(folder / "goodreads_book_genres_initial.json.gz", genres, _json)


def _mind(folder: Path, size: Size, rng: np.random.Generator) -> None:
    category = _pick(rng, ["news", "sports", "health", "lifestyle"], size.items)
    news = pl.DataFrame(
        {
            "id": [f"N{n}" for n in range(size.items)],
            "category": category,
            "subcategory": category + "more",
            "title": titles(rng, size.items, 6),
            "abstract": _text(rng, size.items, 30),
            "url": ["https://assets.msn.com/labs/mind/AAGH0ET.html"] * size.items,
            "entities": ["[]"] * size.items,
            "more": ["[]"] * size.items,
        }
    )
    clicks = behaviors(rng, size, 1_573_257_600, 14)
    shown = rng.integers(0, size.items, (size.interactions, 9)).astype(str)
    place = rng.integers(0, 10, size.interactions)
    clicked = clicks["i"].cast(pl.String).to_numpy()
    listed = [
        " ".join([*(f"N{n}-0" for n in row[:p]), f"N{c}-1", *(f"N{n}-0" for n in row[p:])])
        for row, p, c in zip(shown, place, clicked, strict=True)
    ]
    past = [f"N{a} N{b} N{c}" for a, b, c in rng.integers(0, size.items, (size.users, 3))]
    rows = clicks.select(
        pl.int_range(1, pl.len() + 1).alias("n"),
        _id("u", "U{}", "user"),
        pl.from_epoch("t").dt.strftime("%-m/%-d/%Y %-I:%M:%S %p"),
        pl.Series("history", past).gather(clicks["u"]),
        pl.Series("impressions", listed),
    )
    _write_lines(folder / "MINDlarge_train/news.tsv", news, _joined("\t"))
    _write_lines(folder / "MINDlarge_train/behaviors.tsv", rows, _joined("\t"))


def _mobilerec(folder: Path, size: Size, rng: np.random.Generator) -> None:
    apps = pl.DataFrame(
        {
            "app_package": [f"com.app{n}" for n in range(size.items)],
            "app_name": titles(rng, size.items, 2),
            "developer_name": titles(rng, size.items, 1),
            "app_category": _pick(rng, ["Casual", "Tools", "Finance"], size.items),
            "description": _text(rng, size.items, 60),
            "content_rating": ["Everyone"] * size.items,
            "num_reviews": ["1,234"] * size.items,
            "price": _pick(rng, ["Install", "$1.99"], size.items),
            "avg_rating": [4.5] * size.items,
        }
    )
    _csv(folder / "app_meta/app_meta.csv", apps)
    log = behaviors(rng, size, 1_420_070_400, 2_500)
    _csv(
        folder / "interactions/mobilerec_final.csv",
        log.select(
            _id("i", "com.app{}", "app_package"),
            (_text(rng, len(log)) + ', "good"\nindeed').alias("review"),
            pl.Series("rating", rng.integers(1, 6, len(log))),
            pl.lit(0).alias("votes"),
            pl.from_epoch("t").dt.strftime("%B %d, %Y").alias("date"),
            pl.col("u").cast(pl.String).str.zfill(16).alias("uid"),
            pl.from_epoch("t").dt.strftime("%Y-%m-%d").alias("formated_date"),
            pl.col("t").cast(pl.Float64).alias("unix_timestamp"),
            pl.lit("Casual").alias("app_category"),
        ),
    )


def _literals(fields: dict[str, str]) -> Callable[[pl.DataFrame], bytes]:
    """Write rows as Python 2 dict literals; `fields` gives the quotes around each value."""

    def line(part: pl.DataFrame) -> bytes:
        cells = [
            pl.concat_str(
                pl.lit(f"u'{name}': {quote}"),
                pl.col(name).cast(pl.String),
                pl.lit("'" if quote else ""),
            )
            for name, quote in fields.items()
        ]
        rows = part.select(
            pl.concat_str(pl.lit("{"), pl.concat_str(cells, separator=", "), pl.lit("}"))
        )
        return ("\n".join(rows.to_series()) + "\n").encode()

    return line


def _steam(folder: Path, size: Size, rng: np.random.Generator) -> None:
    games = pl.DataFrame(
        {
            "publisher": titles(rng, size.items, 1),
            "genres": _pick(rng, ["[u'Action', u'Indie']", "[u'Strategy']"], size.items),
            "app_name": titles(rng, size.items),
            "release_date": [f"{y}-01-04" for y in rng.integers(2005, 2011, size.items)],
            "tags": _pick(rng, ["[u'Strategy', u'Action']", "[]"], size.items),
            "specs": _pick(rng, ["[u'Single-player']", "[u'Multi-player']"], size.items),
            "price": _pick(rng, ["4.99", "19.99"], size.items),
            "id": np.arange(1, size.items + 1),
            "developer": titles(rng, size.items, 1),
            "sentiment": _pick(rng, ["Mostly Positive", "Mixed"], size.items),
        }
    )
    bare = ("genres", "tags", "specs", "price")
    quoted = {name: "" if name in bare else "u'" for name in games.columns}
    _write_lines(folder / "steam_games.json.gz", games, _literals(quoted))
    log = behaviors(rng, size, 1_293_840_000, 2_500)
    reviews = log.select(
        _id("u", "player {}", "username"),
        pl.Series("hours", rng.integers(0, 5_000, len(log)) / 10),
        pl.lit(41).alias("products"),
        (pl.col("i") + 1).alias("product_id"),
        pl.lit(0).alias("page_order"),
        pl.from_epoch("t").dt.strftime("%Y-%m-%d").alias("date"),
        _text(rng, len(log)).alias("text"),
        pl.lit("False").alias("early_access"),
    )
    words = ("username", "product_id", "date", "text")
    quoted = {name: "u'" if name in words else "" for name in reviews.columns}
    _write_lines(folder / "steam_reviews.json.gz", reviews, _literals(quoted))


def _lastfm(folder: Path, size: Size, rng: np.random.Generator) -> None:
    def tab(file: str, **columns: object) -> None:
        pl.DataFrame(columns).write_csv(folder / file, separator="\t", quote_style="never")

    number = np.arange(1, size.items + 1)
    where = [f"http://www.last.fm/music/{n}" for n in number]
    tab("artists.dat", id=number, name=titles(rng, size.items, 2), url=where, pictureURL=where)
    tags = [f"{a} {b}" for a in _WORDS[:40] for b in ("rock", "pop", "jazz")]
    tab("tags.dat", tagID=np.arange(1, len(tags) + 1), tagValue=tags)
    friends = rng.integers(1, size.users + 1, (size.users * 6, 2))
    both = np.concatenate([friends, friends[:, ::-1]])
    tab("user_friends.dat", userID=both[:, 0], friendID=both[:, 1])
    log = behaviors(rng, size, 1_199_145_600, 1_200)
    day = (log["t"] // 86_400 * 86_400_000).to_numpy()
    twice = np.concatenate([np.arange(len(log))] * 2)
    tab(
        "user_taggedartists-timestamps.dat",
        userID=log["u"].to_numpy()[twice] + 1,
        artistID=log["i"].to_numpy()[twice] + 1,
        tagID=rng.integers(1, len(tags) + 1, len(twice)),
        timestamp=day[twice],
    )


def _amazon(folder: Path, size: Size, rng: np.random.Generator, *, name: str) -> None:
    meta = pl.DataFrame(
        {
            "main_category": [name.replace("_", " ")] * size.items,
            "title": titles(rng, size.items, 5),
            "average_rating": [4.3] * size.items,
            "rating_number": [384] * size.items,
            "features": [["soft"]] * size.items,
            "description": _text(rng, size.items, 30).reshape((size.items, 1)).arr.to_list(),
            "price": rng.integers(100, 9_999, size.items) / 100,
            "store": ["Store"] * size.items,
            "categories": [["Things", "More"]] * size.items,
            "details": [{"Brand": "B", "Date First Available": "November 24, 2012"}] * size.items,
            "parent_asin": [f"B{n:09d}" for n in range(size.items)],
        }
    )
    _write_lines(folder / f"meta_{name}.jsonl.gz", meta, _json)
    log = behaviors(rng, size, 1_388_534_400, 3_000)
    reviews = log.select(
        pl.Series("rating", rng.integers(1, 6, len(log)).astype(float)),
        _text(rng, len(log), 3).alias("title"),
        _text(rng, len(log), 40).alias("text"),
        pl.format("B{}", pl.col("i").cast(pl.String).str.zfill(9)).alias("asin"),
        pl.format("B{}", pl.col("i").cast(pl.String).str.zfill(9)).alias("parent_asin"),
        pl.format("A{}", pl.col("u").cast(pl.String).str.zfill(27)).alias("user_id"),
        (pl.col("t") * 1000).alias("timestamp"),
        pl.lit(0).alias("helpful_vote"),
        pl.lit(True).alias("verified_purchase"),
    )
    _write_lines(folder / f"{name}.jsonl.gz", reviews, _json)


_WRITERS: dict[str, Callable[[Path, Size, np.random.Generator], None]] = {
    "mind": _mind,
    "movielens": _movielens,
    "kuairec": _kuairec,
    "goodreads": _goodreads,
    "mobilerec": _mobilerec,
    "steam": _steam,
    "lastfm": _lastfm,
    "amazon_fashion": functools.partial(_amazon, name="Amazon_Fashion"),
    "amazon_beauty": functools.partial(_amazon, name="All_Beauty"),
    "amazon_grocery": functools.partial(_amazon, name="Grocery_and_Gourmet_Food"),
    "amazon_office": functools.partial(_amazon, name="Office_Products"),
}


def main(source: str, folder: str, *size: str) -> None:
    """Write the files of a source; see the top of this file."""
    if len(size) == 3:
        wanted = Size(*map(int, size))
    else:
        wanted = PUBLISHED[source].share(float(size[0]) if size else 1.0)
    write(source, Path(folder), wanted)


if __name__ == "__main__":
    main(*sys.argv[1:])

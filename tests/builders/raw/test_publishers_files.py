"""What publishers' real files hold, in the smallest input that shows it, and how it is read."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile

import polars as pl
import pytest

from tests.builders.raw.golden import HERE
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import columns, tables
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source

RAW = HERE / "raw"


def read(source, folder):
    return get_source(source).read(folder, Report())


def write(path, *lines, separator="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [line if isinstance(line, str) else separator.join(map(str, line)) for line in lines]
    path.write_text("\n".join([*rows, ""]), encoding="utf-8")
    return path


def json_lines(path, *rows):
    return write(path, *(json.dumps(row) for row in rows))


# -- MIND ---------------------------------------------------------------------------------------

NEWS = "{}\tsports\tsoccer\tTitle {}\tAbout\thttps://x\t[]\t[]"


def mind(folder, *items, shown="N1-1 N2-0", number=1):
    write(folder / "news.tsv", *(NEWS.format(item, item) for item in items))
    row = (number, f"U{number}", "11/12/2019 2:14:46 PM", "N1", shown)
    write(folder / "behaviors.tsv", row)


def test_mind_whose_impressions_all_show_unknown_articles_is_one_line(tmp_path):
    mind(tmp_path, "N1", shown="N9-0 N2-1")
    with pytest.raises(UserError, match=r"every impression \(1\) shows an article that news\.tsv"):
        read("mind", tmp_path)


@pytest.mark.parametrize("unpacked", ["dev", "train"])
def test_mind_reads_every_split_packed_or_not_and_records_both(tmp_path, unpacked):
    for number, split in enumerate(("train", "dev"), 1):
        mind(tmp_path / "raw" / f"MINDsmall_{split}", "N1", "N2", number=number)
    (packed,) = {"dev", "train"} - {unpacked}
    folder = tmp_path / "raw" / f"MINDsmall_{packed}"
    with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    shutil.rmtree(folder)
    got = read("mind", tmp_path / "raw")
    assert sorted(got.impressions["user_id"]) == ["U1", "U2"]
    tables.write(get_source("mind"), tmp_path / "raw", tmp_path / "tables")
    assert set(tables.manifest(tmp_path / "tables")["inputs"]) == {
        f"MINDsmall_{packed}.zip",
        f"MINDsmall_{unpacked}/behaviors.tsv",
        f"MINDsmall_{unpacked}/news.tsv",
    }


def test_an_unpacked_test_split_does_not_hide_the_packed_train_split(tmp_path):
    mind(tmp_path / "MINDlarge_test", "N3", shown="N3", number=9)
    mind(tmp_path / "t", "N1", "N2")
    with zipfile.ZipFile(tmp_path / "MINDlarge_train.zip", "w") as archive:
        for file in (tmp_path / "t").iterdir():
            archive.write(file, file.name)
    shutil.rmtree(tmp_path / "t")
    assert read("mind", tmp_path).impressions["user_id"].to_list() == ["U1"]


# -- Goodreads ----------------------------------------------------------------------------------


def goodreads(folder, *genres, books=None):
    for name in ("goodreads_book_authors.json", "goodreads_book_genres_initial.json"):
        shutil.copy(RAW / "goodreads" / name, folder)
    for n, genre in enumerate(genres):
        shelf = {"user_id": f"u{n}", "book_id": f"{genre}1", "is_read": True, "rating": 5}
        days = {"date_added": "Tue Jan 03 01:00:00 -0800 2012"}
        days["date_updated"] = "Wed Jan 04 00:00:00 -0800 2012"
        path = folder / f"goodreads_interactions{genre}.json"
        json_lines(path, {**shelf, "review_text_incomplete": "Begin", **days})
    for genre in genres if books is None else books:
        book = {"book_id": f"{genre}1", "title": f"Book {genre}", "authors": []}
        json_lines(folder / f"goodreads_books{genre}.json", book)


def test_goodreads_genres_are_read_with_their_own_books_and_united(tmp_path):
    goodreads(tmp_path, "_comics_graphic", "_poetry")
    got = read("goodreads", tmp_path)
    assert sorted(got.interactions["item_id"]) == ["_comics_graphic1", "_poetry1"]
    assert sorted(got.items["item_id"]) == ["_comics_graphic1", "_poetry1"]


def test_goodreads_takes_the_books_of_the_genre_not_the_first_there_are(tmp_path):
    goodreads(tmp_path, "_poetry", books=["_comics_graphic", "_poetry"])
    assert read("goodreads", tmp_path).items["item_id"].to_list() == ["_poetry1"]


def test_goodreads_without_the_books_of_a_genre_says_which(tmp_path):
    goodreads(tmp_path, "_poetry", books=["_comics_graphic"])
    with pytest.raises(UserError, match=r"Add goodreads_books_poetry\.json\.gz"):
        read("goodreads", tmp_path)


def test_goodreads_files_that_are_there_twice_are_an_error(tmp_path):
    goodreads(tmp_path, "_poetry")
    json_lines(tmp_path / "again" / "goodreads_books_poetry.json", {"book_id": "2", "title": "x"})
    with pytest.raises(UserError, match="is there more than once"):
        read("goodreads", tmp_path)


def test_goodreads_takes_whole_reviews_where_they_are_there(tmp_path):
    goodreads(tmp_path, "_poetry")
    review = {"user_id": "u0", "book_id": "_poetry1", "review_text": "The whole of it"}
    json_lines(tmp_path / "goodreads_reviews_poetry.json", review)
    assert read("goodreads", tmp_path).interactions["review"].to_list() == ["The whole of it"]


# -- Last.fm ------------------------------------------------------------------------------------


def lastfm(folder, *taggings):
    write(folder / "artists.dat", ("id", "name"), (55, "Kylie Minogue"), (56, "Other"))
    write(folder / "tags.dat", ("tagID", "tagValue"), (24, "pop"), (39, "dance"), (7, "rock"))
    write(folder / "user_friends.dat", ("userID", "friendID"), (7, 8))
    header = ("userID", "artistID", "tagID", "timestamp")
    write(folder / "user_taggedartists-timestamps.dat", header, *taggings)


def test_lastfm_tags_given_seconds_apart_are_one_act(tmp_path):
    lastfm(tmp_path, (7, 55, 24, 1304606207158), (7, 55, 39, 1304606219763), (7, 56, 7, 1304606e6))
    got = read("lastfm", tmp_path).interactions.filter(pl.col("item_id") == "55")
    assert got["tag_values"].to_list() == [["pop", "dance"]]


def test_lastfm_acts_of_one_day_have_no_order(tmp_path):
    lastfm(tmp_path, (7, 55, 24, 1304606207158), (7, 56, 39, 1304606219763))
    assert read("lastfm", tmp_path).interactions["timestamp"].n_unique() == 1


def test_lastfm_stamps_of_a_months_first_day_stay_as_they_are(tmp_path):
    lastfm(tmp_path, (7, 55, 24, 1238536800000))  # 1 April 2009, midnight in Madrid
    (stamp,) = read("lastfm", tmp_path).interactions["timestamp"].dt.epoch("ms")
    assert stamp == 1238536800000


# -- MovieLens ----------------------------------------------------------------------------------


def test_recboles_movielens_1m_is_read_though_its_header_swaps_gender_and_age(tmp_path):
    people = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
    write(tmp_path / "ml-1m.user", people, (1, "F", 1, 10, "48067"), (2, "M", 56, 16, "70072"))
    films = ("item_id:token", "movie_title:token", "genre:token_seq")
    write(tmp_path / "ml-1m.item", films, (1, "Toy Story (1995)", "Animation Comedy"))
    event = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    write(tmp_path / "ml-1m.inter", event, (1, 1, 5, 978300760), (2, 1, 3, 978300761))
    got = read("movielens", tmp_path)
    rows = got.users.select("gender", "age", "occupation", "location").rows()
    assert rows == [
        ("female", "Under 18", "K-12 student", "Royal Oak, MI"),
        ("male", "56+", "self-employed", "Marrero, LA"),
    ]
    assert got.items.select("title", "genres", "year").rows() == [
        ("Toy Story (1995)", "Animation|Comedy", 1995)
    ]


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("40006", "Bedford, KY"),
        ("400060", ""),
        ("40006-1234", "Bedford, KY"),
        ("400061234", "Bedford, KY"),
        ("4000", ""),
        ("T8H1N", ""),
        ("40006X", ""),
        ("09102", "APO, AE"),
    ],
)
def test_only_a_well_formed_zip_code_is_a_place(tmp_path, code, place):
    folder = shutil.copytree(RAW / "movielens" / "ml-100k", tmp_path / "raw")
    write(folder / "u.user", *(f"{n}|24|M|writer|{code}" for n in (1, 2, 3)))
    assert set(read("movielens", folder).users["location"]) == {place}


# -- KuaiRec ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "stated", "shown"),
    [
        (107, "61-90", "61-90"),  # the number lies above its own range
        (70, "61-90", "61-90"),  # counted back to the scene it lies below
        (1500, "730+", "1438"),
        (327, "181-365", "265"),
        (327, "", "265"),
    ],
)
def test_kuairec_shows_the_range_where_the_number_contradicts_it(days, stated, shown):
    source = get_source("kuairec")
    users = pl.DataFrame(
        {"user_id": ["1"], "register_days": [days], "register_days_range": [stated or None]},
        schema_overrides={"register_days_range": pl.String},
    )
    at = pl.Series([1593878400000]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    rows = pl.DataFrame({"user_id": ["1"], "timestamp": at})  # 62 days before the log's end

    class Users:
        pass

    given = Users()
    given.users = users
    assert source.user_as_of(given, rows)["registered_days"].to_list() == [shown]


def test_kuairec_handles_lose_the_number_of_the_account(tmp_path):
    folder = shutil.copytree(RAW / "kuairec", tmp_path / "raw")
    path = next(folder.rglob("kuairec_caption_category.csv"))
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    rows[0]["caption"] = "看 @程哥(O3xhcy6vhfzcu3kw) 的视频"
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    shown = read("kuairec", folder).items["caption"].to_list()
    assert "看 @程哥 的视频" in shown


# -- Amazon and Steam ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "main", "shown"),
    [
        (["Gift Cards", "Gift Cards", "</span></span></span>"], "Gift Cards", "Gift Cards"),
        ([], '<img src="https://x/y.png" class="nav" alt="AMAZON FASHION"/>', "AMAZON FASHION"),
        (["A", "B", "A"], "M", "A > B"),
        (["<b>Bold</b> one", ""], "M", "Bold one"),
    ],
)
def test_amazon_2018_categories_are_without_markup_and_repetitions(tmp_path, category, main, shown):
    folder = shutil.copytree(RAW / "amazon" / "2018", tmp_path / "raw")
    path = folder / "meta_AMAZON_FASHION.json"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    json_lines(path, *({**row, "category": category, "main_cat": main} for row in rows))
    assert set(read("amazon_fashion", folder).items["category"]) == {shown}


def test_joined_names_are_whole_and_within_the_limit():
    names = ["Single-player", "Steam Achievements", "Full controller support", "Steam Cloud"]
    frame = pl.DataFrame({"names": [names, [], None, ["x" * 80], ["a ", "", "b"]]})
    for limit in range(12, 80):
        shown = frame.select(columns.joined(pl.col("names"), ", ", limit)).to_series().to_list()
        assert all(len(text) <= limit for text in shown)
        assert set(shown[0].split(", ")) <= {*names, ""} or limit < len(names[0])
        assert shown[1:3] == ["", ""] and shown[4] == "a, b"

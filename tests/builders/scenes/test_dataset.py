"""The `datasets` builder, with the real library: configurations, features, processes, streams."""

from __future__ import annotations

import datasets
import pytest

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.made_up import Size, write
from usermirrorer.builders.raw.sources import all_sources, domains
from usermirrorer.builders.scenes import pipeline
from usermirrorer.builders.scenes.dataset import UserMirrorerBuilder

MADE = Size(users=120, items=150, interactions=3_000)


@pytest.fixture(scope="module")
def settings(tiny_encoder):
    counts = {"train": 300, "test": 12, "history_max": 4, "time_cut": 0.0}
    return {"embedder": str(tiny_encoder), **counts}


@pytest.fixture(scope="module")
def prepared(raw_movielens, settings, tmp_path_factory):
    """Build MovieLens by one process and by two, each in a cache of its own."""
    made = []
    for processes in (1, 2):
        cache = tmp_path_factory.mktemp("cache")
        builder = UserMirrorerBuilder(
            config_name="movielens", data_dir=str(raw_movielens), cache_dir=str(cache), **settings
        )
        builder.download_and_prepare(num_proc=processes)
        made.append(builder)
    return made


def test_there_is_a_configuration_for_every_source_domain_and_all_together():
    assert set(UserMirrorerBuilder.builder_configs) == {*all_sources(), *domains(), "mixed"}
    assert len(UserMirrorerBuilder.builder_configs["amazon"].sources) == 4
    assert len(UserMirrorerBuilder.builder_configs["mixed"].sources) == 11


def test_any_number_of_processes_makes_the_same_rows(prepared):
    one, two = (builder.as_dataset() for builder in prepared)
    for split in ("train", "test"):
        assert one[split].num_rows > 10
        assert one[split].to_list() == two[split].to_list()


def test_a_stream_has_the_same_rows(prepared):
    stream = prepared[0].as_streaming_dataset("test")
    assert isinstance(stream, datasets.IterableDataset)
    assert list(stream) == prepared[0].as_dataset("test").to_list()


def test_features_name_what_is_one_of_a_few(prepared):
    rows = prepared[0].as_dataset("test")
    row, kinds = rows[0], rows.features
    assert kinds["source"].int2str(row["source"]) == "movielens"
    assert kinds["answer"].int2str(row["answer"]) in "ABCDE"
    assert kinds["exposure_origin"].feature.int2str(row["exposure_origin"][row["answer"]]) == (
        "target"
    )
    assert kinds["history"] == datasets.List(datasets.Value("string"))


def test_the_info_tells_licence_citation_and_version(prepared):
    info = prepared[0].info
    assert "GroupLens" in info.license and "harper2015movielens" in info.citation
    assert "MovieLens" in info.description and str(info.version) == "2.0.0"


def test_changed_raw_files_are_another_dataset(settings, tmp_path):
    raw = write("steam", tmp_path, MADE)
    given = {"config_name": "steam", "data_dir": str(raw), **settings}
    before = UserMirrorerBuilder(**given).config_id
    (raw / "steam_games.json.gz").write_bytes(b"changed")
    assert UserMirrorerBuilder(**given).config_id != before


def test_mixed_is_all_eleven_sources(settings, tmp_path):
    for name in all_sources():
        write(name, tmp_path / "raw" / name, MADE)
    builder = UserMirrorerBuilder(
        config_name="mixed",
        data_dir=str(tmp_path / "raw"),
        cache_dir=str(tmp_path / "cache"),
        **{**settings, "train": 10, "test": 3},
    )
    builder.download_and_prepare()
    for split, count in (("train", 10), ("test", 3)):
        rows = builder.as_dataset(split)
        names = [rows.features["source"].int2str(value) for value in rows["source"]]
        assert names == sorted(names, key=list(all_sources()).index)  # one after the other
        for name in all_sources():  # a scene whose candidates run out is left out
            assert count - 2 < names.count(name) <= count


def test_processes_make_the_scenes_too(settings, raw_movielens, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        pipeline, "raw_to_scenes", lambda *a, workers, **k: asked.append(workers) or 1 / 0
    )
    builder = UserMirrorerBuilder(
        config_name="movielens", data_dir=str(raw_movielens), cache_dir=str(tmp_path), **settings
    )
    with pytest.raises(ZeroDivisionError):
        builder.download_and_prepare(num_proc=2)
    assert asked == [2]


def test_missing_raw_files_are_one_clear_error(settings, tmp_path):
    with pytest.raises(UserError, match=r"data_dir=FOLDER.*usermirrorer sources steam"):
        UserMirrorerBuilder(config_name="steam", cache_dir=str(tmp_path)).as_streaming_dataset()
    given = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache"), **settings}
    with pytest.raises(UserError, match="Every source has its own folder"):
        UserMirrorerBuilder(config_name="mixed", **given).as_streaming_dataset()

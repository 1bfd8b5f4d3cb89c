"""Scenes with features left out are the same scenes, and show nothing of what is left out."""

from __future__ import annotations

import shutil

import polars as pl
import pytest
from click.testing import CliRunner

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.raw import made_up, tables
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import pipeline, variants
from usermirrorer.builders.scenes.commands import ablate
from usermirrorer.builders.scenes.world import SceneConfig

TEXTS = ["profile", "history", "exposure"]
LINES = ["history_item_ids", "history_timestamps", "history_gap"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_encoder):
    """Return a function that gives the folder of a source's scenes, and of their variants."""
    ready = {}

    def folders(name):
        if name not in ready:
            base = tmp_path_factory.mktemp(name)
            size = made_up.Size(users=60, items=80, interactions=900)
            raw = made_up.write(name, base / "raw", size)
            config = SceneConfig(train=60, test=16, history=(1, 4))
            source = get_source(name)
            pipeline.raw_to_scenes(source, raw, base / "s", config, embedder=str(tiny_encoder))
            asked = (base / "s/test.parquet", base / "v", source, base / "s/tables")
            ready[name] = base / "s", base / "v", dict(variants.write(*asked))
        return ready[name]

    return folders


def shown(folder, name) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def all_text(frame: pl.DataFrame) -> str:
    """What a model could read."""
    rows = frame.select(TEXTS).rows()
    return "\n".join("\n".join([profile, *history, *options]) for profile, history, options in rows)


@pytest.mark.parametrize("name", ["steam", "lastfm", "mind"])
def test_variants_are_the_same_scenes_with_the_same_options_and_answers(made, name):
    scenes, folder, names = made(name)
    whole = shown(scenes, "test")
    assert len(names) > 8 and set(names.values()) == {len(whole)}
    assert shown(folder, "full").equals(whole)
    for variant in names:
        other = shown(folder, variant)
        assert other.columns == SCENE.names
        assert other.drop(*TEXTS, *LINES).equals(whole.drop(*TEXTS, *LINES)), variant
        assert other["exposure"].list.len().equals(whole["exposure"].list.len())


def test_what_is_removed_is_nowhere_and_what_is_kept_alone_stands_in_every_option(made):
    scenes, folder, _ = made("steam")
    items = tables.read(scenes / "tables").items
    ids = shown(scenes, "test")["exposure_item_ids"].explode()
    values = items.filter(pl.col("item_id").is_in(ids.implode()))
    looks = {"title": "Title: {title}", "developer": "Developed by {developer}"}
    looks |= {"price": "Price: {price}", "specifications": "Specifications: {specs}"}
    texts = {
        feature: {look.format(**row) for row in values.drop_nulls().to_dicts()}
        for feature, look in looks.items()
    }
    full = all_text(shown(folder, "full"))
    for feature, there in texts.items():
        assert there and all(text in full for text in there)
        without = all_text(shown(folder, f"without-{feature}"))
        assert not [text for text in there if text in without], feature
        only = all_text(shown(folder, f"only-{feature}"))
        assert all(text in only for text in there)
        for other in texts.keys() - {feature}:
            assert not [text for text in texts[other] if text in only], (feature, other)


def test_history_and_profile_are_features_of_their_own(made):
    scenes, folder, _ = made("steam")
    whole = shown(scenes, "test")
    without = shown(folder, "without-history")
    assert without["history"].list.len().sum() == 0
    assert without["history_gap"].null_count() == len(whole)
    assert without["exposure"].equals(whole["exposure"])
    assert without["profile"].equals(whole["profile"])
    alone = shown(folder, "only-history")
    assert alone["history"].equals(whole["history"])
    assert set(alone["profile"]) == {""} and alone["exposure"].explode().n_unique() == 1
    assert set(shown(folder, "without-profile")["profile"]) == {""}


def test_what_only_the_history_shows_stands_there_alone(made):
    _, folder, _ = made("steam")
    alone = shown(folder, "only-behavior")
    assert "My Behavior" in all_text(alone) and "Developed by" not in all_text(alone)
    assert alone["exposure"].explode().n_unique() == 1
    assert shown(folder, "only-title")["history"].list.len().sum() == 0


def test_a_second_call_keeps_what_is_there(made):
    scenes, folder, names = made("lastfm")
    before = {name: (folder / f"{name}.parquet").stat().st_mtime_ns for name in names}
    asked = (scenes / "test.parquet", folder, get_source("lastfm"), scenes / "tables")
    assert dict(variants.write(*asked)) == names
    assert before == {name: (folder / f"{name}.parquet").stat().st_mtime_ns for name in names}


def test_tables_of_other_scenes_are_refused(made, tmp_path):
    scenes, _, _ = made("steam")
    other = shutil.copytree(scenes, tmp_path / "s")
    stored = tables.read(other / "tables")
    changed = stored.items.with_columns(title=pl.col("title") + " II")
    storage.write_table(
        other / "tables/items.parquet",
        changed.to_arrow().cast(storage.read_table(other / "tables/items.parquet").schema),
    )
    asked = (other / "test.parquet", tmp_path / "v", get_source("steam"), other / "tables")
    with pytest.raises(UserError, match="do not give these scenes again"):
        list(variants.write(*asked))


def test_the_command_names_what_is_wrong(made, tmp_path):
    scenes, _, _ = made("steam")
    words = [str(scenes / "test.parquet"), "--out", str(tmp_path / "v")]
    chosen = CliRunner().invoke(ablate, [*words, "--feature", "price", "--limit", "3"])
    assert chosen.exit_code == 0, chosen.output
    files = {
        path.stem: len(shown(tmp_path / "v", path.stem)) for path in tmp_path.glob("v/*.parquet")
    }
    assert files == {"full": 3, "only-price": 3, "without-price": 3}
    none = CliRunner().invoke(ablate, [*words, "--feature", "colour"])
    assert "no feature 'colour'" in str(none.exception) and "price" in str(none.exception)
    bare = shutil.copy(scenes / "test.parquet", tmp_path / "test.parquet")
    alone = CliRunner().invoke(ablate, [str(bare), "--out", str(tmp_path / "v")])
    assert isinstance(alone.exception, UserError) and "scenes.json" in str(alone.exception)

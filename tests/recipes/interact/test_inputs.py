"""Every bad input is refused in one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.source import Tables
from usermirrorer.recipes.interact import (
    environment,
    exposures,
    hyperparameters,
    pipeline,
    splits,
    trained,
)
from usermirrorer.recipes.interact.commands import interact


def _command(*more: str, out: Path) -> UserError:
    given = ["movielens", str(out / "raw"), "--out", str(out / "run"), *more]
    result = CliRunner().invoke(interact, given)
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    return result.exception


def _model(folder: Path, **record: object) -> str:
    folder.mkdir()
    (folder / "train_run.json").write_text(json.dumps(record))
    return str(folder)


def _scenes(path: Path) -> Path:
    table = pa.table({"user_id": ["1", "2", "9"], "source": ["movielens", "movielens", "steam"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("name", "near"), [("LightGCM", "LightGCN"), ("sasrek", "SASRec"), ("zz", "")]
)
def test_an_unknown_recommender_is_refused_with_the_nearest_known(
    name: str, near: str, tmp_path: Path
) -> None:
    said = str(_command("--recommenders", "BPR", name, "--simulators", "a=b", out=tmp_path))
    assert repr(name) in said
    assert f"Did you mean {near}" in said


def test_recommenders_are_known_in_any_case_and_count_once() -> None:
    assert hyperparameters.check(["bpr", "BPR", "sasrec"]) == ("BPR", "SASRec")


def test_a_missing_environment_is_refused_with_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "nowhere"))
    said = _command("--simulators", "base=smollm2-135m-instruct", out=tmp_path)
    assert environment.SETUP in said.fix
    assert "nowhere" in said.where


def test_the_command_that_makes_the_environment_is_one_of_quickstart() -> None:
    root = Path(environment.__file__).resolve().parents[2]
    assert environment.SETUP.split()[-1] in (root / "quickstart").read_text()


@pytest.mark.recsys
def test_a_raw_folder_without_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    said = _command("--simulators", "base=smollm2-135m-instruct", out=tmp_path)
    assert "none of ratings.dat" in str(said)


@pytest.mark.parametrize("word", ["base", "=model", "base=", "a b=model", "../x=model"])
def test_a_simulator_without_a_plain_name_is_refused(word: str, tmp_path: Path) -> None:
    assert "NAME=VALUE" in _command("--simulators", word, out=tmp_path).fix


@pytest.mark.parametrize(
    "size", [["--seeds", "0"], ["--users", "-1"], ["--effort", "0"], ["--effort", "nan"]]
)
def test_a_run_of_nothing_is_refused(size: list[str], tmp_path: Path) -> None:
    said = _command("--simulators", "a=x", *size, out=tmp_path)
    assert said.what.startswith(f"{size[0]}: {size[1]}") and "Give" in said.fix


def test_a_tiny_run_has_as_many_seeds_as_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[pipeline.Plan] = []

    def kept(source: object, raw: Path, out: Path, plan: pipeline.Plan) -> None:
        plans.append(plan)
        raise UserError("enough")

    monkeypatch.setattr(pipeline, "run", kept)
    for more in ([], ["--seeds", "3"], ["--tiny"], ["--tiny", "--seeds", "3", "--users", "40"]):
        _command("--simulators", "a=x", *more, out=tmp_path)
    sizes = [(plan.users, plan.seeds, plan.schedule.effort) for plan in plans]
    assert sizes == [(100, 2, 0.5), (100, 3, 0.5), (30, 1, 0.1), (40, 3, 0.1)]


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    said = _command("--simulators", "a=x", "a=y", out=tmp_path)
    assert "twice" in said.what


def test_what_is_stated_of_no_simulator_is_refused(tmp_path: Path) -> None:
    said = _command("--simulators", "a=x", "--trained-on", "b=none", out=tmp_path)
    assert "'b'" in said.what


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"data": {"local": True, "name": "scenes.parquet"}},
        {"data": {"name": ""}},
        {"data": {"name": "me/release"}, "base_model": {"name": "simulator", "taken_as": None}},
    ],
)
def test_a_record_that_cannot_tell_is_refused_with_the_flag(
    record: dict[str, object], tmp_path: Path
) -> None:
    model = _model(tmp_path / "model", **record)
    with pytest.raises(UserError, match="--trained-on tuned="):
        trained.users_of("tuned", model, "movielens", {})


def test_a_model_without_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="no record"):
        trained.users_of("tuned", str(tmp_path / "model"), "movielens", {})


def test_a_general_model_has_learnt_from_nobody() -> None:
    assert trained.users_of("base", "smollm2-135m-instruct", "movielens", {}) == frozenset()


def test_stated_scenes_name_the_users_of_the_source_alone(tmp_path: Path) -> None:
    model = _model(tmp_path / "model", data={"local": True})
    path = _scenes(tmp_path / "scenes.parquet")
    users = trained.users_of("tuned", model, "movielens", {"tuned": str(path)})
    assert users == {"1", "2"}


def test_none_is_not_believed_against_the_record(tmp_path: Path) -> None:
    model = _model(tmp_path / "model", data={"sources": {"movielens": 900}})
    with pytest.raises(UserError, match="900 rows of movielens"):
        trained.users_of("tuned", model, "movielens", {"tuned": "none"})
    assert trained.users_of("tuned", model, "steam", {"tuned": "none"}) == frozenset()


def _release(folder: Path) -> Path:
    file = "data/scenes/movielens/train-00000-of-00001.parquet"
    digest = storage.file_hash(_scenes(folder / file))
    storage.write_json(folder / "manifest.json", {"files": {file: {"sha256": digest}}})
    return folder


def test_a_release_names_the_users_of_its_train_scenes(tmp_path: Path) -> None:
    model = _model(tmp_path / "model", data={"local": True})
    stated = {"tuned": str(_release(tmp_path / "release"))}
    assert trained.users_of("tuned", model, "movielens", stated) == {"1", "2"}


def test_a_release_whose_file_is_not_that_of_its_manifest_is_refused(tmp_path: Path) -> None:
    folder = _release(tmp_path / "release")
    table = pa.table({"user_id": ["7"], "source": ["movielens"]})
    pq.write_table(table, next(folder.rglob("*.parquet")))
    model = _model(tmp_path / "model", data={"local": True})
    with pytest.raises(UserError, match="not the file of the manifest"):
        trained.users_of("tuned", model, "movielens", {"tuned": str(folder)})


def test_a_manifest_without_train_scenes_is_refused(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "manifest.json", {"files": {}})
    with pytest.raises(UserError, match="names no train scenes"):
        trained.users_of("a", "smollm2-135m-instruct", "movielens", {"a": str(tmp_path)})


def test_too_few_people_are_refused_with_why(tables: Tables) -> None:
    everyone = [f"u{number:02}" for number in range(30)]
    with pytest.raises(UserError, match="10 people are left: 30 of 40 trained a simulator"):
        splits.split(tables, everyone, users=0, seed=0)
    with pytest.raises(UserError, match="too few"):
        splits.split(tables, [], users=5, seed=0)


def test_a_source_with_too_few_items_for_a_list_is_refused(tables: Tables) -> None:
    split = splits.split(tables, [], users=0, seed=0)
    people = len(split.users)
    rows = {"user": np.repeat(np.arange(people), 9), "rank": np.tile(np.arange(9), people)}
    top = pl.DataFrame({**rows, "item": rows["rank"]})
    with pytest.raises(UserError, match="a list shows 10 items, but for somebody 9 are left"):
        exposures.shown(top, split, tables, [0])
    with pytest.raises(UserError, match="0 are left"):  # somebody has taken everything
        exposures.shown(top.filter(pl.col("user") > 0), split, tables, [0])

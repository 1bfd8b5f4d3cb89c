"""Promise: a pattern scores the sources that a dataset has, and says which it lacks."""

import json
import logging

import pytest

from usermirrorer.builders.common.errors import UserError

from .fixtures import evaluate, make_scenes, tiny_model, write_scenes


@pytest.fixture
def steam_alone(tmp_path):
    return write_scenes(tmp_path / "scenes.parquet", make_scenes(3, source="steam"))


@pytest.mark.parametrize("pattern", ["usermirror-direct_*", "usermirror-direct"])
def test_those_that_are_there_are_scored_and_the_others_named(steam_alone, pattern, caplog):
    from lm_eval.tasks import TaskManager

    names = TaskManager().match_tasks([pattern])
    with caplog.at_level(logging.WARNING):
        results = evaluate(tiny_model(), names, steam_alone)
    scored = {t for t, row in results["results"].items() if "acc,none" in row}
    assert "usermirror-direct_steam" in scored
    assert not {t for t in scored if "_" in t} - {"usermirror-direct_steam"}
    told = [r.getMessage() for r in caplog.records if "is not scored" in r.getMessage()]
    assert any(text.startswith("usermirror-direct_movielens is not scored") for text in told)
    assert "no scene of movielens" in results["configs"]["usermirror-direct_movielens"][
        "metadata"]["not_scored"]  # fmt: skip
    if pattern == "usermirror-direct":
        group, task = (results["results"][n] for n in (pattern, "usermirror-direct_steam"))
        assert group["acc,none"] == task["acc,none"] and group["sample_len"] == 3
    json.dumps(results["results"])


def test_nothing_to_score_is_an_error(steam_alone):
    with pytest.raises(UserError, match=r"nothing to score: .*no scene of movielens"):
        evaluate(tiny_model(), ["usermirror-direct_movielens"], steam_alone)


def test_strict_runs_refuse_a_source_that_is_not_there(steam_alone):
    tasks = ["usermirror-direct_steam", "usermirror-direct_movielens"]
    with pytest.raises(UserError, match="no scene of movielens"):
        evaluate(tiny_model(), tasks, steam_alone, strict=True)

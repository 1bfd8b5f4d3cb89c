"""Promise: the rows of the revision that was asked for or an error, and their commit is recorded.

Plain `load_dataset` is the counterexample: with a warm cache it returns another version's rows when
the Hub cannot be asked. So each case here begins with a cache that holds the newer version.
"""

from __future__ import annotations

import json

import pytest

from .conftest import build_release
from .test_versions import PUSH

#: The old version has 3 rows per table and domain, the new one 5; both have two domains.
OLD, NEW = 6, 10
#: Every way in which rows of a published dataset are read; prints rows and commit of each.
READ = """
import json, sys
from usermirrorer.builders import validate
from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import data as tasks
from usermirrorer.recipes.data import DataArguments, read_source
name, revision = "usermirrorer/mixed", sys.argv[1]
def recipe(stage):
    rows, commit = read_source(DataArguments(name, dataset_revision=revision, stage=stage))
    return len(rows), commit
def task():
    rows, told = tasks.load_scenes("movielens", name, revision)
    placebo = tasks.load_placebo(rows, "movielens", told)
    return 2 * len(rows), told["dataset_commit"]
def validated():
    commit = validate.commit(name, revision)
    scenes, pairs = validate.load(name, commit)
    return len(scenes["test"]), commit
told = {}
for way, read in {"pairs": lambda: recipe("decision"), "scenes": lambda: recipe("direct"),
                  "lm_eval": task, "validate": validated}.items():
    try:
        told[way] = read()
    except UserError as error:
        told[way] = str(error)
print(json.dumps(told))
"""
PLAIN = """
import sys
from datasets import load_dataset
for config in ("preference", "scenes"):
    load_dataset("usermirrorer/mixed", config, revision=sys.argv[1])
"""


@pytest.fixture
def versions(run, tmp_path):
    """Publish both versions; return the commit of each."""
    folders = [
        build_release(tmp_path / "v1.0.0", "1.0.0", rows=3),
        build_release(tmp_path / "v1.1.0", "1.1.0", rows=5),
    ]
    run(PUSH, *folders)
    code = (
        "from huggingface_hub import HfApi; print(*[HfApi().dataset_info('usermirrorer/mixed', "
        "revision=r).sha for r in ('v1.0.0', 'v1.1.0')])"
    )
    return run(code).stdout.split()


def every(rows, commit):
    return {way: [rows, commit] for way in ("pairs", "scenes", "lm_eval", "validate")}


def read(run, revision, **more):
    return json.loads(run(READ, revision, **more).stdout.splitlines()[-1])


def test_a_warm_cache_of_another_version_is_never_read(run, versions):
    run(PLAIN, "v1.1.0")
    assert read(run, "v1.1.0") == every(NEW, versions[1])
    offline = read(run, "v1.0.0", HF_HUB_OFFLINE="1")
    assert all("v1.0.0" in told for told in offline.values()), offline
    assert read(run, "v1.0.0") == every(OLD, versions[0])
    # Now that both are there, each is read offline as what it is.
    for revision, rows, commit in (("v1.0.0", OLD, versions[0]), ("v1.1.0", NEW, versions[1])):
        offline = read(run, revision, HF_HUB_OFFLINE="1")
        assert offline == every(rows, commit)
        offline = read(run, commit, HF_HUB_OFFLINE="1")
        assert offline == every(rows, commit)


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_version_that_is_not_there_is_an_error(run, versions, offline):
    read(run, "v1.1.0")
    told = read(run, "v9.9.9", HF_HUB_OFFLINE=offline)
    assert all(isinstance(text, str) and "v9.9.9" in text for text in told.values()), told


def test_a_hub_that_cannot_be_reached_gives_what_was_read_of_that_version_or_an_error(
    run, versions
):
    run(PLAIN, "v1.1.0")
    read(run, "v1.1.0")
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nothing listens there
    assert read(run, "v1.1.0", **gone) == every(NEW, versions[1])
    told = read(run, "v1.0.0", **gone)
    assert all(isinstance(text, str) and "v1.0.0" in text for text in told.values()), told


def test_a_slash_behind_the_address_changes_nothing(run, versions, local_hub):
    run(PLAIN, "v1.1.0")
    told = read(run, "v1.0.0", HF_ENDPOINT=local_hub.endpoint + "/")
    assert told == every(OLD, versions[0])


def test_a_branch_that_moved_is_read_where_it_is(run, versions, tmp_path):
    assert read(run, "main") == every(NEW, versions[1])
    run(PUSH, build_release(tmp_path / "v1.2.0", "1.2.0", rows=2))
    told = read(run, "main")
    assert {rows for rows, _ in told.values()} == {4}
    assert {commit for _, commit in told.values()}.isdisjoint(versions)


def test_a_file_missing_from_the_cache_is_an_error_not_fewer_rows(run, versions, tmp_path):
    read(run, "v1.0.0")
    cached = sorted((tmp_path / "home").rglob("snapshots/*/data/*/movielens/*.parquet"))
    for path in cached:
        path.unlink()
    told = read(run, "v1.0.0", HF_HUB_OFFLINE="1")
    assert all(isinstance(text, str) for text in told.values()), told


def test_validate_says_which_commit_it_read(run, versions):
    words = ["validate", "usermirrorer/mixed", "--revision", "v1.0.0"]
    code = f"import sys; sys.argv = ['usermirrorer', *{words!r}]\n"
    done = run(code + "from usermirrorer.recipes.cli import main; main()", check=False)
    assert f"What was read: commit {versions[0]} (v1.0.0)" in done.stdout, done.stderr

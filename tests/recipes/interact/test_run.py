"""Recommenders really learn in their own environment, and a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.source import Tables
from usermirrorer.recipes.interact import environment, splits
from usermirrorer.recipes.interact.hyperparameters import RECOMMENDERS, Schedule, settings

pytestmark = pytest.mark.recsys


def _task(name: str, folder: Path, extra: Path | None = None, effort: float = 0.02) -> Any:
    return {
        "name": name,
        "model": name,
        "seed": 1,
        "settings": settings(name, Schedule(effort)),
        "log": str(folder / "log.parquet"),
        "extra": str(extra) if extra else None,
        "top": 20,
        "out": str(folder / "trained" / f"{name}{'-again' if extra else ''}"),
    }


@pytest.fixture
def folder(tables: Tables, tmp_path: Path) -> Path:
    log = splits.split(tables, [], users=0, seed=0).log
    storage.write_table(tmp_path / "log.parquet", log.to_arrow())
    return tmp_path


def test_all_ten_learn_and_list_only_what_a_person_has_not_taken(folder: Path) -> None:
    environment.train([_task(name, folder) for name in RECOMMENDERS], folder, "ten")
    log = pl.read_parquet(folder / "log.parquet")
    for name in RECOMMENDERS:
        for kind, parts in (("exposures", ["train"]), ("test", ["train", "valid"])):
            top = pl.read_parquet(folder / "trained" / name / f"{kind}.parquet")
            seen = log.filter(pl.col("part").is_in(parts)).select("user", "item")
            assert top.join(seen, on=["user", "item"]).is_empty(), name
            left = log["item"].n_unique() - seen.group_by("user").len()["len"]
            counts = top.group_by("user").len()["len"]
            assert counts.min() == min(20, int(left.min())), name  # type: ignore[call-overload]
            assert np.isfinite(top["score"].to_numpy()).all()
    left_behind = [path.suffix for path in folder.rglob("*") if path.is_file()]
    assert set(left_behind) <= {".parquet", ".json", ".log"}


def test_a_taste_is_learnt_and_what_is_added_counts(folder: Path) -> None:
    """Who took even films gets even ones; who is given odd ones beside them gets those as well."""
    log = pl.read_parquet(folder / "log.parquet")
    people = log["user"].unique().sort()
    added = pl.DataFrame({"user": people, "item": [0] * len(people), "place": [9.5] * len(people)})
    storage.write_table(folder / "added.parquet", added.to_arrow())
    plain = _task("BPR", folder, effort=1)
    more = _task("BPR", folder, folder / "added.parquet", effort=1)
    for task in (plain, more):  # a log so small needs smaller and larger steps
        task["settings"] |= {"train_batch_size": 32, "learning_rate": 0.01}
    environment.train([plain, more], folder, "taste")
    top = pl.read_parquet(Path(plain["out"]) / "exposures.parquet").filter(pl.col("rank") < 3)
    split_of = {
        i: {u % 2 for u, j in log.select("user", "item").iter_rows() if j == i} for i in range(30)
    }
    own = [u % 2 in split_of[item] for u, item in top.select("user", "item").iter_rows()]
    assert np.mean(own) > 0.8
    ranks = [
        pl.read_parquet(Path(task["out"]) / "exposures.parquet").filter(pl.col("item") == 0)["rank"]
        for task in (plain, more)
    ]
    assert ranks[1].mean() < ranks[0].mean()  # type: ignore[operator]


def test_the_same_task_gives_the_same_lists(folder: Path) -> None:
    one, two = _task("LightGCN", folder), _task("LightGCN", folder)
    two["out"] += "-2"
    environment.train([one, two], folder, "same")
    first, second = (pl.read_parquet(Path(t["out"]) / "test.parquet") for t in (one, two))
    assert first.equals(second)


def test_a_run_killed_at_any_task_goes_on_with_the_next(folder: Path) -> None:
    tasks = [_task(name, folder) for name in ("BPR", "NeuMF", "NGCF")]
    storage.write_json(folder / "tasks.json", tasks)
    call = [str(environment.python()), str(environment.WORKER)]
    first = Path(tasks[0]["out"])
    with (folder / "tasks.json").open("rb") as given:
        process = subprocess.Popen(
            call, stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = first.stat().st_mtime_ns
    told: list[int] = []
    environment.train(tasks, folder, "again", told.append)
    assert sum(told) == 3
    assert told[0] >= 1
    assert first.stat().st_mtime_ns == made
    assert all((Path(task["out"]) / "result.json").is_file() for task in tasks)


def test_what_a_worker_of_a_killed_run_did_meanwhile_is_kept(folder: Path) -> None:
    """A worker outlives the run that started it; the next run's is at the same task by then."""
    task = _task("BPR", folder)
    storage.write_json(folder / "tasks.json", [task])
    call = [str(environment.python()), str(environment.WORKER)]
    with (folder / "tasks.json").open("rb") as one, (folder / "tasks.json").open("rb") as two:
        both = [subprocess.Popen(call, stdin=g, stdout=subprocess.PIPE) for g in (one, two)]
        said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(b'"done"' in line for line in said)
    assert (Path(task["out"]) / "result.json").is_file()
    assert not list(Path(task["out"]).parent.glob(".*"))


@pytest.mark.slow
def test_a_cluster_gives_the_same_lists_and_says_what_went_wrong(folder: Path) -> None:
    ray = pytest.importorskip("ray")
    plain = [_task(name, folder) for name in ("BPR", "NeuMF")]
    spread = [task | {"out": f"{task['out']}-ray"} for task in plain]
    told: list[int] = []
    try:
        environment.train(spread, folder, "spread", told.append, ray=True)
        environment.train(plain, folder, "plain")
        assert sum(told) == 2
        for one, other in zip(plain, spread, strict=True):
            lists = [pl.read_parquet(Path(t["out"]) / "test.parquet") for t in (one, other)]
            assert lists[0].equals(lists[1])
        bad = _task("BPR", folder) | {"log": "nothing.parquet", "out": str(folder / "bad")}
        with pytest.raises(UserError, match=r"training stopped: .*nothing\.parquet") as stopped:
            environment.train([bad], folder, "bad", ray=True)
        assert "\n" not in str(stopped.value)
    finally:
        ray.shutdown()


def test_one_worker_that_stops_stops_the_others(folder: Path) -> None:
    bad = _task("BPR", folder) | {"log": str(folder / "nothing.parquet")}
    slow = _task("NeuMF", folder, effort=50)
    start = time.monotonic()
    with pytest.raises(UserError, match="training stopped"):
        environment.train([bad, slow], folder, "two")
    assert not Path(slow["out"]).exists(), f"after {time.monotonic() - start:.0f} s"


def test_a_worker_that_stops_says_why(folder: Path) -> None:
    task = _task("BPR", folder) | {"log": str(folder / "nothing.parquet")}
    with pytest.raises(UserError, match=r"training stopped: .*nothing\.parquet"):
        environment.train([task], folder, "bad")
    assert not Path(task["out"]).exists()


def test_the_worker_imports_nothing_of_ours() -> None:
    code = "import sys, importlib.util as u; s = u.spec_from_file_location('w', sys.argv[1]); "
    code += "m = u.module_from_spec(s); s.loader.exec_module(m); "
    code += "print([n for n in sys.modules if 'usermirrorer' in n])"
    call = [str(environment.python()), "-c", code, str(environment.WORKER)]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_the_command_runs_on_real_films_with_a_real_model(tmp_path: Path) -> None:
    from usermirrorer.builders.common.assets import fetch_asset

    call = [sys.executable, "-m", "usermirrorer.recipes.cli", "interact", "movielens"]
    call += [str(fetch_asset("ml-100k")), "--recommenders", "BPR", "NeuMF", "--tiny", "--json"]
    call += ["--simulators", "base=smollm2-135m-instruct", "--out", str(tmp_path / "run")]
    call += ["--prompts", "recipes/smollm2-135m-instruct/direct_compact/prompts"]
    first = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    again = subprocess.run(call, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == first
    assert "60 of them by an earlier run" in again.stderr
    assert set(first["scores"]["BPR"]) > {"none", "own first", "random", "most popular", "ceiling"}
    assert first["cost"]["base"]["seconds"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "as published, not run here" in page
    assert "only what lies above them is the simulator" in page

"""Rows do not depend on how the work is cut up: batches in one process, actors of a local Ray."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions import stage
from usermirrorer.builders.decisions.cost import DecisionMeter
from usermirrorer.builders.decisions.engines import ray
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.engines.registry import EngineSpec, load_engine

SAMPLINGS = {
    "temperature 0": Sampling(n=2, temperature=0, max_tokens=12, guided=True),
    "temperature 1": Sampling(n=2, temperature=1, max_tokens=12, guided=True),
}


@pytest.fixture(scope="module")
def load(tiny_chat_model):
    return functools.partial(load_engine, str(tiny_chat_model), "float32", "tiny")


@pytest.fixture
def scenes(built):
    return built["train"].to_pylist()[:12]


def run(scenes, engine, path, sampling, **more):
    stage.run(scenes, engine, path, model="tiny", sampling=sampling, seed=0, judge=True, **more)
    return storage.read_table(path)


def assert_same_rows(one, other):
    scores = ["probabilities", "entropy"]
    assert one.drop_columns(scores).equals(other.drop_columns(scores))
    for a, b in zip(
        one["probabilities"].to_pylist(), other["probabilities"].to_pylist(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_the_size_of_batches_changes_no_row(scenes, load, tmp_path, sampling):
    tables = []
    for size in (1, 5, 12):
        engine = load()
        engine.batch_scenes = size
        tables.append(run(scenes, engine, tmp_path / f"{size}.parquet", sampling))
    assert_same_rows(tables[0], tables[1])
    assert_same_rows(tables[0], tables[2])


@pytest.fixture(scope="module")
def local_ray():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'usermirrorer[ray]'")
    with ray.running(2):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_two_actors_write_the_rows_of_one_process(local_ray, scenes, load, tmp_path, sampling):
    meter = DecisionMeter(tmp_path / "two.parquet")
    one = run(scenes, load(), tmp_path / "one.parquet", sampling)
    spread = ray.spread_over(2)
    two = run(
        scenes, load, tmp_path / "two.parquet", sampling, part_scenes=3, spread=spread, meter=meter
    )
    assert_same_rows(one, two)
    assert meter.counts["scenes"] == len(scenes) and meter.counts["decisions"] == two.num_rows


@pytest.mark.slow
def test_judging_by_actors_equals_judging_here(local_ray, scenes, load, tmp_path):
    sampling = SAMPLINGS["temperature 1"]
    once = run(scenes, load(), tmp_path / "once.parquet", sampling)
    stage.judged(
        scenes,
        tmp_path / "once.parquet",
        load,
        tmp_path / "apart.parquet",
        max_tokens=12,
        part_scenes=3,
        spread=ray.spread_over(2),
    )
    assert_same_rows(once, storage.read_table(tmp_path / "apart.parquet"))


@pytest.mark.slow
def test_an_actor_s_error_is_the_one_line_of_its_cause(local_ray, scenes, tmp_path):
    missing = EngineSpec("transformers", str(tmp_path / "no-model"))
    with pytest.raises(UserError, match="is no folder, no known part and not on the Hub"):
        run(
            scenes,
            missing.load,
            tmp_path / "d.parquet",
            SAMPLINGS["temperature 0"],
            spread=ray.spread_over(1),
        )


def test_workers_do_not_multiply_requests_to_one_server():
    with pytest.raises(UserError, match="--concurrency"):
        EngineSpec("openai", "model").spread(2)


#: A Ray of one GPU, as it is told: what an actor takes of it, and what is more than a node has.
ONE_GPU = """
import pyarrow as pa, ray
from usermirrorer.builders.decisions.engines import ray as actors
from usermirrorer.builders.common.errors import UserError
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1",
         log_to_driver=False)
def given(rows):
    import ray
    return pa.table({"gpus": [len(ray.get_gpu_ids())]})
print([table["gpus"].to_pylist() for _, table in actors.spread_over(1, 1)(given, [(0, [1])])])
try:
    list(actors.spread_over(1, 2)(given, [(0, [1])]))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_an_actor_takes_its_gpus_and_one_that_fits_nowhere_is_refused():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'usermirrorer[ray]'")
    told = subprocess.run(
        [sys.executable, "-c", ONE_GPU], capture_output=True, text=True, check=True, timeout=300
    )
    taken, refused = told.stdout.splitlines()[-2:]
    assert taken == "[[1]]"
    assert "asks for 2 GPUs per engine, and no node of Ray has more than 1" in refused

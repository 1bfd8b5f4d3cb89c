"""Two CSV files walk through every stage: scenes, release, Hub, lm_eval, leaderboard."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pyarrow as pa
from click.testing import CliRunner
from lm_eval.tasks import TaskManager

from tests.hub.conftest import local_hub, pair  # noqa: F401 - a fixture
from usermirrorer.builders import commands as stages
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.schema import PREFERENCE
from usermirrorer.builders.new import new
from usermirrorer.builders.raw.sources import all_sources
from usermirrorer.builders.scenes.dataset import UserMirrorerBuilder
from usermirrorer.eval_harness import leaderboard, leaderboard_forms
from usermirrorer.hub.commands import build_command

from .fixtures import Scripted, release
from .test_task import THOUGHT, answer


def write_shop(folder):
    draw = random.Random(0)
    rows = [
        f"c{draw.randrange(60)},{min(int(draw.expovariate(0.06)), 59):03d},{16 * 10**8 + 600 * n}"
        for n in range(2400)
    ]
    (folder / "log.csv").write_text("customer,sku,time\n" + "\n".join(rows) + "\n")
    items = [f"{n:03d},{draw.choice(['Tea', 'Coffee'])} number {n}" for n in range(60)]
    (folder / "items.csv").write_text("sku,title\n" + "\n".join(items) + "\n")


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_two_csv_files_walk_to_a_scored_release(tmp_path, tiny_encoder, local_hub):  # noqa: F811
    write_shop(tmp_path)
    yaml = tmp_path / "my-shop.yaml"
    paths = ("--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv")
    run(new, "my-shop", *paths, "--out", yaml)
    made = tmp_path / "scenes"
    run(
        *(stages.scenes, yaml, "--out", made, "--embedder", tiny_encoder, "--preset", "tiny"),
        *("--train", 20, "--test", 12, "--history", 1, 4),
    )
    told = run(stages.validate, made)
    assert "BROKEN" not in told
    scenes = storage.read_table(made / "test.parquet").to_pylist()
    assert {row["domain"] for row in scenes} == {"my-shop"} and len(scenes) == 12
    placebo = storage.read_table(made / "placebo_test.parquet").to_pylist()
    release(tmp_path / "release", scenes, placebo=placebo, repo_id="usermirrorer/shop")
    assert "my-shop" in (tmp_path / "release" / "README.md").read_text()

    pulled = tmp_path / "pulled"
    client(local_hub, tmp_path, PUSHED, tmp_path / "release", pulled)
    assert "my-shop" not in all_sources()  # whoever pulls it knows the release alone
    metadata = {"dataset": str(pulled)}
    tasks = pulled / "tasks"
    manager = TaskManager(include_path=tasks, include_defaults=False, metadata=metadata)
    board = leaderboard.build({"mine": score(manager, tmp_path / "scores")})
    assert board.domains == ["my-shop"]
    assert board.rows[0].cell("acc", "my-shop").n == 12
    assert "| my-shop |" in leaderboard_forms.to_markdown(board)
    assert "12" in client(local_hub, tmp_path, LOADED, tasks)  # from the repository, unnamed


PUSHED = """
import sys
from pathlib import Path
from usermirrorer.hub import releases
releases.push(Path(sys.argv[1]), "usermirrorer/shop")
releases.pull("usermirrorer/shop", "1.0.0", Path(sys.argv[2]))
"""
LOADED = """
import sys
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
task = manager.load(["usermirror_my-shop"])["tasks"]["usermirror_my-shop"]
print(len(list(task.test_docs())))
"""


def client(hub, folder, code, *arguments):
    """Run code as a user of the Hub would: it alone knows the address and a token."""
    settings = {**os.environ, **hub.environment(folder / "home")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def score(manager, folder):
    """Run the release's own task and save as lm_eval does."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    assert manager.match_tasks(["usermirror_*"]) == ["usermirror_my-shop"]
    lm = Scripted(lambda *_: answer("A", THOUGHT), lambda _: [0.6, *[0.1] * 4])
    result = simple_evaluate(model=lm, tasks=["usermirror_my-shop"], task_manager=manager)
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name = "mine"
    tracker.general_config_tracker.model_name_sanitized = "mine"
    samples = result.pop("samples")
    tracker.save_results_aggregated(results=result, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    return folder


def test_the_datasets_builder_takes_a_yaml_file(tmp_path, tiny_encoder):
    write_shop(tmp_path)
    yaml = tmp_path / "my-shop.yaml"
    paths = ("--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv")
    run(new, "my-shop", *paths, "--out", yaml)
    builder = UserMirrorerBuilder(
        domain=str(yaml), cache_dir=str(tmp_path / "cache"), embedder=str(tiny_encoder),
        preset="tiny", train=20, test=12, history_max=4,
    )  # fmt: skip
    builder.download_and_prepare()
    scenes = builder.as_dataset(split="test")
    assert len(scenes) == 12
    assert scenes.features["source"].int2str(scenes[0]["source"]) == "my-shop"


def test_the_card_shows_title_and_licence_of_the_own_domain_and_that_it_is_not_public(
    tmp_path, tiny_encoder
):
    write_shop(tmp_path)
    yaml = tmp_path / "my-shop.yaml"
    paths = ("--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv")
    run(new, "my-shop", *paths, "--out", yaml, "--licence", "Ask Jane | she owns it")
    text = yaml.read_text().replace('title: "my-shop"', 'title: "Our shop, 2020"')
    yaml.write_text(text)
    made = tmp_path / "scenes"
    run(
        *(stages.scenes, yaml, "--out", made, "--embedder", tiny_encoder, "--preset", "tiny"),
        *("--train", 20, "--test", 12, "--history", 1, 4),
    )
    inputs = tmp_path / "inputs"
    table = pa.Table.from_pylist([pair(0, "movielens")], schema=PREFERENCE)
    storage.write_table(inputs / "pairs.parquet", table)
    (inputs / "manifest.json").write_text("{}")
    run(
        *(build_command, tmp_path / "release", "--repo", "me/shop", "--version", "1.0.0"),
        *("--preference", inputs / "pairs.parquet", "--manifest", inputs / "manifest.json"),
        *("--test", made / "test.parquet", "--allow-tells"),
    )
    card = (tmp_path / "release" / "README.md").read_text()
    (row,) = [line for line in card.splitlines() if "Our shop, 2020" in line]
    assert "Ask Jane" in row
    manifest = storage.read_json(tmp_path / "release" / "manifest.json")
    assert manifest["redistributable"] is False


def test_texts_that_the_yaml_keeps_private_are_not_released_as_public(tmp_path):
    (tmp_path / "scenes.json").write_text('{"redistributable": false}')
    (tmp_path / "manifest.json").write_text("{}")
    command = [str(tmp_path / "out"), "--repo", "a/b", "--version", "1.0.0", "--redistributable"]
    command += ["--preference", "p.parquet", "--manifest", str(tmp_path / "manifest.json")]
    result = CliRunner().invoke(build_command, [*command, "--test", str(tmp_path / "test.parquet")])
    assert "does not allow their texts in public" in str(result.exception)

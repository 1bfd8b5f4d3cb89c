"""A ninth domain is a file, three templates and raw files: scenes, release, tasks, leaderboard."""

import importlib
import json
import random

import pytest
from click.testing import CliRunner
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.text import clean
from usermirrorer.builders.raw import sources
from usermirrorer.builders.scenes import pipeline, render
from usermirrorer.builders.scenes.world import SceneConfig
from usermirrorer.eval_harness import commands, leaderboard, leaderboard_forms

from .fixtures import Scripted, release
from .test_task import THOUGHT, answer

SOURCE = '''
"""Made-up board games: who played what, one line of JSON per play."""
import json
import polars as pl
from usermirrorer.builders.raw.source import Source, Tables


def read(folder, report):
    plays = [json.loads(line) for line in (folder / "plays.jsonl").open()]
    frame = pl.DataFrame(plays)
    games = frame.select("game").unique().sort("game")
    return Tables(
        users=frame.select(user_id="player").unique().sort("user_id"),
        items=games.select(
            item_id="game", title="game", text="game",
            available_from=pl.lit(None, pl.Datetime("ms", "UTC")),
        ),
        interactions=frame.select(
            user_id="player", item_id="game",
            timestamp=pl.from_epoch("time").cast(pl.Datetime("ms", "UTC")),
        ).sort("timestamp"),
    )


SOURCES = (
    Source("club_games", "boardgames", "Board games of a club", "https://example.org", "CC0", True,
           "", {"plays.jsonl": "one play per line"}, read),
)
'''


@pytest.fixture
def ninth(tmp_path, monkeypatch):
    """The domain `boardgames`, whose one source has another name; nothing else is changed."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "boardgames.py").write_text(SOURCE)
    folder = tmp_path / "templates"
    folder.mkdir()
    for domain in render.TEMPLATES.iterdir():
        (folder / domain.name).symlink_to(domain)
    own = folder / "boardgames"
    own.mkdir()
    (own / "profile.jinja").write_text("")
    for name in ("history", "exposure"):
        (own / f"{name}.jinja").write_text("{{ title }}")
    monkeypatch.setattr(render, "TEMPLATES", folder)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "more")])
    importlib.invalidate_caches()
    sources.all_sources.cache_clear()
    yield sources.get_source("club_games")
    monkeypatch.undo()
    sources.all_sources.cache_clear()


def write_plays(path):
    draw = random.Random(0)
    games = [clean(f"Game of {word}") for word in range(60)]
    with path.open("w") as out:
        for number in range(2400):
            row = {
                "player": f"p{draw.randrange(60)}",
                "game": games[min(int(draw.expovariate(0.06)), 59)],
                "time": 1_600_000_000 + 600 * number,
            }
            out.write(json.dumps(row) + "\n")


def test_a_ninth_domain_walks_from_raw_files_to_the_leaderboard(ninth, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_plays(raw / "plays.jsonl")
    made = tmp_path / "scenes"
    settings = SceneConfig(train=20, test=12, seed=0, history=(1, 4))
    pipeline.raw_to_scenes(ninth, raw, made, settings, embedder="all-minilm-l6-v2")
    scenes = storage.read_table(made / "test.parquet").to_pylist()
    assert {row["domain"] for row in scenes} == {"boardgames"} and len(scenes) == 12
    placebo = storage.read_table(made / "placebo_test.parquet").to_pylist()
    folder = release(tmp_path / "release", scenes, placebo=placebo)
    assert (tmp_path / "release" / "data" / "scenes" / "boardgames").is_dir()
    benchmark = (tmp_path / "release" / "eval.yaml").read_text()
    assert "id: usermirror_club_games\n  config: inspect_club_games" in benchmark

    tasks = tmp_path / "tasks"
    CliRunner().invoke(commands.eval_tasks, [str(tasks)], catch_exceptions=False)
    assert "  - usermirror_club_games\n" in (tasks / "usermirror-synthetic.yaml").read_text()
    manager = TaskManager(
        include_path=tasks, include_defaults=False, metadata={"dataset": str(folder)}
    )
    board = leaderboard.build({"club": score(manager, tmp_path / "scores")})
    assert board.domains == ["boardgames"]
    cell = board.rows[0].cell("acc_over_placebo", "boardgames")
    assert cell.n == 12 and cell.users == len({row["user_id"] for row in scenes})
    assert board.reference == "placebo"
    assert "| boardgames |" in leaderboard_forms.to_markdown(board)
    assert "on boardgames" in leaderboard_forms.to_html(board)


def score(manager, folder):
    """Run the ninth domain's task, as `lm_eval --include_path` does, and save as it does."""
    from lm_eval import simple_evaluate

    names = manager.match_tasks(["usermirror_club*"])
    assert names == ["usermirror_club_games"]
    lm = Scripted(lambda *_: answer("A", THOUGHT), lambda _: [0.6, *[0.1] * 4])
    result = simple_evaluate(model=lm, tasks=names, task_manager=manager)
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name = "club"
    tracker.general_config_tracker.model_name_sanitized = "club"
    samples = result.pop("samples")
    tracker.save_results_aggregated(results=result, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    return folder

"""The files by which lm_eval knows the tasks say what the sources and the metric table say."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from lm_eval.tasks import TaskManager

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.sources import all_sources
from usermirrorer.eval_harness import commands, metric_table, scene_metrics, task_files, task_names

from .fixtures import TASKS, evaluate, make_scenes, write_scenes
from .test_task import THOUGHT, Scripted, answer

README = TASKS / "README.md"


def test_the_files_here_are_those_of_the_installed_sources(tmp_path):
    run = CliRunner().invoke(commands.eval_tasks, [str(tmp_path)], catch_exceptions=False)
    assert f"wrote {len(list(tmp_path.iterdir()))} files" in run.output
    here = {p.name: p.read_text() for p in TASKS.iterdir() if p.is_file() and p != README}
    assert here == {p.name: p.read_text() for p in tmp_path.iterdir()}


def test_the_readme_lists_every_metric_as_the_table_does():
    assert task_files.metrics_table() in README.read_text()


def test_a_task_reports_the_metrics_of_the_table_and_no_others(tmp_path):
    dataset = write_scenes(tmp_path / "scenes.parquet", make_scenes(8))
    lm = Scripted(lambda *_: answer("A", THOUGHT), lambda _: [0.2] * 5)
    result = evaluate(lm, ["usermirror_movielens"], dataset, chat=False)
    found = {key.partition(",")[0] for key in result["results"]["usermirror_movielens"]}
    found = {name for name in found if not name.endswith("_stderr")}
    found -= {"alias", "name", "sample_len", "sample_count"}
    absent = {"acc_placebo", "acc_no_history_learned", "acc_gap_day"}
    positions = {f"acc_at_{label}" for label in "ABCDE"}
    assert found == set(metric_table.METRICS) - absent | positions
    told = result["higher_is_better"]["usermirror_movielens"]
    for name in found:
        assert told[name] == metric_table.lookup(name).higher_is_better, name


def test_units_say_between_what_a_metric_lies():
    for metric in metric_table.METRICS.values():
        assert metric.title and metric.text, metric.name
        assert (metric.unit == "difference") == ("minus" in metric.text.split(",")[0]), metric.name
        assert metric.name.startswith("acc") or metric.unit != "difference"
    assert metric_table.lookup("acc_at_C").unit == "share"
    assert set(scene_metrics.BASELINE_COLUMNS.values()) <= set(metric_table.METRICS)


def test_names_of_tasks_say_family_source_and_configuration():
    manager = TaskManager(include_path=TASKS, include_defaults=False)
    tasks = [name for name in manager.all_subtasks if task_names.is_ours(name)]
    assert len(tasks) == len(task_names.FAMILIES) * len(all_sources())
    for name in tasks:
        source = task_names.source_of(name)
        family = task_names.family_of(name)
        assert name == f"{family.name}_{source}"
        table, domain = task_names.config_of(name).split("_")
        assert (table, domain) == (family.table, all_sources()[source].domain)
    assert (
        task_names.title_of("usermirror-paper-direct_steam") == "steam (paper's exposures, direct)"
    )
    assert not task_names.is_ours("usermirror") and not task_names.is_ours("usermirror-direct")
    with pytest.raises(UserError, match="not one of our tasks"):
        task_names.family_of("arc_easy")


def test_groups_hold_every_source_once():
    texts = task_files.task_files(all_sources())
    for family in task_names.FAMILIES:
        assert leaves(family, texts) == sorted(f"{family}_{source}" for source in all_sources())
        drawn = [name for name, source in all_sources().items() if not source.logged]
        assert leaves(f"{family}-synthetic", texts) == sorted(f"{family}_{s}" for s in drawn)


def leaves(name: str, texts: dict[str, str]) -> list[str]:
    """Names of the tasks below a group."""
    if task_names.is_ours(name):
        return [name]
    children = yaml.safe_load(texts[f"{name}.yaml"])["task"]
    return sorted(task for child in children for task in leaves(child, texts))


def test_no_file_of_the_evaluation_takes_a_domain_from_a_name():
    """Domains come from sources: the names of domains stand in published numbers alone."""
    folder = Path(task_files.__file__).parent
    domains = {source.domain for source in all_sources().values()} - {"mind"}
    for file in folder.glob("*.py"):
        if file.name == "published.py":
            continue
        code = file.read_text().partition('"""')[2].partition('"""')[2]
        named = {d for d in domains if f'"{d}"' in code}
        assert not named, f"{file.name} names {named}"

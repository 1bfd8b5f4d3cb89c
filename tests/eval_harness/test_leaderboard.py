"""From lm_eval's files to a ranking: the numbers survive, and unlike runs are never mixed."""

import csv
import io
import json
import math
import shutil
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import parse_eval_result_entries
from lm_eval.loggers import EvaluationTracker

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import FIELDS, answer
from usermirrorer.eval_harness import commands, hub_files, leaderboard, published, results

from .fixtures import evaluate, make_scenes, write_scenes
from .test_task import Scripted

THOUGHT = "\n".join(["Thought:", *(f"{name}: because" for name in FIELDS)])
TASKS = ["usermirror_mind", "usermirror_movielens", "usermirror_amazon_*"]
AMAZON = ("amazon_fashion", "amazon_beauty", "amazon_grocery", "amazon_office")


def make_run(folder, dataset, label, confidence, **options):
    """Run lm_eval with a model that always answers `label`, and save as its command line does."""
    rest = (1 - confidence) / 4
    score = [confidence if x == label else rest for x in "ABCDE"]
    lm = Scripted(lambda *_: answer(label, THOUGHT), lambda _: score)
    result = evaluate(lm, TASKS, dataset, chat=False, **options)
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name = label
    tracker.general_config_tracker.model_name_sanitized = label
    samples = result.pop("samples")
    tracker.save_results_aggregated(results=result, samples=samples)
    for task in samples:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"mind": 8, "movielens": 20, **dict.fromkeys(AMAZON, 5)}
    rows = [row for source, n in sizes.items() for row in make_scenes(n, source=source)]
    for number, row in enumerate(rows):
        row["answer"] = 0 if number % 2 else row["answer"]
    data = write_scenes(folder / "scenes.parquet", rows)
    made = {
        label: make_run(folder / label, data, label, confidence)
        for label, confidence in (("A", 0.96), ("B", 0.6))
    }
    return folder, made, data


def test_scores_are_those_lm_eval_wrote(runs):
    folder, made, _ = runs
    scores = {(s.task, s.metric): s for s in results.read_results(folder / "A")}
    wrote = made["A"]["results"]["usermirror_movielens"]
    found = scores["usermirror_movielens", "acc"]
    assert found.value == wrote["acc,none"]
    assert found.stderr == wrote["acc_stderr,none"]
    assert (found.n, found.model, found.source) == (20, "A", "movielens")
    assert found.scenes_hash and found.prompt_hash
    assert scores["usermirror_movielens", "ece"].stderr > 0


def test_of_equal_runs_the_newest_counts(runs, tmp_path):
    folder, _, _ = runs
    (file,) = folder.glob("A/**/results_*.json")
    run = json.loads(file.read_text())
    for name, age, value in (("results_1.json", 10, 0.1), ("results_2.json", 20, 0.7)):
        run["date"] = age
        run["results"]["usermirror_mind"]["acc,none"] = value
        (tmp_path / name).write_text(json.dumps(run))
    (tmp_path / "results_1.json").rename(tmp_path / "results_3.json")
    scores = {(s.task, s.metric): s.value for s in results.read_results(tmp_path)}
    assert scores["usermirror_mind", "acc"] == 0.7


def test_models_are_ranked_and_tested_on_the_same_scenes(runs):
    folder, made, _ = runs
    rows = leaderboard.build({"second": folder / "B", "first": folder / "A"})
    assert [r.name for r in rows if r.kind == "model"] == ["first", "second"]
    assert rows[0].p_value is None
    assert rows[1].p_value < 0.01
    total = sum(t["sample_len"] for t in made["A"]["results"].values())
    overall = sum(t["acc,none"] * t["sample_len"] for t in made["A"]["results"].values()) / total
    assert rows[0].acc["overall"].value == pytest.approx(overall)
    p = [0.96, *[0.01] * 4]
    assert rows[0].entropy["overall"].value == pytest.approx(-sum(x * math.log2(x) for x in p))
    assert {"chance", "most popular", "nearest"} == {r.name for r in rows if r.kind == "baseline"}


def test_a_row_notes_where_its_settings_are_not_the_papers(runs):
    paper = {"samples": 5, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 512}
    paper["chat_template"] = True
    assert leaderboard._unusual(json.dumps(paper)) == ""
    other = json.dumps(paper | {"guided": True, "max_gen_toks": 40})
    assert leaderboard._unusual(other) == "guided, max_gen_toks 40"
    assert leaderboard.build({"A": runs[0] / "A"})[0].note == "chat_template false"


def test_amazon_is_pooled_and_synthetic_counts_every_source_alike(runs):
    folder, made, _ = runs
    row = leaderboard.build({"A": folder / "A"})[0]
    of = {task: values["acc,none"] for task, values in made["A"]["results"].items()}
    amazon = [of[f"usermirror_{name}"] for name in AMAZON]
    assert row.acc["amazon"].value == pytest.approx(sum(amazon) / 4)
    assert row.acc["synthetic"].value == pytest.approx(
        (sum(amazon) + of["usermirror_movielens"]) / 5
    )


def test_pooled_error_is_that_of_a_weighted_mean_of_independent_means():
    cell = leaderboard.pool([leaderboard.Cell(0.2, 0.1, 10), leaderboard.Cell(0.6, 0.2, 30)])
    assert cell.value == pytest.approx(0.5)
    assert cell.stderr == pytest.approx(math.sqrt((10 * 0.1) ** 2 + (30 * 0.2) ** 2) / 40)


def test_runs_on_other_scenes_or_settings_are_refused(runs, tmp_path):
    folder, _, _ = runs
    data = write_scenes(
        tmp_path / "other.parquet",
        [r for s in ("mind", "movielens", *AMAZON) for r in make_scenes(5, source=s, seed=9)],
    )
    make_run(tmp_path / "C", data, "C", 0.9)
    with pytest.raises(UserError, match="not scored on the same scenes"):
        leaderboard.build({"A": folder / "A", "C": tmp_path / "C"})
    shutil.copytree(folder / "A", tmp_path / "mixed")
    make_run(tmp_path / "mixed", data, "A", 0.9, samples=2)
    with pytest.raises(UserError, match="several settings"):
        leaderboard.build({"A": tmp_path / "mixed"})


def test_missing_results_and_samples_say_what_to_do(runs, tmp_path):
    folder, _, _ = runs
    with pytest.raises(UserError, match="--output_path"):
        results.read_results(tmp_path)
    for file in folder.glob("A/**/results_*.json"):
        shutil.copy(file, tmp_path)
    rows = leaderboard.build({"B": folder / "B", "A": tmp_path})
    assert "--log_samples" in rows[1].note
    assert rows[1].p_value is None


def test_published_rows_are_marked_and_match_their_own_overall():
    rows = leaderboard._published(whole=True)
    assert len(rows) == 18
    assert {r.note for r in rows} == {"as published, not run here"}
    order = published.DOMAINS
    for name, values in published.TABLE_1.items():
        of = dict(zip(order, values, strict=False))
        synthetic = 4 * of["amazon"] + sum(of[d] for d in order if d not in ("mind", "amazon"))
        everything = (
            2 * of["mind"]
            + 2 * of["amazon"]
            + sum(of[d] for d in order if d not in ("mind", "amazon"))
        )
        mean = everything / 10 if name in published.PROPRIETARY else synthetic / 10
        assert mean == pytest.approx(values[-1], abs=0.11), name


def test_published_means_stand_only_beside_means_over_all_sources(runs):
    """The models here were run on six of eleven sources."""
    rows = [r for r in leaderboard.build({"A": runs[0] / "A"}) if r.kind == "published"]
    assert all(set(r.acc) == set(published.DOMAINS) and not r.entropy for r in rows)


def test_command_writes_every_form(runs, tmp_path):
    folder, made, _ = runs
    output = tmp_path / "board"
    result = CliRunner().invoke(
        commands.leaderboard,
        [f"base={folder / 'A'}", f"sft<b>={folder / 'B'}", "-o", str(output)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    lines = list(csv.DictReader(io.StringIO((output / "leaderboard.csv").read_text())))
    cell = next(
        x for x in lines if (x["name"], x["metric"], x["column"]) == ("base", "acc", "mind")
    )
    assert float(cell["value"]) == made["A"]["results"]["usermirror_mind"]["acc,none"]
    assert json.loads((output / "leaderboard.json").read_text())[0]["name"] == "base"
    assert "| 1 | base |" in (output / "leaderboard.md").read_text()
    page = (output / "index.html").read_text()
    assert "sft&lt;b&gt;" in page and "sft<b>" not in page
    assert "http" not in page
    assert yaml.safe_load((output / "README.md").read_text().split("---")[1])["sdk"] == "static"


def test_eval_results_are_what_the_hub_reads(runs):
    folder, made, _ = runs
    run = CliRunner().invoke(
        commands.eval_results, [str(folder / "A"), "--dataset", "me/scenes"], catch_exceptions=False
    )
    entries = parse_eval_result_entries(yaml.safe_load(run.output))
    assert len(entries) == 6
    movielens = next(e for e in entries if e.task_id == "usermirror_movielens")
    assert movielens.value == pytest.approx(
        made["A"]["results"]["usermirror_movielens"]["acc,none"], abs=1e-6
    )
    assert movielens.dataset_id == "me/scenes"
    assert "entropy" in movielens.notes and "chance 0.200" in movielens.notes
    with pytest.raises(UserError, match="--dataset"):
        hub_files.eval_results(results.read_results(folder / "A"))


def test_eval_yaml_names_the_configs_that_the_tasks_load():
    run = CliRunner().invoke(commands.eval_yaml, ["movielens", "amazon_beauty"])
    written = yaml.safe_load(run.output)
    assert "evaluation_framework" not in written  # lm-eval is not among those the Hub accepts
    assert written["tasks"] == [
        {"id": "usermirror_amazon_beauty", "config": "scenes_amazon", "split": "test"},
        {"id": "usermirror_movielens", "config": "scenes_movielens", "split": "test"},
    ]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_page_opens_from_disk_and_sorts_in_a_browser(runs, tmp_path):
    folder, _, _ = runs
    rows = leaderboard.build({"base": folder / "A", "sft": folder / "B"})
    click = (
        "<script>const h=[...document.querySelectorAll('#board th')];"
        "const t=h.find(x=>x.textContent.trim()==='mind');t.firstChild.click();"
        "const read=()=>[...document.querySelectorAll('#board tbody tr')]"
        ".map(r=>parseFloat(r.cells[h.indexOf(t)].textContent));"
        "const down=read();t.firstChild.click();"
        "document.body.id=JSON.stringify([down,read()]);</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(leaderboard.to_html(rows) + click)
    dom = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = dom.split('<body id="')[1].split('"')[0]
    down, up = json.loads(found)
    assert len(down) == len(rows)
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)

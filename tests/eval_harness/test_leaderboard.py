"""From lm_eval's files to a ranking: the numbers survive, and unlike runs are never mixed."""

import csv
import io
import json
import math
import re
import shutil
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import parse_eval_result_entries
from lm_eval.loggers import EvaluationTracker

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import FIELDS, answer
from usermirrorer.builders.scenes.presets import PAPER
from usermirrorer.eval_harness import (
    commands,
    hub_files,
    leaderboard,
    leaderboard_forms,
    metrics,
    published,
    results,
)
from usermirrorer.model_cards import model_card

from .fixtures import evaluate, make_scenes, write_scenes
from .test_task import Scripted

THOUGHT = "\n".join(["Thought:", *(f"{name}: because" for name in FIELDS)])
TASKS = ["usermirror_mind", "usermirror_movielens", "usermirror_amazon_*"]
AMAZON = ("amazon_fashion", "amazon_beauty", "amazon_grocery", "amazon_office")


def make_run(folder, dataset, label, confidence, tasks=TASKS, **options):
    """Run lm_eval with a model that always answers `label`, and save as its command line does."""
    rest = (1 - confidence) / 4
    score = [confidence if x == label else rest for x in "ABCDE"]
    lm = Scripted(lambda *_: answer(label, THOUGHT), lambda _: score)
    result = evaluate(lm, tasks, dataset, chat=False, **options)
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
    rows = [row for s, n in sizes.items() for row in make_scenes(n, source=s, per_user=2)]
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


def two_runs(folder, tmp_path, **settings):
    """Two result files of one model, the older (0.1) read last; the newer has other settings."""
    (file,) = folder.glob("A/**/results_*.json")
    run = json.loads(file.read_text())
    for name, age, value in (("results_3.json", 10, 0.1), ("results_2.json", 20, 0.7)):
        run["date"] = age
        run["results"]["usermirror_mind"]["acc,none"] = value
        (tmp_path / name).write_text(json.dumps(run))
        run["configs"]["usermirror_mind"]["metadata"] |= settings
    return tmp_path


def test_of_equal_runs_the_newest_counts(runs, tmp_path):
    scores = results.read_results(two_runs(runs[0], tmp_path))
    assert {s.task: s.value for s in scores if s.metric == "acc"}["usermirror_mind"] == 0.7


@pytest.mark.parametrize("turned", [False, True])
def test_a_card_shows_the_newest_run_whatever_its_settings(runs, tmp_path, turned):
    scores = results.read_results(two_runs(runs[0], tmp_path, samples=9))
    both = [s for s in scores if s.metric == "acc" and s.task == "usermirror_mind"]
    assert {s.value for s in both} == {0.1, 0.7}
    rows = results.card_rows(reversed(scores) if turned else scores, "me")
    (row,) = [r for r in rows if (r["task"], r["metric"]) == ("usermirror_mind", "acc")]
    assert (row["value"], row["date"]) == (0.7, 20)


def test_models_are_ranked_and_tested_on_the_same_scenes(runs):
    folder, made, _ = runs
    board = leaderboard.build({"second": folder / "B", "first": folder / "A"})
    first, second = [r for r in board.rows if r.kind == "model"]
    assert (first.name, second.name) == ("first", "second")
    assert first.p_value is None
    assert second.p_value < 0.01
    total = sum(t["sample_len"] for t in made["A"]["results"].values())
    for metric in ("acc", "acc_over_placebo"):
        values = made["A"]["results"].values()
        overall = sum(t[f"{metric},none"] * t["sample_len"] for t in values) / total
        assert first.cell(metric).value == pytest.approx(overall)
    p = [0.96, *[0.01] * 4]
    assert first.cell("entropy").value == pytest.approx(-sum(x * math.log2(x) for x in p))
    baselines = [r.name for r in board.rows if r.kind == "baseline"]
    assert baselines == ["chance", "collaborative", "most popular"]


def test_p_values_are_corrected_for_the_number_of_models(runs):
    """The same two models against the best: each p-value is twice that of one alone."""
    folder, _, _ = runs
    one = leaderboard.build({"A": folder / "A", "B": folder / "B"}).rows[1].p_value
    two = leaderboard.build({"A": folder / "A", "B": folder / "B", "C": folder / "B"}).rows[1:3]
    assert [row.p_value for row in two] == pytest.approx([2 * one] * 2)


def test_intervals_are_the_same_in_tables_drawings_files_and_cards(runs):
    """That of `metrics.interval`, everywhere: nothing draws one of another width."""
    folder, _, _ = runs
    scores = results.read_results(folder / "A")
    board = leaderboard.build({"A": folder / "A"})
    cell = board.rows[0].cell("acc_over_placebo", "movielens")
    low, high = metrics.interval(cell.value, cell.stderr, cell.users, "difference")
    assert cell.users == 10 and low < cell.value < high
    lines = list(csv.DictReader(io.StringIO(leaderboard_forms.to_csv(board))))
    line = next(x for x in lines if (x["metric"], x["column"]) == ("acc_over_placebo", "movielens"))
    assert (float(line["low"]), float(line["high"])) == pytest.approx((low, high))
    told = f"{100 * cell.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert told in leaderboard_forms.to_markdown(board)
    page = leaderboard_forms.to_html(board)
    assert told in page
    drawing = page.split('aria-label="Accuracy minus placebo on movielens"')[1].split("</svg>")[0]
    zero = float(re.search(r'class="axis" x1="([\d.]+)"', drawing)[1])
    bar = re.search(r'<rect class="bar hue0" x="([\d.]+)".*? width="([\d.]+)"', drawing)
    line = re.search(r'class="error" x1="([\d.]+)" x2="([\d.]+)"', drawing)
    scale = float(bar[2]) / abs(cell.value)  # of the drawing: places per unit of accuracy
    ends = [(float(line[i]) - zero) / scale for i in (1, 2)]
    assert ends == pytest.approx([low, high], abs=0.2 / scale)
    rows = results.card_rows(scores, "A")
    (row,) = [
        r for r in rows if (r["task"], r["metric"]) == ("usermirror_movielens", "acc_over_placebo")
    ]
    assert (row["lower"], row["upper"]) == pytest.approx((low, high))


def test_a_row_notes_where_its_settings_are_not_the_papers(runs):
    paper = {"samples": 5, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 512}
    paper["chat_template"] = True
    assert leaderboard._unusual(json.dumps(paper)) == ""
    other = json.dumps(paper | {"guided": True, "max_gen_toks": 40})
    assert leaderboard._unusual(other) == "guided, max_gen_toks 40"
    assert leaderboard._unusual(json.dumps(paper | {"ablations": False})) == "ablations false"
    assert leaderboard.build({"A": runs[0] / "A"}).rows[0].note == "chat_template false"


def test_amazon_is_pooled_and_synthetic_counts_every_source_alike(runs):
    folder, made, _ = runs
    row = leaderboard.build({"A": folder / "A"}).rows[0]
    of = {task: values["acc,none"] for task, values in made["A"]["results"].items()}
    amazon = [of[f"usermirror_{name}"] for name in AMAZON]
    assert row.cell("acc", "amazon").value == pytest.approx(sum(amazon) / 4)
    assert row.cell("acc", "synthetic").value == pytest.approx(
        (sum(amazon) + of["usermirror_movielens"]) / 5
    )


def test_pooled_error_is_that_of_a_weighted_mean_of_independent_means():
    cells = [leaderboard.Cell(0.2, 0.1, 10, 4), leaderboard.Cell(0.6, 0.2, 30, 5)]
    cell = leaderboard.pool(cells)
    assert cell.users == 9
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
    rows = leaderboard.build({"B": folder / "B", "A": tmp_path}).rows
    assert "--log_samples" in rows[1].note
    assert rows[1].p_value is None


def test_published_rows_are_marked_and_match_their_own_overall():
    rows = leaderboard._published(set(PAPER))
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


def test_published_means_stand_only_beside_means_over_the_same_sources():
    rows = leaderboard._published({"mind", "movielens"})
    columns = {frozenset(column for cells in r.cells.values() for column in cells) for r in rows}
    assert columns == {frozenset(published.DOMAINS)}


def test_published_rows_stand_only_beside_the_papers_exposures(runs, tmp_path):
    folder, _, _ = runs
    names = {r.kind for r in leaderboard.build({"A": folder / "A"}).rows}
    assert names == {"model", "baseline"}
    rows = [r | {"exposure_mode": "paper"} for r in make_scenes(4)]
    data = write_scenes(tmp_path / "paper.parquet", rows)
    make_run(tmp_path / "P", data, "P", 0.9, tasks=["usermirror-paper_movielens"])
    board = leaderboard.build({"P": tmp_path / "P"}, "usermirror-paper")
    assert sum(r.kind == "published" for r in board.rows) == 18


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
    assert json.loads((output / "leaderboard.json").read_text())["rows"][0]["name"] == "base"
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
    accuracy = made["A"]["results"]["usermirror_movielens"]["acc,none"]
    assert movielens.value == round(accuracy, 6)
    assert movielens.dataset_id == "me/scenes"
    assert movielens.notes.startswith("accuracy minus chance ")
    assert "entropy" in movielens.notes and "chance 0.200" in movielens.notes
    with pytest.raises(UserError, match="--dataset"):
        hub_files.eval_results(results.card_rows(results.read_results(folder / "A"), "A"))


def test_card_and_command_write_the_same_eval_results(runs, tmp_path):
    """One writer: the same digits, the same tasks, whichever way the file is made."""
    from tests.model_cards.test_model_card import RUN

    folder, _, data = runs
    direct = ["usermirror-direct_movielens"]
    shutil.copytree(folder / "A", tmp_path / "A")
    make_run(tmp_path / "A", data, "A", 0.9, tasks=direct)
    run = CliRunner().invoke(commands.eval_results, [str(tmp_path / "A"), "--dataset", "me/scenes"])
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "train_run.json").write_text(json.dumps(RUN))
    rows = results.card_rows(results.read_results(tmp_path / "A"), "me/model")
    model_card.write(
        tmp_path / "card", scores=rows, dataset={"id": "me/scenes"}, repo_id="me/model", version=""
    )
    assert (tmp_path / "card" / hub_files.RESULTS_FILE).read_text() == run.output
    assert "task_id: usermirror-direct_movielens" in run.output


def test_eval_yaml_names_the_configs_that_the_tasks_load():
    run = CliRunner().invoke(commands.eval_yaml, ["movielens", "amazon_beauty", "--paper"])
    written = yaml.safe_load(run.output)
    assert "evaluation_framework" not in written  # lm-eval is not among those the Hub accepts
    tasks = {task["id"]: task["config"] for task in written["tasks"]}
    assert tasks == {
        "usermirror_amazon_beauty": "scenes_amazon",
        "usermirror_movielens": "scenes_movielens",
        "usermirror-direct_amazon_beauty": "scenes_amazon",
        "usermirror-direct_movielens": "scenes_movielens",
        "usermirror-paper_amazon_beauty": "paper_amazon",
        "usermirror-paper_movielens": "paper_movielens",
        "usermirror-paper-direct_amazon_beauty": "paper_amazon",
        "usermirror-paper-direct_movielens": "paper_movielens",
    }


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_page_opens_from_disk_and_sorts_in_a_browser(runs, tmp_path):
    folder, _, _ = runs
    board = leaderboard.build({"base": folder / "A", "sft": folder / "B"})
    click = (
        "<script>const h=[...document.querySelectorAll('#board th')];"
        "const t=h.find(x=>x.textContent.trim()==='mind');t.firstChild.click();"
        "const read=()=>[...document.querySelectorAll('#board tbody tr')]"
        ".map(r=>parseFloat(r.cells[h.indexOf(t)].textContent));"
        "const down=read();t.firstChild.click();"
        "document.body.id=JSON.stringify([down,read()]);</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(leaderboard_forms.to_html(board) + click)
    dom = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = dom.split('<body id="')[1].split('"')[0]
    down, up = json.loads(found)
    assert len(down) == 2
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)


def test_logged_lists_lead_whatever_their_domain_and_the_page_says_who_learnt_nothing(tmp_path):
    """Here Steam's lists are the logged ones; the model answers A whatever the person is like."""
    logged = {"exposure_mode": "logged", "real_exposure": True}
    rows = [*make_scenes(12), *(row | logged for row in make_scenes(12, source="steam"))]
    data = write_scenes(tmp_path / "scenes.parquet", rows)
    make_run(tmp_path / "A", data, "A", 0.9, tasks=["usermirror_movielens", "usermirror_steam"])
    board = leaderboard.build({"A": tmp_path / "A"})
    assert (board.domains, board.logged) == (["steam", "movielens"], ["steam"])
    headline, *_ = leaderboard_forms.tables(board)
    assert headline.head[2:5] == ["steam", "overall", "synthetic"]
    row = board.rows[0]
    synthetic = row.cell("acc_over_placebo", "synthetic")
    assert synthetic == row.cell("acc_over_placebo", "movielens")
    assert row.verdict == "no taste learnt" and row.verdict in headline.body[0]
    assert "<b>A</b> has learnt no taste" in leaderboard_forms.to_html(board)
    assert "25 % less than a minute" in headline.text and "logged" in headline.text

"""The package's plans and published numbers, and what the command says before it runs anything."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner

from tests.product import ROOT
from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.record import all_warm_up
from usermirrorer.recipes.reproduce.cells import KINDS
from usermirrorer.recipes.reproduce.commands import reproduce
from usermirrorer.recipes.reproduce.estimates import needed_parts
from usermirrorer.recipes.reproduce.parts import Parts
from usermirrorer.recipes.reproduce.plan import SCALES, read
from usermirrorer.recipes.reproduce.published import printed
from usermirrorer.recipes.reproduce.runner import Run

ITEMS = {"figure2", "figure3", "table5", "table6", "table1", "figure5", "table2", "figure6"}
ITEMS |= {"figure7", "table10", "table11", "table12", "table13", "table14", "table3", "table9"}
ITEMS |= {"table7"}


def asked(*words: str):
    return CliRunner().invoke(reproduce, words)


@pytest.mark.parametrize("scale", SCALES)
def test_every_item_of_the_paper_has_a_plan_at_every_scale(scale):
    plan = read(scale)
    assert set(plan.items) == ITEMS
    for item in plan.items.values():
        assert item.needs and item.page["kind"] in KINDS and item.title and item.section


@pytest.mark.parametrize("scale", SCALES)
def test_a_dry_run_prints_every_command_and_names_what_is_missing(scale, tmp_path):
    plan, done = read(scale), asked("all", "--scale", scale, "--dry-run", "--out", str(tmp_path))
    for name in plan.closure(n for item in plan.items.values() for n in item.needs):
        assert f"\n{name} [to run]" in f"\n{done.output}"
    if scale == "tiny":
        assert done.exit_code == 0, done.output
    else:
        assert isinstance(done.exception, UserError)
        assert "missing: data kuairec, for step scenes-kuairec-" in done.output


@pytest.mark.parametrize("scale", SCALES)
def test_no_run_ends_within_its_warm_up(scale):
    """Or the models that a page compares would be the one they started from."""
    read_steps = 0
    for step in read(scale).steps.values():
        # Of a flag that is given twice, the last.
        said = dict(zip(step.words, step.words[1:], strict=False))
        if "--config" not in said:
            continue
        config = yaml.safe_load((ROOT / said["--config"]).read_text())
        steps = int(said.get("--max_steps", -1))
        warm_up = int(said.get("--warmup_steps", config.get("warmup_steps", 0)))
        assert steps < 1 or not all_warm_up(steps, warm_up), step.name
        read_steps += 1
    assert read_steps > 20


def test_items_of_the_same_runs_share_their_steps():
    plan = read("tiny")
    steps = {n: set(plan.closure(plan.items[n].needs)) for n in ("table1", "table12", "table13")}
    scores = {name for name in steps["table1"] if name.startswith("score-")}
    assert scores and scores <= steps["table12"] and scores <= steps["table13"]


@pytest.mark.parametrize("scale", SCALES)
def test_no_step_mixes_the_paper_s_exposures_with_the_default_ones(scale):
    """Or the placebo beside a number would be of other models and scenes."""
    plan = read(scale)
    modes = plan.values["exposures"]
    for step in plan.steps.values():
        mode = step.name.rpartition("-")[2]
        taken = {need.rpartition("-")[2] for need in step.needs}
        assert mode not in modes or taken <= {mode}, step.name


def test_missing_data_names_the_item_and_the_step_and_the_rest_goes_on(plans, tmp_path):
    (plans / "items" / "all3.yaml").write_text("needs: [raw, right]\npage: {kind: sweep}\n")
    done = asked("all3", "--plans", str(plans), "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, UserError)
    told = str(done.exception)
    assert "item all3" in told and "raw" in told and "data movielens is missing" in told
    assert done.output.index("warning: data movielens is missing") < done.output.index("  right")
    assert list((tmp_path / "out" / "steps").glob("right-*/text"))
    assert (tmp_path / "out" / "pages" / "all3" / "index.html").exists()


def test_a_missing_environment_of_recommenders_is_told_where_an_item_needs_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("USERMIRRORER_RECSYS", str(tmp_path / "nowhere"))
    plan = read("tiny")
    run = Run(plan, Parts(plan, None, tmp_path), tmp_path, lambda line: None)
    (part,) = [part for part in needed_parts(run, ["table3"]) if not part.here]
    assert part.target == "environment:recommenders" and "--setup-recsys" in part.fix
    assert all(part.here for part in needed_parts(run, ["table6"]))
    assert "./quickstart --setup-recsys" in asked("--list", "--out", str(tmp_path)).output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["table99"], "no item is called 'table99'"),
        (["table1", "--set", "speed=9"], "has no value 'speed'"),
        (["table1", "--set", "samples=many"], "--set: samples is a whole number, not 'many'"),
        (["table1", "--set", "samples=["], "--set: '[' of samples is not YAML"),
        (["table1", "--set", "sources=steam"], "--set: sources is a list, not 'steam'"),
        (["table1", "--set", "sources=[stream]", "--dry-run"], "there is no source 'stream'"),
        (["table1", "--model", "weak"], "is not NAME=VALUE"),
        (["table1", "--model", "wek=x"], "no model in the role 'wek'. Roles are weak, teacher,"),
        (["table1", "--model", "weak=/none/x", "--dry-run"], "1 parts are missing: model:weak"),
        (["table1", "--scale", "huge"], "no scale is called 'huge'. Choose from paper, small,"),
        (["table1", "--dry-run", "--rate", "weak=fast"], "is not MODEL=NUMBER"),
    ],
)
def test_a_wrong_word_is_one_line(words, told, tmp_path):
    done = asked(*words, "--out", str(tmp_path))
    assert isinstance(done.exception, UserError) and told in str(done.exception)


def test_an_endpoint_is_one_more_row_of_table_1():
    plan = read("tiny", changed={"endpoints": ["gpt"]}, models={"gpt": "http://127.0.0.1:1/v1"})
    words = " ".join(plan.steps["ask-gpt-paper"].words)
    assert "local-chat-completions" in words and "model=gpt" in words
    assert "ask-gpt-paper" in plan.items["table1"].needs


def test_the_printed_tokens_add_up_to_their_printed_sum():
    """Table 5: totals are in millions, rounded to one digit."""
    rows = dict(printed("table5")["rows"])
    whole = rows.pop("all")
    for column in (0, 2, 4, 6, 8):
        total = sum(row[column] for row in rows.values())
        assert total == pytest.approx(whole[column], abs=0.6 if column else 0)
    for scenes, average, total, *_ in rows.values():
        assert total == pytest.approx(scenes * average / 1e6, abs=0.06)


def test_the_printed_strategies_are_those_that_distil_has():
    from usermirrorer.builders.distil.strategies import STRATEGIES

    rows = printed("table2")["rows"]
    assert set(rows) == set(STRATEGIES) | {"base"}
    # The last row is the SFT+DPO row of Table 1, the first its untrained model.
    from usermirrorer.eval_harness.published import TABLE_1

    assert rows["delta_eu"][::2] == [TABLE_1["Llama-3.2-3B +SFT+DPO"][i] for i in (0, -1)]
    assert rows["base"][::2] == [TABLE_1["Llama-3.2-3B-Instruct"][i] for i in (0, -1)]

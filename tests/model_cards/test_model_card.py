"""Model cards: all from the run and its scores, valid for the Hub, safe against item text."""

from __future__ import annotations

import copy
import html
import itertools
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt

from usermirrorer.builders.common.errors import UserError
from usermirrorer.model_cards import model_card

REPO = "someone/simulator"
RUN = {
    "key": "0",
    "schema": 1,
    "stage": "dpo",
    "mode": "decision",
    "method": "LoRA",
    "adapter_only": False,
    "license": "apache-2.0",
    "base_model": {"name": "some/base", "revision": "main", "lineage": [{"stage": "sft"}]},
    "data": {
        "name": "usermirrorer/mixed",
        "local": False,
        "kind": "preference",
        "revision": "v1.0.0",
        "split": "train",
        "fingerprint": "0123456789abcdef",
        "rows": 9876,
        "rotations": 1,
        "dropped": 0,
        "domains": {"movielens": 6000, "steam": 3876},
    },
    "hyperparameters": {"learning rate": 5e-05, "beta": 0.1, "LoRA rank": 16},
    "settings": {},
    "results": {
        "steps": 617,
        "epochs": 1.0,
        "first_loss": 0.6931,
        "final_loss": 0.4242,
        "seconds": 3723.0,
        "tokens": 1234567,
        "tokens_per_second": 331.6,
        "peak_memory_bytes": 3 * 2**30,
        "parameters": 135_000_000,
        "trained_parameters": 4_884_480,
    },
    "curve": [{"step": 1, "loss": 0.6931}, {"step": 617, "loss": 0.4242}],
    "hardware": {
        "device": "Chip",
        "kind": "CPU",
        "processes": 1,
        "threads": 2,
        "memory_bytes": 2**34,
    },
    "versions": {"trl": "1.16.0"},
    "code": "abc",
    "finished": "2025-01-01T00:00:00+00:00",
}
DATASET = {
    "id": "usermirrorer/mixed",
    "commit": "5503434ddd753f426f4b38109466949a1217c2bb",
    "licence": "cc-by-sa-4.0",
    "sources": [{"title": "MovieLens", "licence": "research only"}],
}


def score(model: str, task: str, metric: str, value: float, width: float = 0.03) -> dict:
    row = {"model": model, "task": f"usermirror_{task}", "metric": metric, "value": value}
    return row | {"stderr": width / 1.96, "n": 640, "lower": value - width, "upper": value + width}


SCORES = [
    score(REPO, "movielens", "acc", 0.4567),
    score(REPO, "steam", "acc", 0.3111),
    score("some/base", "movielens", "acc", 0.2),
    score("most popular", "movielens", "acc", 0.415),
    score("most popular", "steam", "acc", 0.37),
    score(REPO, "movielens", "entropy", 1.2346),
    score(REPO, "movielens", "ece", 0.0987),
    score(REPO, "movielens", "style_share", 0.5),
]


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "train_run.json").write_text(json.dumps(RUN))
    return tmp_path


def render(run_dir, scores=None, dataset=None, *, repo_id=REPO, version="v1.0.0", run=RUN):
    (run_dir / "train_run.json").write_text(json.dumps(run))
    return model_card.render(
        run_dir, scores=scores, dataset=dataset, repo_id=repo_id, version=version
    )


def test_metadata_is_what_the_hub_reads(run_dir):
    card = ModelCard(render(run_dir, SCORES, DATASET))
    assert card.data.base_model == "some/base" and card.data.datasets == "usermirrorer/mixed"
    assert card.data.library_name == "transformers" and card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "text-generation"
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == REPO
    assert {(r.task_name, r.metric_value) for r in results} == {
        ("usermirror_movielens", 0.4567),
        ("usermirror_steam", 0.3111),
    }
    assert {r.dataset_revision for r in results} == {DATASET["commit"]}


def test_a_licence_that_the_hub_does_not_know_is_named(run_dir):
    text = render(run_dir, run=RUN | {"license": "other:qwen-research"})
    data = ModelCard(text).data
    assert data.license == "other" and data.license_name == "qwen-research"
    assert "Weights: qwen-research." in text
    assert "## Licence" not in render(run_dir, run=RUN | {"license": None})


def test_eval_results_are_read_back_by_the_hubs_own_parser(run_dir):
    model_card.write(run_dir, scores=SCORES, dataset=DATASET, repo_id=REPO, version="v1.0.0")
    rows = yaml.safe_load((run_dir / ".eval_results" / "usermirror.yaml").read_text())
    entries = parse_eval_result_entries(rows)
    assert [(e.dataset_id, e.task_id, e.value) for e in entries] == [
        ("usermirrorer/mixed", "usermirror_movielens", 0.4567),
        ("usermirrorer/mixed", "usermirror_steam", 0.3111),
    ]


def test_every_number_of_run_and_scores_is_there_with_its_interval(run_dir):
    text = render(run_dir, SCORES, DATASET)
    assert text == render(run_dir, SCORES, DATASET, version="1.0.0")
    for shown in (
        *("45.7 % (42.7 to 48.7)", "41.5 %", "20.0 %", "1.235 (1.205 to 1.265)", "0.099"),
        *("1,234,567", "1.03 h", "617", "4,884,480 of 135,000,000", "5e-05", "3.00 GiB"),
        *("60.8 %", "0.6931 to 0.4242", "v1.0.0", "SFT, then DPO"),
    ):
        assert shown in text, shown
    assert "on 1 of 2 tasks" in text  # above every comparison on movielens, not on steam


def test_baselines_that_come_as_metrics_stand_beside_the_model(run_dir):
    rows = [
        score(REPO, "movielens", "acc", 0.35),
        score(REPO, "movielens", "acc_popular", 0.43, 0.02),
        score("some/base", "movielens", "acc_popular", 0.43, 0.02),
        score(REPO, "movielens", "acc_at_B", 0.25),
    ]
    rows.append(rows[0] | {"task": "usermirror-direct_movielens", "value": 0.36})
    text = render(run_dir, rows, DATASET)
    assert "| Task | Metric | This model | most popular | Scenes |" in text
    assert "| movielens | Accuracy | 35.0 % (32.0 to 38.0) | 43.0 % (41.0 to 45.0) | 640 |" in text
    assert "on 0 of 1 tasks" in text and "| movielens (direct) |" in text
    assert "real behavior at B | 25.0 %" in text
    _, results = model_index_to_eval_results(ModelCard(text).data.to_dict()["model-index"])
    assert {(r.dataset_config, r.metric_value) for r in results} == {
        ("scenes_movielens", 0.35),
        ("scenes_movielens", 0.36),
    }


def difference(metric: str, value: float, low: float, high: float, **facts) -> dict:
    row = score(REPO, "movielens", metric, value) | {"lower": low, "upper": high, "users": 94}
    return row | {"facts": {"reference": "placebo", **facts}}


def results_of(text: str) -> str:
    return text.partition("## Results")[2].partition("## Training data")[0]


def test_a_card_leads_with_accuracy_minus_placebo_and_what_the_history_is_worth(run_dir):
    facts = {"exposure_modes": {"exchangeable": 640}, "gaps": {"minute": 480, "day": 160}}
    rows = [
        score(REPO, "movielens", "acc", 0.397) | {"facts": facts, "users": 94},
        difference("acc_over_placebo", 0.185, 0.15, 0.22),
        difference("acc_loss_no_history", 0.209, 0.17, 0.25),
        difference("acc_loss_swapped", 0.202, 0.16, 0.24),
        score(REPO, "movielens", "acc_placebo", 0.212),
        score(REPO, "movielens", "acc_no_history_learned", 0.28),
        score(REPO, "movielens", "acc_gap_day", 0.295),
    ]
    text = results_of(render(run_dir, rows, DATASET))
    assert text.index("this model reads the history: it loses 20.9") < text.index("| Task |")
    assert "Accuracy minus placebo comes first" in text
    lines = [line for line in text.splitlines() if line.startswith("| movielens |")]
    assert lines[0].startswith(
        "| movielens | Accuracy minus placebo | +18.5 points (+15.0 to +22.0) |"
    )
    assert lines[1].startswith("| movielens | Accuracy | 39.7 % (36.7 to 42.7) | 28.0 %")
    assert "640 scenes of 94 users; exposures: exchangeable" in text
    assert "75 % less than a minute, 25 % 1 to 24 hours" in text
    assert "Accuracy, 1 to 24 hours after the history | 29.5 %" in text


def test_a_card_says_that_no_taste_was_learnt_or_that_it_is_not_known(run_dir):
    nothing = [
        score(REPO, "movielens", "acc", 0.398),
        difference("acc_over_placebo", 0.003, -0.02, 0.02),
        difference("acc_loss_no_history", 0.004, -0.01, 0.02),
        difference("acc_loss_swapped", -0.012, -0.03, 0.01),
    ]
    text = results_of(render(run_dir, nothing, DATASET))
    assert text.index("**On movielens this model has learnt no taste") < text.index("| Task |")
    off = [score(REPO, "movielens", "acc", 0.4) | {"facts": {"ablations": False}}]
    assert "**On movielens the ablations were turned off.**" in render(run_dir, off, DATASET)


def test_a_base_model_that_is_a_changed_copy_is_told_as_such(run_dir):
    base = {"name": "some/base", "folder": "f", "taken_as": "Base (4-bit, widened)"}
    text = render(run_dir, run=RUN | {"base_model": base})
    assert "It is some/base, taken as Base (4-bit, widened), after DPO" in text
    assert ModelCard(text).data.base_model == "some/base"


def test_intervals_stay_within_what_a_share_can_be_and_are_left_out_where_they_say_nothing(run_dir):
    rows = [score(REPO, "movielens", "acc", 0.02), score(REPO, "steam", "acc", 1.0, 0.0)]
    text = render(run_dir, rows, DATASET)
    assert "| 2.0 % (0.0 to 5.0) |" in text and "| 100.0 % |" in text


def test_energy_is_told_with_how_it_is_known(run_dir):
    def told(energy: dict | None, machines: int = 1) -> str:
        changed = copy.deepcopy(RUN)
        changed["hardware"]["machines"] = machines
        if energy:
            changed["results"]["energy"] = energy
        return re.search(r"\| Energy \| (.*) \|", render(run_dir, run=changed))[1]

    meters = {"joules": 7.2e6, "measured": ["CPU packages", "GPUs"]}
    assert told(meters).startswith("2 kWh, measured: CPU packages and GPUs")
    assert told(meters, machines=2).endswith("on the first of 2 machines")
    assert told({"joules": 3.6e5, "watts": 180}).startswith("0.1 kWh, reckoned as time at 180 W")
    assert told(None).startswith("not measured")


def test_emissions_are_in_the_header_by_the_hubs_own_field_and_in_the_table(run_dir):
    assert "co2_eq_emissions" not in ModelCard(render(run_dir)).data.to_dict()
    changed = copy.deepcopy(RUN)
    changed["results"]["energy"] = {"joules": 3.6e6, "watts": 180}
    co2 = {"grams": 381.0, "country": "DEU", "grams_per_kwh": 381.0, "source": "codecarbon 3"}
    changed["results"]["co2"] = co2
    text = render(run_dir, run=changed)
    told = ModelCard(text).data.to_dict()["co2_eq_emissions"]
    assert (told["emissions"], told["geographical_location"]) == (381.0, "DEU")
    assert "| Emissions | 381 g of CO2 equivalents, at 381 g a kWh of the grid of DEU" in text


def test_a_card_links_to_the_page_of_the_paper(run_dir):
    assert "https://arxiv.org/abs/2508.18142" in render(run_dir)


def test_other_numbers_make_another_card(run_dir):
    changed = copy.deepcopy(RUN)
    changed["results"]["steps"] = 618
    assert render(run_dir) != render(run_dir, run=changed)


def test_a_model_without_scores_says_so_and_shows_no_empty_section(run_dir):
    text = render(run_dir)
    assert "has not been scored" in text
    for title in ("Confidence", "Calibration", "Other metrics", "accuracy.png"):
        assert title not in text
    assert "model-index" not in text
    headings = re.findall(r"^#+ .*$", text, re.M)
    for first, second in itertools.pairwise(headings):
        between = text.partition(first)[2].partition(second)[0]
        assert between.strip() or second.startswith(first.split()[0] + "#"), first


def test_figures_that_the_card_shows_are_written_with_alt_text(run_dir):
    path = model_card.write(run_dir, scores=SCORES, dataset=DATASET, repo_id=REPO, version="")
    shown = re.findall(r"!\[(.+?)\]\((.+?)\)", path.read_text())
    assert {name for _, name in shown} == {"figures/accuracy.png", "figures/loss.png"}
    for alt, name in shown:
        assert len(alt) > 20
        assert (run_dir / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "evil",
    [
        "a | b",
        "</td><script>alert(1)</script>",
        "x](javascript:y) ![z](http://e)",
        "\n# Heading",
        "`$x$`",
    ],
)
def test_text_from_data_cannot_break_the_markdown(run_dir, evil):
    changed = copy.deepcopy(RUN)
    changed["data"]["domains"] = {evil: 10, "steam": 20}
    changed["data"]["name"] = evil
    plain = page(render(run_dir, SCORES))
    evil_page = page(render(run_dir, [*SCORES, score(evil, "steam", evil, 0.1)], run=changed))
    for tag in ("<script", "<a ", "<h1", "<img", "<code"):
        assert evil_page.count(tag) == plain.count(tag), tag
    rows = re.findall(r"<tr>(.*?)</tr>", evil_page, re.S)
    named = [row for row in rows if "33.3 %" in row]
    assert len(named) == 1 and named[0].count("<td>") == 3
    assert html.escape(" ".join(evil.split())) in named[0]


def page(text: str) -> str:
    """Return the HTML of a card's body, as a Markdown reader shows it."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---", 2)[2])


def test_scores_of_other_models_or_without_columns_are_refused(run_dir):
    with pytest.raises(UserError, match="none of this model"):
        render(run_dir, [score("other", "steam", "acc", 0.1)])
    with pytest.raises(UserError, match="lacks n"):
        render(run_dir, [{k: v for k, v in SCORES[0].items() if k != "n"}])


@pytest.mark.parametrize(("repo_id", "version"), [("a b", ""), ("a/b", 'v1"); evil("')])
def test_what_goes_into_code_blocks_is_checked(run_dir, repo_id, version):
    with pytest.raises(UserError):
        render(run_dir, repo_id=repo_id, version=version)

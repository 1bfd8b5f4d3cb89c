"""The documented command, with the real 135M model: raw files of all domains to the leaderboard."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, RepoCard

from usermirrorer.builders.raw import sources
from usermirrorer.eval_harness import results

from . import all_domains
from .test_task import SOURCES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("pygit2")
    out = tmp_path_factory.mktemp("all") / "run"
    page = all_domains.run(out, "smollm2-135m-instruct", "all-minilm-l6-v2", train=1, test=1)
    return out, page


def test_every_task_of_the_family_was_scored_on_the_published_scenes(finished):
    out, _ = finished
    for name in ("base", "sft", "dpo"):
        scores = results.read_results(out / "scores" / name)
        assert {s.source for s in scores} == set(SOURCES)
        assert {s.dataset for s in scores} == {all_domains.REPO}
        assert len({s.dataset_commit for s in scores} - {""}) == 1
        assert all(s.value == 0 for s in scores if s.metric in ("malformed", "entropy_is_estimate"))


def test_the_page_has_a_row_for_base_sft_and_dpo_over_all_domains(finished):
    _, page = finished
    board = json.loads((page.parent / "leaderboard.json").read_text())
    ran = {row["name"]: row for row in board["rows"] if row["kind"] == "model"}
    assert set(ran) == {"base", "sft", "dpo"}
    assert board["domains"][0] == "mind" and set(board["domains"]) == set(sources.domains())
    for row in ran.values():
        assert set(board["domains"]) < set(row["cells"]["acc_over_placebo"])
        # One scene of each source: too few for an interval, and so for a verdict.
        assert row["verdict"] == "not known"
    assert sum(row["p_value"] is not None for row in ran.values()) == 2
    if shutil.which("chromium"):
        assert shown(page) == list(ran)


def shown(page):
    """Names in the table as headless Chromium builds it from the file."""
    code = page.read_text() + (
        "<script>document.body.id=JSON.stringify([...document.querySelectorAll("
        "'#board tbody tr')].map(r=>r.cells[1].textContent))</script>"
    )
    copy = page.with_name("read.html")
    copy.write_text(code)
    dom = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    return json.loads(dom.split('<body id="')[1].split('"')[0].replace("&quot;", '"'))


def test_the_hub_serves_the_page_and_registers_the_tasks_that_were_scored(finished, tmp_path):
    from usermirrorer.hub.local import running

    out, page = finished
    with running(out / "hub") as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        card = RepoCard.load(
            api.hf_hub_download(
                all_domains.SPACE, "README.md", repo_type="space", cache_dir=tmp_path
            )
        )
        assert (card.data.sdk, card.data.app_file) == ("static", "index.html")
        served = api.hf_hub_download(
            all_domains.SPACE, "index.html", repo_type="space", cache_dir=tmp_path
        )
        assert Path(served).read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
        registered = api.hf_hub_download(
            all_domains.REPO, "eval.yaml", repo_type="dataset", cache_dir=tmp_path
        )
    wrote = yaml.safe_load(Path(registered).read_text(encoding="utf-8"))
    tasks = {task["id"]: task["config"] for task in wrote["tasks"]}
    families = ("usermirror", "usermirror-direct")  # both can be scored on these scenes
    assert set(tasks) == {f"{family}_{source}" for family in families for source in SOURCES}
    assert tasks["usermirror_amazon_beauty"] == "inspect_amazon_beauty"

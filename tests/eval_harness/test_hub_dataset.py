"""The one command over all domains, with the scenes on a local Hub, to a leaderboard and back."""

import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import HfApi

from usermirrorer.builders.common.assets import model_revision
from usermirrorer.builders.raw import sources
from usermirrorer.eval_harness import leaderboard
from usermirrorer.eval_harness.results import read_results

from .fixtures import TASKS, make_scenes, tiny_model, write_scenes
from .test_task import SOURCES

REPO, MODEL = "usermirrorer/mixed", "usermirrorer/tiny"


def publish(api, folder, rows):
    domains = sorted({row["domain"] for row in rows})
    lines = ["---", "configs:"]
    for domain in domains:
        write_scenes(folder / f"{domain}.parquet", [r for r in rows if r["domain"] == domain])
        lines += [
            f"- config_name: scenes_{domain}",
            "  data_files:",
            "  - split: test",
            f"    path: {domain}.parquet",
        ]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder)


def run(arguments, environment):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def lm_eval(environment, model, output, *more):
    return run(
        [
            "lm_eval", "run", "--model", "hf",
            "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu",
            "--include_path", str(TASKS), "--tasks", "usermirror_*", "--apply_chat_template",
            "--gen_kwargs", "max_gen_toks=12", "--output_path", str(output), "--log_samples",
            *more,
        ],
        environment,
    )  # fmt: skip


@pytest.mark.slow
def test_all_domains_from_one_command_with_a_pinned_revision(tmp_path):
    """The tag's scenes are scored and its commit recorded, though the newest revision differs.

    For a strict run a tag that lacks a domain is an error that names it.
    """
    pytest.importorskip("pygit2")
    from usermirrorer.hub.local import running

    lm = tiny_model()
    model = tmp_path / "tiny"
    lm.model.save_pretrained(model)
    lm.tokenizer.save_pretrained(model)
    rows = [row for source in SOURCES for row in make_scenes(3, source=source, history=1)]
    (tmp_path / "hub").mkdir()
    with running(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        publish(api, tmp_path / "zero", [row for row in rows if row["source"] != "steam"])
        api.create_tag(REPO, tag="v0.9.0", repo_type="dataset")
        publish(api, tmp_path / "one", rows)
        api.create_tag(REPO, tag="v1.0.0", repo_type="dataset")
        commit = api.dataset_info(REPO, revision="v1.0.0").sha
        publish(api, tmp_path / "two", [{**row, "answer": 0} for row in rows])
        assert api.dataset_info(REPO).sha != commit
        environment = hub.environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1"}
        metadata = json.dumps({"dataset_revision": "v0.9.0", "strict": True})
        with pytest.raises(subprocess.CalledProcessError) as failed:
            lm_eval(environment, model, tmp_path / "none", "--metadata", metadata)
        assert "has no config 'scenes_steam'" in failed.value.stderr
        metadata = json.dumps({"dataset_revision": "v1.0.0"})
        lm_eval(environment, model, tmp_path / "run", "--metadata", metadata)
        scores = read_results(tmp_path / "run")
        assert {s.source for s in scores} == set(SOURCES)
        assert {s.dataset_commit for s in scores} == {commit}
        assert {s.n for s in scores} == {3}
        assert {s.model_revision for s in scores} == {model_revision(str(model))}
        board = leaderboard.build({"tiny": tmp_path / "run"})
        assert set(board.domains) == set(sources.domains())
        assert set(board.rows[0].cells["acc"]) == {*board.domains, "overall", "synthetic"}
        at_a = sum(row["answer"] == 0 for row in rows)
        (file,) = (tmp_path / "run").rglob("samples_usermirror_steam_*.jsonl")
        answers = [json.loads(line)["doc"]["answer"] for line in file.open()]
        assert answers == [row["answer"] for row in rows if row["source"] == "steam"]
        assert at_a < len(rows)
        push_results(api, environment, tmp_path / "run")


def push_results(api, environment, folder):
    """The model's page on the Hub shows the scores that lm_eval wrote."""
    api.create_repo(MODEL)
    command = (
        "from usermirrorer.eval_harness.commands import eval_results as c;"
        f"c([{str(folder)!r}, '--push', {MODEL!r}])"
    )
    subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    info = api.model_info(MODEL, expand=["evalResults"])
    shown = {entry.task_id: entry.value for entry in info.eval_results}
    wrote = {s.task: s.value for s in read_results(folder) if s.metric == "acc"}
    assert shown == pytest.approx(wrote, abs=1e-6)

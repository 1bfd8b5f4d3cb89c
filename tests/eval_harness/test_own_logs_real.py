"""Two CSV files to decisions and pairs of the real 135M model, a Hub, `datasets` and `lm_eval`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.hub.conftest import local_hub  # noqa: F401 - a fixture
from usermirrorer.builders.common import assets, storage

from .test_own_logs_chain import write_shop

MODEL = "smollm2-135m-instruct"
REPO = "usermirrorer/my-shop"
SCENES, SAMPLES = 8, 2

LOADED = f"""
from datasets import load_dataset
pairs = load_dataset("{REPO}", revision="v1.0.0", split="train")
scenes = load_dataset("{REPO}", "scenes", revision="v1.0.0", split="test")
print(len(pairs), set(scenes["domain"]), pairs[0]["chosen"][0]["content"][:9])
"""


def told(folder, words, hub=None):
    """Run a command as a user would, in the folder of the files."""
    settings = {**os.environ, **(hub.environment(folder / "home") if hub else {})}
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(
        words, cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (words, done.stderr[-3000:])
    return done.stdout


@pytest.mark.slow
def test_own_logs_are_decided_distilled_released_and_scored_by_the_real_model(
    tmp_path,
    tiny_encoder,
    local_hub,  # noqa: F811
):
    def run(*words, hub=None):
        return told(tmp_path, ("-m", "usermirrorer.recipes.cli", *words), hub)

    write_shop(tmp_path)
    run("new", "my-shop", "--interactions", "log.csv", "--items", "items.csv")
    sizes = ("--preset", "tiny", "--train", SCENES, "--test", 4, "--history", 1, 2)
    run("scenes", "my-shop.yaml", "--out", "scenes", "--embedder", tiny_encoder, *sizes)
    short = ("--samples", SAMPLES, "--max-tokens", 24, "--guided", "--dtype", "float32")
    for name, temperature in (("weak", 1.2), ("strong", 0.7)):
        how = ("--model", MODEL, "--temperature", temperature, "--out", f"{name}.parquet")
        run("decide", "scenes/train.parquet", *how, *short)
    decided = ("--weak", "weak.parquet", "--strong", "strong.parquet")
    run("distil", "scenes/train.parquet", *decided, "--pairs", 1, "--out", "pairs.parquet")
    assert storage.read_table(tmp_path / "pairs.parquet")["domain"].to_pylist() == ["my-shop"]

    (tmp_path / "manifest.json").write_text(json.dumps({"models": [{"role": "weak", "id": MODEL}]}))
    made = ("--preference", "pairs.parquet", "--manifest", "manifest.json", "--allow-tells")
    made += ("--train", "scenes/train.parquet", "--test", "scenes/test.parquet")
    run("release", "build", "release", "--repo", REPO, "--version", "1.0.0", *made)
    run("release", "push", "release", REPO, hub=local_hub)
    loaded = told(tmp_path, ("-c", LOADED), local_hub)
    assert loaded.split() == ["1", "{'my-shop'}", "Thought:"]

    run("release", "pull", REPO, "1.0.0", "pulled", hub=local_hub)
    model = f"pretrained={assets.resolve_model(MODEL)},dtype=float32"
    scored = ("--include_path", "pulled/tasks", "--tasks", "usermirror_my-shop", "--limit", 2)
    scored += ("--gen_kwargs", "max_gen_toks=24")
    scored += ("--metadata", '{"samples": 1, "ablations": false}')
    command = ("-m", "lm_eval", "run", "--model", "hf", "--model_args", model, *scored)
    told(tmp_path, (*command, "--apply_chat_template", "--output_path", "scores"), local_hub)
    (results,) = (tmp_path / "scores").rglob("results_*.json")
    (task,) = json.loads(results.read_text())["results"].values()
    assert 0 <= task["acc,none"] <= 1

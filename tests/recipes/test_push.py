"""A recipe pushes a version that others load by its tag from the Hub that HF_ENDPOINT names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from usermirrorer.hub.local import running

CHECKOUT = Path(__file__).parents[2]
SMALL = [
    *("--bf16", "false", "--report_to", "none", "--gradient_checkpointing", "false"),
    *("--per_device_train_batch_size", "2", "--max_steps", "2", "--logging_steps", "1"),
    *("--use_peft", "true", "--learning_rate", "1e-2", "--push_to_hub", "true"),
]
STAGES = {
    "sft": ["--max_length", "1024"],
    "dpo": ["--max_length", "1024"],
    "grpo": [
        "--max_prompt_length",
        "1024",
        "--num_generations",
        "2",
        "--max_completion_length",
        "8",
    ],
}
UPLOAD = """
import sys
from huggingface_hub import HfApi

folder, repo = sys.argv[1:]
HfApi().create_repo(repo, exist_ok=True)
HfApi().upload_folder(repo_id=repo, folder_path=folder)
"""
LOAD = """
import sys
from huggingface_hub import HfApi, ModelCard
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

repo, kind = sys.argv[1:]
loader = AutoPeftModelForCausalLM if kind == "adapter" else AutoModelForCausalLM
model = loader.from_pretrained(repo, revision="v0.1.0")
tokenizer = AutoTokenizer.from_pretrained(repo, revision="v0.1.0")
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Alien"}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
assert model.generate(**prompt, max_new_tokens=3).shape[1] == prompt["input_ids"].shape[1] + 3
files = HfApi().list_repo_files(repo, revision="v0.1.0")
assert not [name for name in files if "checkpoint" in name or name.endswith((".bin", ".pt"))], files
assert {"README.md", "train_run.json", "figures/loss.png"} <= set(files), files
assert ModelCard.load(repo).data.pipeline_tag == "text-generation"
"""


def client(hub, home: Path, *command: str) -> str:
    """Run a command as a user of the Hub would, in a process of its own; return its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **hub.environment(home)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


PUBLISH = """
import sys
from huggingface_hub import HfApi
from usermirrorer.hub import releases

pairs, folder = sys.argv[1:]
releases.write_release(
    folder, repo_id="usermirrorer/mixed", version="v1.0.0", preference=pairs, scenes={},
    manifest={"inputs": {}, "code": "0", "seeds": {}, "models": []}, redistributable=True,
)
releases.push(folder, "usermirrorer/mixed")
print(HfApi().dataset_info("usermirrorer/mixed", revision="v1.0.0").sha)
"""


@pytest.mark.slow
def test_a_release_is_trained_on_by_hub_id_and_tag(tiny_model, pairs, tmp_path):
    with running(tmp_path / "hub") as hub:
        home = tmp_path / "home"
        commit = client(hub, home, "-c", PUBLISH, str(pairs), str(tmp_path / "release"))
        client(hub, home, "-c", UPLOAD, str(tiny_model), "usermirrorer/base")
        command = ["-m", "usermirrorer.recipes.dpo", *SMALL[:-2], *STAGES["dpo"]]
        command += ["--model_name_or_path", "usermirrorer/base", "--domains", "steam"]
        command += ["--dataset_name", "usermirrorer/mixed", "--dataset_revision", "v1.0.0"]
        client(hub, home, *command, "--output_dir", str(tmp_path / "out"))
    run = json.loads((tmp_path / "out" / "train_run.json").read_text())
    assert run["data"]["commit"] == commit.split()[-1] and run["data"]["revision"] == "v1.0.0"
    assert run["data"]["domains"] == {"steam": 8} and run["data"]["rows"] == 8
    assert len(run["base_model"]["commit"]) == 40
    metadata = ModelCard.load(tmp_path / "out" / "README.md").data
    assert metadata.base_model == "usermirrorer/base" and metadata.datasets == "usermirrorer/mixed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kind"),
    [("sft", "merged"), ("dpo", "merged"), ("grpo", "merged"), ("sft", "adapter")],
)
def test_two_steps_pushed_to_the_local_hub_load_back_and_generate(
    stage, kind, tiny_model, pairs, tmp_path
):
    repo = f"usermirrorer/tiny-{stage}"
    with running(tmp_path / "hub") as hub:
        command = [str(CHECKOUT / "recipes" / f"{stage}.py"), *SMALL, *STAGES[stage]]
        command += ["--model_name_or_path", str(tiny_model), "--dataset_name", str(pairs)]
        command += ["--output_dir", str(tmp_path / "out"), "--hub_model_id", repo]
        command += ["--hub_revision_tag", "v0.1.0"]
        if kind == "merged":
            command += ["--merge_adapter", "true"]
        else:
            # Its base model is on the Hub as well, as a plain upload.
            client(hub, tmp_path / "home", "-c", UPLOAD, str(tiny_model), "usermirrorer/base")
            command += ["--base_model_id", "usermirrorer/base"]
        client(hub, tmp_path / "home", *command)
        client(hub, tmp_path / "home2", "-c", LOAD, repo, kind)

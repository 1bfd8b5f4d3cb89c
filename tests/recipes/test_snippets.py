"""Promise: what a model card says runs as it stands, on the base model that was trained.

The base model is another's repository on the Hub, whose main branch has moved since.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny_parts
import torch
from test_push import UPLOAD, client
from transformers import AutoModelForCausalLM

from usermirrorer.hub.local import running

from recipe_rows import scene  # isort: skip

REPO, TAG = "usermirrorer/tuned", "v0.1.0"
TRAIN = [
    *("-m", "usermirrorer.recipes.sft", "--stage", "direct", "--bf16", "false"),
    *("--report_to", "none", "--gradient_checkpointing", "false", "--max_steps", "2"),
    *("--learning_rate", "1e-2", "--per_device_train_batch_size", "2", "--max_length", "1024"),
    *("--model_name_or_path", "lab/base", "--push_to_hub", "true"),
    *("--hub_model_id", REPO, "--hub_revision_tag", TAG),
]
#: The card's own code, then what its model computes.
RUN = """
import json, sys, torch
code = open(sys.argv[1]).read()
scope = {}
exec(compile(code, "card", "exec"), scope)
with torch.no_grad():
    print(json.dumps(scope["simulator"].model(torch.arange(20)[None]).logits[0, -1].tolist()))
"""
AUTO = """
import json, sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], revision=sys.argv[2])
with torch.no_grad():
    print(json.dumps(model(torch.arange(20)[None]).logits[0, -1].tolist()))
"""


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.S)


def shell(hub, home: Path, code: str, folder: Path) -> str:
    """Run the lines of a card with a `vllm` that only says what it was asked for."""
    (folder / "vllm").write_text('#!/bin/sh\necho "$@"\n')
    (folder / "vllm").chmod(0o755)
    words = ("import os, subprocess, sys; os.environ['PATH'] = os.pathsep.join([sys.argv[2], "
             "os.path.dirname(sys.executable), os.environ['PATH']]); "
             "subprocess.run(['bash', '-euc', sys.argv[1]], check=True)")  # fmt: skip
    return client(hub, home, "-c", words, code, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "merged", "full"])
def test_the_cards_code_loads_what_was_trained_though_the_base_moved(
    kind, tiny_model, scenes, tmp_path
):
    more = {"adapter": ["--use_peft", "true"], "full": []}.get(
        kind, ["--use_peft", "true", "--merge_adapter", "true"]
    )
    out, home = tmp_path / "out", tmp_path / "home"
    with running(tmp_path / "hub", user="lab") as lab:
        client(lab, home, "-c", UPLOAD, str(tiny_model), "lab/base")
        ask = "from huggingface_hub import HfApi; print(HfApi().model_info('lab/base').sha)"
        commit = client(lab, home, "-c", ask).split()[-1]
    with running(tmp_path / "hub") as hub:
        command = [*TRAIN, *more, "--dataset_name", str(scenes), "--output_dir", str(out)]
        client(hub, home, *command)
    moved = tiny_parts.chat_model(
        tmp_path / "moved", initializer_range=0.5, max_position_embeddings=2048
    )
    with running(tmp_path / "hub", user="lab") as lab:
        client(lab, home, "-c", UPLOAD, str(moved), "lab/base")
    run = json.loads((out / "train_run.json").read_text())
    assert run["base_model"]["commit"] == commit
    if kind == "adapter":
        assert json.loads((out / "adapter_config.json").read_text())["revision"] == commit
    card = (out / "README.md").read_text()
    assert f"lab/base at commit {commit}" in card.replace("\\", "")
    with running(tmp_path / "hub") as hub:
        fresh = tmp_path / "fresh"
        (tmp_path / "card.py").write_text(blocks(card, "python")[0])
        told = json.loads(client(hub, fresh, "-c", RUN, str(tmp_path / "card.py")).splitlines()[-1])
        expected = _logits(out, tiny_model, kind)
        torch.testing.assert_close(torch.tensor(told), expected, atol=1e-3, rtol=1e-3)
        if kind == "adapter":
            auto = json.loads(client(hub, fresh, "-c", AUTO, REPO, TAG).splitlines()[-1])
            torch.testing.assert_close(torch.tensor(auto), expected, atol=1e-3, rtol=1e-3)
        serve, score = blocks(card, "bash")
        asked = shell(hub, fresh, serve, tmp_path).split()
        if kind == "adapter":
            assert asked[asked.index("--revision") + 1] == commit
            folder = Path(asked[-1].removeprefix("simulator="))
            assert (folder / "adapter_model.safetensors").is_file()
        rows = _scenes_file(tmp_path)
        metadata = json.dumps({"dataset": str(rows)})
        score = score.strip() + f" --metadata '{metadata}' --output_path {tmp_path / 'scores'}"
        shell(hub, fresh, score.replace("usermirror-direct_*", "usermirror-direct_steam"), tmp_path)
        assert list((tmp_path / "scores").rglob("results_*.json"))


def _scenes_file(folder: Path) -> Path:
    import pyarrow as pa

    from usermirrorer.builders.common.schema import SCENE
    from usermirrorer.builders.common.storage import write_table

    rows = [scene(i, 3, "steam") for i in range(2)]
    write_table(folder / "test.parquet", pa.Table.from_pylist(rows, schema=SCENE))
    return folder / "test.parquet"


def _logits(out: Path, base: Path, kind: str) -> torch.Tensor:
    if kind == "adapter":
        from peft import PeftModel

        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out)
    else:
        model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits[0, -1]

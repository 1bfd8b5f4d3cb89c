"""Promise: `inspect eval hf/...` runs our tasks from a release, and counts what lm_eval counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard
from lm_eval.models.openai_completions import LocalChatCompletion

from tests import tiny_parts
from tests.hub.conftest import local_hub  # noqa: F401 - fixture
from tests.recipes.service.conftest import serving
from usermirrorer.builders.decisions.prompts import FIELDS, answer, messages, parse
from usermirrorer.eval_harness import task_names
from usermirrorer.eval_harness.inspect_tasks import ANSWER

from .fixtures import evaluate, make_scenes, release

THOUGHT = "\n".join(["Thought:", *(f"{name}: because" for name in FIELDS)])
TASK = "usermirror-direct_movielens"


@pytest.mark.parametrize(
    "text",
    [
        *(
            answer("B"),
            answer("B", THOUGHT),
            "**Behavior:** [b]\n",
            "- behavior: B.",
            "Behavior: C",
        ),
        *("", "B", "Behavior: [BB]", "I would take B", "Behavior: [A]\nBehavior: [B]"),
        *("Behavior: [B]\nbecause", "Misbehavior: [B]", "Behavior: [B] or [C]", " \n\n" * 20_000),
    ],
)
def test_an_answer_is_read_as_lm_eval_reads_it(text):
    match = re.search(ANSWER, text)
    behavior = parse(text, 5, "direct").behavior
    assert (ord(match[1].upper()) - 65 if match else None) == behavior


def taught(folder: Path, scenes: list[dict]) -> Path:
    """Save a tiny model that has learnt an answer to each scene: right, wrong, or none."""
    text = tiny_parts.tokenizer()
    model = tiny_parts.llama(text, hidden_size=64, intermediate_size=128, initializer_range=0.05)
    labels = ["ABCDE"[(row["answer"] + (n % 3 == 1)) % 5] for n, row in enumerate(scenes)]
    said = ["I do not know", *map(answer, labels[1:])]
    rows = []
    for row, reply in zip(scenes, said, strict=True):
        prompt = text.apply_chat_template(
            messages(row, "direct"), add_generation_prompt=True, tokenize=False
        )
        parts = (text(one, add_special_tokens=False).input_ids for one in (prompt, reply))
        before, after = parts
        rows.append((before, [*after, text.eos_token_id]))
    learn(model, rows)
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


def learn(model, rows: list[tuple[list[int], list[int]]]) -> None:
    """Train until the second part of each row follows from the first."""
    import torch

    width = max(len(before) + len(after) for before, after in rows)
    ids = torch.tensor([a + b + [0] * (width - len(a + b)) for a, b in rows])
    wanted = torch.tensor([[-100] * len(a) + b + [-100] * (width - len(a + b)) for a, b in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        loss = model.train()(input_ids=ids, labels=wanted).loss
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    assert loss < 0.02
    model.eval()


@pytest.mark.slow
def test_inspect_runs_a_release_from_the_hub_and_agrees_with_lm_eval(local_hub, tmp_path):  # noqa: F811
    """The same model behind `usermirrorer serve`, asked by both frameworks' own clients."""
    scenes = make_scenes(9)
    rows = [*scenes, *make_scenes(2, source="mind")]
    folder = release(tmp_path / "release", rows, repo_id="usermirrorer/mixed")
    settings = os.environ | local_hub.environment(tmp_path / "home")
    call("usermirrorer", "release", "push", folder, "usermirrorer/mixed", env=settings)
    with serving(taught(tmp_path / "taught", scenes), tmp_path / "log", "--name", "m") as service:
        settings |= {"OURS_BASE_URL": f"{service.address}/v1", "OURS_API_KEY": "none"}
        call(
            *("inspect", "eval", f"hf/usermirrorer/mixed/{TASK}@v1.0.0", "--display", "none"),
            *(
                "--model",
                "openai-api/ours/m",
                "--log-format",
                "json",
                "--log-dir",
                tmp_path / "logs",
            ),
            env=settings,
        )
        url = f"{service.address}/v1/chat/completions"
        lm = LocalChatCompletion(base_url=url, model="m", tokenizer_backend=None)
        plain = {"samples": 1, "ablations": False, "gen_kwargs": "temperature=0"}
        theirs = evaluate(lm, [TASK], folder, **plain)
    ours = json.loads(next((tmp_path / "logs").glob("*.json")).read_text())
    accuracy = ours["results"]["scores"][0]["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx(5 / 9)
    assert theirs["results"][TASK]["acc,none"] == pytest.approx(accuracy)
    shown = [[plain_text(m) for m in sample["messages"][:2]] for sample in ours["samples"]]
    asked = [json.loads(first_text(sample["arguments"])) for sample in theirs["samples"][TASK]]
    assert shown == [[(m["role"], m["content"]) for m in one] for one in asked]


def first_text(value) -> str:
    """Return the text that stands first, however deep lm_eval wraps the messages of a chat."""
    return value if isinstance(value, str) else first_text(value[0])


def plain_text(message: dict) -> tuple[str, str]:
    return message["role"], message["content"]


def call(program: str, *words: object, env: dict[str, str]) -> None:
    words = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_task_of_a_release_is_one_that_inspect_takes(tmp_path):
    """It checks all entries before it runs one; each names a configuration that is there."""
    rows = [row for s in ("movielens", "mind", "amazon_beauty") for row in make_scenes(2, source=s)]
    paper = [row | {"exposure_mode": "paper"} for row in rows]
    folder = Path(release(tmp_path / "release", rows, paper=paper))
    written = yaml.safe_load((folder / "eval.yaml").read_text(encoding="utf-8"))
    assert written["evaluation_framework"] == "inspect-ai" and len(written["tasks"]) == 4 * 3
    configs = {c["config_name"] for c in DatasetCard.load(folder / "README.md").data.configs}
    for entry in written["tasks"]:
        assert entry["config"] in configs
        prompts = load_dataset(str(folder), entry["config"], split="test", cache_dir=tmp_path)
        assert len(prompts) == 2 and set(prompts["source"]) == {task_names.source_of(entry["id"])}
        for row, prompt in zip(make_scenes(2, source=prompts["source"][0]), prompts, strict=True):
            assert prompt["input"] == messages(row)[1]["content"]
            assert prompt["target"] == "ABCDE"[row["answer"]]

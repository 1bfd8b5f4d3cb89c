"""Two steps of each recipe give a model that loads; a killed run ends as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_parts
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import PREFERENCE, SCENE
from usermirrorer.builders.common.storage import write_table
from usermirrorer.builders.decisions.prompts import answer, messages, of_model
from usermirrorer.recipes import dpo, grpo, sft, training
from usermirrorer.recipes.arguments import parse

from recipe_rows import pair, scene  # isort: skip

CHECKOUT = Path(__file__).parents[2]
RECIPES = {"sft": sft, "dpo": dpo, "grpo": grpo}
SMALL = [
    *("--bf16", "false", "--report_to", "none", "--gradient_checkpointing", "false"),
    *("--logging_steps", "1", "--per_device_train_batch_size", "2", "--learning_rate", "1e-2"),
    *("--lr_scheduler_type", "cosine", "--warmup_steps", "2", "--save_steps", "2"),
]
GRPO = ["--num_generations", "2", "--max_completion_length", "8", "--max_prompt_length", "1024"]


def words(stage: str, model: Path, data: Path, output: Path, steps: int = 2) -> list[str]:
    more = GRPO if stage == "grpo" else ["--max_length", "1024"]
    places = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", output]
    return [*map(str, places), *SMALL, *more, "--max_steps", str(steps)]


def generate(model, tokenizer) -> str:
    prompt = tokenizer.apply_chat_template(
        messages(scene(1)), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])


def record(output: Path) -> dict:
    return json.loads((output / "train_run.json").read_text())


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_two_steps_of_a_recipe_give_a_model_that_generates(stage, tiny_model, pairs, tmp_path):
    merge = ["--use_peft", "true", "--merge_adapter", "true", "--base_model_id", "some/base"]
    output = RECIPES[stage].main([*words(stage, tiny_model, pairs, tmp_path / stage), *merge])
    tokenizer = AutoTokenizer.from_pretrained(output)
    merged = AutoModelForCausalLM.from_pretrained(output)
    assert generate(merged, tokenizer)
    # The adapter in the folder is the one that was merged.
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = type(merged).from_pretrained(tiny_model)
    adapted.load_adapter(str(output / "adapter"))
    ids = torch.arange(20)[None]
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)
    if stage != "grpo":  # a random model earns no reward, and without one nothing is learned
        assert not torch.allclose(base(ids).logits, merged(ids).logits, atol=1e-4)
    run = record(output)
    assert run["stage"] == stage and run["results"]["steps"] == 2 and len(run["curve"]) == 2
    assert run["results"]["tokens"] > 0 and run["data"]["rows"] == 24


def test_an_adapter_alone_loads_onto_its_base(tiny_model, pairs, tmp_path):
    output = sft.main([*words("sft", tiny_model, pairs, tmp_path / "a"), "--use_peft", "true"])
    model = AutoPeftModelForCausalLM.from_pretrained(output)
    assert generate(model, AutoTokenizer.from_pretrained(output))
    with pytest.raises(UserError, match="is a LoRA adapter"):
        dpo.main(words("dpo", output, pairs, tmp_path / "b"))


def test_full_fine_tuning_in_direct_mode_learns_its_rows(tiny_model, scenes, tmp_path):
    more = ["--stage", "direct", "--rotate_options", "2", "--max_pairs", "4"]
    output = sft.main([*words("sft", tiny_model, scenes, tmp_path / "d", steps=30), *more])
    run = record(output)
    assert run["method"] == "full fine-tuning" and run["data"]["rows"] == 8
    assert run["results"]["final_loss"] < 0.5 * run["results"]["first_loss"]


def test_a_run_that_ends_within_its_warm_up_says_so(tiny_model, scenes, tmp_path, capsys):
    told = {}
    for steps in (1, 2, 3):  # two of warm-up
        output = tmp_path / str(steps)
        sft.main([*words("sft", tiny_model, scenes, output, steps=steps), "--stage", "direct"])
        said = [line for line in capsys.readouterr().err.splitlines() if "--warmup_steps" in line]
        told[steps] = said[0] if said else ""
    assert "nothing is learnt" in told[1] and "all 2 steps are warm-up" in told[2] and not told[3]
    asked = words("sft", tiny_model, scenes, tmp_path / "constant", steps=1)
    sft.main([*asked, "--stage", "direct", "--lr_scheduler_type", "constant"])  # has no warm-up
    assert "--warmup_steps" not in capsys.readouterr().err
    same, moved = (
        torch.equal(
            AutoModelForCausalLM.from_pretrained(tmp_path / steps).lm_head.weight,
            AutoModelForCausalLM.from_pretrained(tiny_model).lm_head.weight,
        )
        for steps in ("1", "2")
    )
    assert same and not moved


def test_layers_before_the_last_ones_stay_as_they_are(tiny_model, scenes, tmp_path):
    more = ["--stage", "direct", "--train_last_layers", "1"]
    output = sft.main([*words("sft", tiny_model, scenes, tmp_path / "last"), *more])
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (tiny_model, output)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = max(int(name.split(".")[2]) for name in before if ".layers." in name)
    assert changed and all(f".layers.{last}." in n or n == "model.norm.weight" for n in changed)
    with pytest.raises(UserError, match=r"train_last_layers 99: the model has \d layers"):
        more[-1] = "99"
        sft.main([*words("sft", tiny_model, scenes, tmp_path / "none"), *more])


def test_prompts_of_ones_own_go_with_the_model(tiny_model, scenes, tmp_path):
    own = CHECKOUT / "recipes" / "smollm2-135m-instruct" / "direct_compact" / "prompts"
    more = ["--stage", "direct", "--prompts", str(own)]
    output = sft.main([*words("sft", tiny_model, scenes, tmp_path / "own"), *more])
    asked = scene(3)
    assert messages(asked, "direct", of_model(output)) == messages(asked, "direct", own)
    assert messages(asked, "direct", of_model(tiny_model)) == messages(asked, "direct")
    assert 'messages(scene, "direct", prompts)' in (output / "README.md").read_text()


def test_nothing_published_names_a_path_of_this_machine_or_is_a_pickle(tiny_model, pairs, tmp_path):
    more = ["--use_peft", "true", "--merge_adapter", "true", "--base_model_id", "some/base"]
    output = sft.main([*words("sft", tiny_model, pairs, tmp_path / "p"), *more])
    published = [p for p in output.rglob("*") if p.is_file() and "checkpoint-" not in str(p)]
    assert {p.suffix for p in published} <= {
        ".json",
        ".jsonl",
        ".safetensors",
        ".md",
        ".png",
        ".jinja",
    }
    for path in published:
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(tiny_model.parent).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("mode", ["decision", "direct"])
def test_the_code_in_the_card_runs(mode, tiny_model, pairs, scenes, tmp_path, monkeypatch, capsys):
    source = pairs if mode == "decision" else scenes
    sft.main([*words("sft", tiny_model, source, tmp_path / "mine"), "--stage", mode])
    card = (tmp_path / "mine" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert 'pipeline("text-generation", "mine")' in code
    monkeypatch.chdir(tmp_path)  # where the folder answers to the repository's name
    capsys.readouterr()
    exec(compile(code.replace("max_new_tokens=512", "max_new_tokens=8"), "card", "exec"), {})
    assert capsys.readouterr().out.strip()


def start(stage: str, arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(CHECKOUT / "recipes" / f"{stage}.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def answering(tiny_model, tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model whose answers differ in length, and so in reward, and the scenes it is asked."""
    folder = tmp_path_factory.mktemp("answering")
    rows = [pair(i) | {"prompt": messages(scene(i), "direct")} for i in range(24)]
    for row in rows:
        row["chosen"] = [
            {"role": "assistant", "content": answer(row["chosen_behavior"], "Thought: x")}
        ]
    write_table(folder / "pairs.parquet", pa.Table.from_pylist(rows, schema=PREFERENCE))
    more = ["--per_device_train_batch_size", "8", "--save_strategy", "no"]
    model = sft.main([*words("sft", tiny_model, folder / "pairs.parquet", folder / "m", 30), *more])
    asked = [scene(i) for i in range(24)]
    write_table(folder / "scenes.parquet", pa.Table.from_pylist(asked, schema=SCENE))
    return model, folder / "scenes.parquet"


def logged(folder: Path) -> int:
    """Return how many steps a run has logged."""
    log = folder / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


STEPS = 12
MORE = {
    "sft": ["--use_peft", "true", "--lora_dropout", "0.3"],
    "dpo": ["--use_peft", "true", "--lora_dropout", "0.3"],
    "grpo": [*("--stage", "direct", "--per_device_train_batch_size", "4"),
             *("--num_generations", "4", "--learning_rate", "1e-3"),
             *("--length_guard", "8", "--beta", "1e-3")],
}  # fmt: skip


@pytest.mark.parametrize(
    "stage", ["sft", *(pytest.param(s, marks=pytest.mark.slow) for s in ("dpo", "grpo"))]
)
def test_a_run_killed_in_mid_training_ends_with_the_same_losses(
    stage, tiny_model, pairs, request, tmp_path
):
    model, rows = tiny_model, pairs
    if stage == "grpo":
        model, rows = request.getfixturevalue("answering")
    whole, killed = (
        [*words(stage, model, rows, tmp_path / name, STEPS), *MORE[stage]]
        for name in ("whole", "killed")
    )
    RECIPES[stage].main(whole)
    process = start(stage, killed)
    folder = tmp_path / "killed"
    # The step after a checkpoint is logged: the checkpoint is whole.
    while not (folder / "checkpoint-4" / "trainer_state.json").exists() or logged(folder) < 5:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    if stage == "sft":
        with pytest.raises(UserError, match="another process trains here"):
            RECIPES[stage].main(killed)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "train_run.json").exists()
    done_before = (folder / "metrics.jsonl").read_text().splitlines()[:4]
    RECIPES[stage].main(killed)
    # The first lines bear the times of the killed process: those steps were not done again.
    assert (folder / "metrics.jsonl").read_text().splitlines()[:4] == done_before
    expected, found = record(tmp_path / "whole"), record(folder)
    assert [row["step"] for row in found["curve"]] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "reward", "completions/mean_length"):
        values = [row[name] for row in expected["curve"] if name in row]
        again = [row[name] for row in found["curve"] if name in row]
        assert again == pytest.approx(values, rel=1e-5, abs=1e-8)
        assert not values or name == "loss" or len(set(values)) > 3  # not merely all the same
    assert found["results"]["tokens"] == expected["results"]["tokens"]


def test_a_finished_run_is_not_done_twice_and_a_folder_belongs_to_one_run(
    tiny_model, pairs, tmp_path
):
    arguments = words("sft", tiny_model, pairs, tmp_path / "once")
    output = sft.main(arguments)
    before = (output / "train_run.json").stat().st_mtime_ns
    sft.main(arguments)
    assert (output / "train_run.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings or data"):
        sft.main([*arguments, "--seed", "7"])
    with pytest.raises(UserError, match="other settings or data"):
        sft.main([*arguments, "--max_pairs", "20"])


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path):
    for step, text in ((2, '{"global_step": 2}'), (4, '{"global_st'), (6, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if text:
            (folder / "trainer_state.json").write_text(text)
    assert training.last_checkpoint(tmp_path).name == "checkpoint-2"


def test_packing_keeps_conversations_apart(tiny_model, pairs, tmp_path):
    losses = []
    for packing in ("false", "true"):
        output = tmp_path / f"packing-{packing}"
        more = ["--packing", packing, "--per_device_train_batch_size", "6", "--max_pairs", "6"]
        sft.main([*words("sft", tiny_model, pairs, output, steps=1), *more])
        losses.append(record(output)["results"]["final_loss"])
    # One step over the same rows: attention across rows would change the loss.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def broken_template(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    (target / "chat_template.jinja").unlink()
    return target


def test_what_can_be_known_before_training_is_an_error_before_training(
    tiny_model, pairs, scenes, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def refused(message: str, *more: str, model: Path = tiny_model, data: Path = pairs) -> None:
        with pytest.raises(UserError, match=message):
            sft.main([*words("sft", model, data, out), *more])
        assert not (out / "metrics.jsonl").exists()

    rows = pq.read_table(pairs)
    pq.write_table(rows.drop(["chosen_behavior"]), tmp_path / "columns.parquet")
    refused("columns chosen_behavior are missing", data=tmp_path / "columns.parquet")
    several = shutil.copytree(tiny_model, tmp_path / "several")
    tiny_parts.tokenizer(["Behavior: [A] x"] * 50, words=False).save_pretrained(several)
    refused("not a single token", "--stage", "direct", model=several, data=scenes)
    refused("model cannot be loaded", model=tmp_path / "nowhere")
    refused("no chat template", model=broken_template(tiny_model, tmp_path / "plain"))
    refused("context of 2048 tokens is shorter than 4096", "--max_length", "4096")
    refused("24 of 24 rows are longer than 64 tokens", "--max_length", "64")
    refused("does not exist", "--config", "recipes/none/sft/config.yaml")
    refused("needs --hub_model_id", "--push_to_hub", "true")
    adapter = ["--use_peft", "true", "--hub_model_id", "a/b", "--hub_revision_tag", "v1.0.0"]
    refused("a folder that others do not have", "--push_to_hub", "true", *adapter)
    refused("no adapter to merge", "--merge_adapter", "true")
    refused("is never run", "--trust_remote_code", "true")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused("checkpoints and model need")


@pytest.mark.parametrize(
    ("stage", "asked", "message"),
    [
        ("sft", ["--use_liger_kernel", "true"], "needs the package liger-kernel"),
        ("sft", ["--load_in_4bit", "true", "--use_peft", "true"], "needs the package bitsandbytes"),
        ("sft", ["--report_to", "wandb"], "needs the package wandb"),
        (
            "dpo",
            ["--attn_implementation", "flash_attention_2"],
            "needs a GPU and the package flash",
        ),
    ],
)
def test_an_option_whose_package_is_missing_names_it(stage, asked, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        RECIPES[stage].main([*words(stage, tmp_path / "m", tmp_path / "d", tmp_path / "o"), *asked])


def test_vllm_is_asked_for_where_there_is_a_gpu_alone(tmp_path, monkeypatch, capsys):
    arguments = [*words("grpo", tmp_path / "m", tmp_path / "d", tmp_path / "o")]
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="model cannot be loaded"):
        grpo.main([*arguments, "--use_vllm", "true"])
    assert "generated by transformers" in capsys.readouterr().out
    gpu = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))
    monkeypatch.setattr(grpo, "torch", gpu)
    with pytest.raises(UserError, match="needs the package vllm"):
        grpo.main([*arguments, "--use_vllm", "true"])


def test_quantized_weights_are_trained_by_an_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: name)
    arguments = words("sft", tmp_path / "m", tmp_path / "d", tmp_path / "o")
    with pytest.raises(UserError, match="Add --use_peft"):
        sft.main([*arguments, "--load_in_4bit", "true"])


def test_four_bits_train_nearly_as_the_whole_weights_do(tiny_model, pairs, tmp_path):
    lora = ["--use_peft", "true", "--lora_dropout", "0", "--merge_adapter", "true"]
    whole = sft.main([*words("sft", tiny_model, pairs, tmp_path / "whole"), *lora])
    four = [*words("sft", tiny_model, pairs, tmp_path / "four"), *lora, "--load_in_4bit", "true"]
    quantized = sft.main(four)
    one, other = ([row["loss"] for row in record(run)["curve"]] for run in (whole, quantized))
    assert one != other
    assert other == pytest.approx(one, rel=0.02)
    assert record(quantized)["method"] == "QLoRA"
    assert generate(
        AutoModelForCausalLM.from_pretrained(quantized), AutoTokenizer.from_pretrained(quantized)
    )


def test_on_the_command_line_an_error_is_one_line_and_exit_code_1(tmp_path, pairs):
    command = [sys.executable, str(CHECKOUT / "recipes" / "dpo.py")]
    command += words("dpo", tmp_path / "nowhere", pairs, tmp_path / "out")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


CONFIGS = sorted((CHECKOUT / "recipes").glob("*/*/config.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
def test_configurations_are_understood_and_keep_the_papers_values(path):
    stage = "sft" if path.parts[-2].startswith("direct") else path.parts[-2]
    kinds = {"sft": sft.SFTConfig, "dpo": dpo.DPOConfig, "grpo": grpo.GRPOConfig}
    extra = grpo.RewardArguments if stage == "grpo" else None
    asked = ["--config", str(path), "--bf16", "false"]
    parsed = parse(kinds[stage], asked, extra).training
    assert parsed.weight_decay == {"sft": 0.01, "dpo": 0.05, "grpo": 0.01}[stage]
    assert parsed.lr_scheduler_type == "cosine" and parsed.optim.startswith("adamw")
    if "smollm2" in str(path):
        return
    rows = parsed.per_device_train_batch_size * parsed.gradient_accumulation_steps
    assert parsed.warmup_steps == 10 and parsed.num_train_epochs in (1, 2, 3)
    if stage == "grpo":
        assert rows // parsed.num_generations == 64 and parsed.num_generations == 8
        assert (parsed.learning_rate, parsed.beta) == (1e-5, 1e-3) and parsed.use_vllm
    else:
        assert rows == 16 and parsed.learning_rate in (2e-4, 1e-4, 5e-5, 2e-5)
    if stage == "dpo":
        assert parsed.beta == 0.1 and parsed.precompute_ref_log_probs
    if stage == "sft":
        general = parse(kinds[stage], asked).data
        assert general.general_data == "allenai/tulu-3-sft-mixture" and general.general_ratio == 10

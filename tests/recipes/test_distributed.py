"""Several processes train what one does: DDP, FSDP and the multi-node examples, on CPUs by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForCausalLM

CHECKOUT = Path(__file__).parents[2]
RECIPES = CHECKOUT / "recipes"
SMALL = [
    *("--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--learning_rate", "1e-3"),
    *("--gradient_checkpointing", "false", "--logging_steps", "1", "--max_steps", "3"),
    *("--max_length", "1024", "--save_strategy", "no", "--dataloader_pin_memory", "false"),
]
LORA = ["--use_peft", "true", "--lora_dropout", "0", "--merge_adapter", "true"]


def run(command: list[str | Path], **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def words(model: Path, data: Path, output: Path, rows: int) -> list[str | Path]:
    places = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", output]
    return [*places, *SMALL, "--per_device_train_batch_size", str(rows)]


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in record(output)["curve"]]


def record(output: Path) -> dict:
    return json.loads((output / "train_run.json").read_text())


def assert_same_model(first: Path, second: Path, distributed: str = "MULTI_CPU") -> None:
    assert record(second)["hardware"]["processes"] == 2
    assert record(second)["hardware"]["distributed"] == distributed
    assert record(second)["results"]["parameters"] == record(first)["results"]["parameters"]
    assert losses(second) == pytest.approx(losses(first), rel=1e-4)
    weights, others = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (first, second)
    )
    torch.testing.assert_close(weights, others, atol=2e-4, rtol=1e-3)


def launch(configuration: str, *script: str | Path) -> list[str | Path]:
    """Return the command of the README for two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--mixed_precision", "no", "--main_process_port", "0"]
    return [*command, "--config_file", RECIPES / "accelerate" / configuration, *script]


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=str)
def test_configurations_are_read_by_accelerate(path):
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds.get(path.stem, "NO")
    assert (config.num_processes == 1) == (path.stem in ("cpu", "single_gpu"))


@pytest.mark.slow
def test_two_processes_train_what_one_does(tiny_model, pairs, tmp_path):
    one, ddp, fsdp = (tmp_path / name for name in ("one", "ddp", "fsdp"))
    run([sys.executable, RECIPES / "sft.py", *words(tiny_model, pairs, one, 4)])
    run([*launch("ddp.yaml", RECIPES / "sft.py"), *words(tiny_model, pairs, ddp, 2)])
    assert_same_model(one, ddp)
    driver = Path(__file__).with_name("fsdp_on_cpus.py")
    run([*launch("fsdp.yaml", driver, "sft"), *words(tiny_model, pairs, fsdp, 2)])
    assert_same_model(one, fsdp, "FSDP")


#: What Slurm would do for two nodes of one process each: both run what `srun` is given. On one
#: machine the second waits for the first, which asks that its port is free.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
SLURM_NODEID=0 "$@" & first=$!
until (: < "/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do
    kill -0 $first || exit 1
    sleep 0.2
done
SLURM_NODEID=1 "$@" || { kill $first; exit 1; }
wait $first
"""


@pytest.mark.slow
def test_the_multi_node_examples_train_what_one_process_does(tiny_model, pairs, tmp_path):
    one, slurm, torchrun = (tmp_path / name for name in ("one", "slurm", "torchrun"))
    run([sys.executable, RECIPES / "dpo.py", *words(tiny_model, pairs, one, 4), *LORA])

    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho 127.0.0.1\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    script = ["bash", RECIPES / "slurm" / "train.slurm", "dpo", RECIPES / "accelerate" / "ddp.yaml"]
    run(
        [*script, *words(tiny_model, pairs, slurm, 2), *LORA],
        PATH=f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        SLURM_JOB_NODELIST="a,b",
        SLURM_JOB_ID="7",
        SLURM_NNODES="2",
        SLURM_GPUS_ON_NODE="1",
    )
    assert_same_model(one, slurm)

    script = ["bash", RECIPES / "slurm" / "torchrun.sh", "dpo"]
    run(
        [*script, *words(tiny_model, pairs, torchrun, 2), *LORA],
        PROCESSES="2",
        PORT="0",
    )
    assert_same_model(one, torchrun)


@pytest.mark.slow
def test_two_workers_of_ray_train_what_one_process_does(tiny_model, pairs, tmp_path):
    one, ray = tmp_path / "one", tmp_path / "ray"
    run([sys.executable, RECIPES / "sft.py", *words(tiny_model, pairs, one, 4)])
    script = [sys.executable, RECIPES / "slurm" / "ray_train.py", "2cpu", "sft"]
    run([*script, *words(tiny_model, pairs, ray, 2)], HOME=str(tmp_path))  # for ~/ray_results
    assert_same_model(one, ray)

"""The record of a training run: metrics while it runs, `train_run.json` when it is done.

Everything a model card says about training comes from here. No path of the machine and no token
is written, since the record is published with the model.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import Field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from usermirrorer.builders.common.assets import asset_of
from usermirrorer.builders.common.storage import fingerprint, read_json
from usermirrorer.recipes import energy
from usermirrorer.recipes.arguments import Arguments, ReleaseArguments

RUN = "train_run.json"
METRICS = "metrics.jsonl"
PACKAGES = ("usermirrorer", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}
#: Settings that say where and how often to write, not what is computed.
_NOT_RESULTS = (
    *("output_dir", "logging_dir", "run_name", "report_to", "project", "disable_tqdm"),
    *("push_to_hub", "resume_from_checkpoint", "log_level", "log_level_replica", "local_rank"),
    *("eos_token", "pad_token", "accelerator_config", "debug", "include_num_input_tokens_seen"),
    *("do_train", "dataset_num_proc", "dataloader_num_workers", "save_total_limit"),
)
_NOT_RESULTS_PREFIXES = ("hub_", "save_", "logging_", "trackio_")
#: Columns of the log that make up the curve in the record.
_CURVE = (
    *("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "mean_token_accuracy"),
    *(
        "rewards/accuracies",
        "rewards/margins",
        "reward",
        "kl",
        "entropy",
        "completions/mean_length",
    ),
)


class Metrics(TrainerCallback):
    """Append each log of the trainer to a JSON-lines file, with the seconds and joules so far.

    After a resume, lines past the checkpoint are dropped (they are computed again) and both go on
    from there.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._spent: dict[str, Any] = {"seconds": 0.0, "joules": 0.0}
        self._start, self.meter = time.monotonic(), energy.Meter([])

    @property
    def seconds(self) -> float:
        """Seconds trained so far, those before a resume included."""
        return self._spent["seconds"] + time.monotonic() - self._start

    @property
    def joules(self) -> float | None:
        """Joules that this machine spent in them; None if a part of them was not measured."""
        before, since = self._spent.get("joules"), self.meter.joules()
        return None if before is None or since is None else before + since

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the lines that will be computed again; say if a run ends before it is warm."""
        self._start, self.meter = time.monotonic(), energy.of_this_machine()
        kept = [line for line in self.read() if line["step"] <= state.global_step]
        self._spent = kept[-1] if kept else self._spent
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
            plain = args.lr_scheduler_type in ("constant", "reduce_lr_on_plateau")  # no warm-up
            warm_up = 0 if plain else args.get_warmup_steps(state.max_steps)
            if told := all_warm_up(state.max_steps, warm_up):
                print(f"warning: --warmup_steps: {told}", file=sys.stderr)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line."""
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, **(logs or {}), "seconds": round(self.seconds, 3)}
        if (joules := self.joules) is not None:
            line["joules"] = round(joules, 3)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the whole lines of the file; a kill can leave half a last one."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines


def start(stage: str, arguments: Arguments, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known before training; `key` changes whenever the result would.

    Args:
        stage: `sft`, `dpo` or `grpo`.
        arguments: The recipe's arguments.
        data: Facts of the training rows.
    """
    facts = {
        "schema": 1,
        "stage": stage,
        "mode": arguments.data.stage,
        "method": _method(arguments),
        "adapter_only": arguments.adapter_only,
        "license": arguments.release.license,
        "base_model": base_model(arguments),
        "data": dict(data),
        "hyperparameters": hyperparameters(stage, arguments),
        "settings": _settings(arguments),
    }
    return {"key": fingerprint(facts), **facts}


def finish(
    facts: Mapping[str, Any], trainer: Trainer, metrics: Metrics, release: ReleaseArguments
) -> dict[str, Any]:
    """Return the complete record of a finished run.

    Args:
        facts: From `start`.
        trainer: After training.
        metrics: Its callback.
        release: Of it the power to reckon with where no meter was read, and the country.
    """
    lines = metrics.read()
    seconds = metrics.seconds
    tokens = trainer.state.num_input_tokens_seen
    sizes = [(_size(p), p.requires_grad) for p in parameters(trainer)]
    losses = [line["loss"] for line in lines if "loss" in line]
    results = {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "first_loss": losses[0] if losses else None,
        "final_loss": losses[-1] if losses else None,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        **_energy(metrics, seconds, release),
        "peak_memory_bytes": peak_memory(),
        "parameters": sum(size for size, _ in sizes),
        "trained_parameters": sum(size for size, trained in sizes if trained),
    }
    return {
        **facts,
        "results": results,
        "curve": [_row(line) for line in lines if "loss" in line or "eval_loss" in line],
        "hardware": hardware(trainer),
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "code": code_version(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _energy(metrics: Metrics, seconds: float, release: ReleaseArguments) -> dict[str, Any]:
    """Return joules and where they come from: a meter, else a stated power; nothing of neither.

    With them, what they emitted where the machine stands.
    """
    watts = release.power_watts
    if (joules := metrics.joules) is not None:
        told: dict[str, Any] = {"energy": {"joules": joules, "measured": metrics.meter.kinds}}
    elif watts:
        told = {"energy": {"joules": watts * seconds, "watts": watts}}
    else:
        return {}
    if release.carbon_country:
        told["co2"] = energy.emissions(told["energy"]["joules"], release.carbon_country)
    return told


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in _CURVE if name in line}


def parameters(trainer: Trainer) -> Iterator[torch.nn.Parameter]:
    """Yield the weights of the model in training, the frozen ones included."""
    assert trainer.model is not None  # a trainer without one does not get this far
    yield from trainer.model.parameters()


def _size(parameter: torch.nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def _method(arguments: Arguments) -> str:
    if arguments.tuning.train_last_layers is not None:
        return "fine-tuning of the last layers"
    if not arguments.model.use_peft:
        return "full fine-tuning"
    return "QLoRA" if arguments.model.load_in_4bit or arguments.model.load_in_8bit else "LoRA"


def base_model(arguments: Arguments) -> dict[str, Any]:
    """Return name, revision, commit and weights of the model that is trained.

    A part that this package fetches is a copy of a model on the Hub: `name` is that model,
    `taken_as` what was done to it. A model that one of these recipes trained brings its own record:
    `lineage` lists the stages before this one, and `name` is the model they started from.
    """
    name = arguments.base
    folder = Path(name)
    if not folder.is_dir():
        revision, commit = arguments.model.model_revision, arguments.base_commit
        return {"name": name, "revision": revision, "commit": commit}
    local: dict[str, Any] = {
        "name": arguments.release.base_model_id,
        "folder": folder.resolve().name,
    }
    local["weights"] = _weights_hash(folder)
    if asset := asset_of(folder):
        local["name"] = local["name"] or asset.url.removeprefix("https://huggingface.co/")
        local["taken_as"] = asset.title
    if (folder / RUN).exists():
        earlier = read_json(folder / RUN)
        before = earlier["base_model"]
        stage = {k: earlier[k] for k in ("stage", "mode", "method", "data", "hyperparameters")}
        local["name"] = local["name"] or before["name"]
        if "taken_as" in before:
            local["taken_as"] = before["taken_as"]
        local["lineage"] = [*before.get("lineage", []), stage]
    return local


def _weights_hash(folder: Path) -> str:
    """Return a hash of the sizes and both ends of the weight files: quick, and new if they are."""
    parts = []
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(2**20)
            file.seek(max(0, size - 2**20))
            parts.append([path.name, size, fingerprint([head.hex(), file.read().hex()])])
    return fingerprint(parts)


def all_warm_up(steps: int, warm_up: int) -> str:
    """Return what is wrong with a run whose every step is warm-up, "" with others.

    Args:
        steps: Of the whole run.
        warm_up: Steps of them before the learning rate is reached; the first of them has none.
    """
    if warm_up < steps:
        return ""
    if steps == 1:
        return "the only step is the first of warm-up, with a learning rate of 0: nothing is learnt"
    return f"all {steps} steps are warm-up: the learning rate is never reached"


def hyperparameters(stage: str, arguments: Arguments) -> dict[str, Any]:
    """Return the settings of Table 7 and those around them, by readable names."""
    training, model = arguments.training, arguments.model
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    rows = rows * training.world_size // getattr(training, "num_generations", 1)
    shown = {
        "learning rate": training.learning_rate,
        "epochs": training.num_train_epochs if training.max_steps < 1 else None,
        "maximum steps": training.max_steps if training.max_steps > 0 else None,
        "batch size": rows,
        "trained layers": arguments.tuning.train_last_layers,
        "optimizer": str(getattr(training.optim, "value", training.optim)),
        "weight decay": training.weight_decay,
        "schedule": str(getattr(training.lr_scheduler_type, "value", training.lr_scheduler_type)),
        "warm-up steps": training.warmup_steps,
        "maximum length (tokens)": getattr(training, "max_length", None),
        "packing": getattr(training, "packing", None),
        "padding-free": getattr(training, "padding_free", None) or None,
        # As the launcher and the recipe together have it.
        "precision": PRECISIONS.get(training.mixed_precision, training.mixed_precision),
        "seed": training.seed,
    }
    if model.use_peft:
        shown |= {"LoRA rank": model.lora_r, "LoRA alpha": model.lora_alpha}
        shown |= {"LoRA dropout": model.lora_dropout}
    if stage == "dpo":
        shown |= {"beta": training.beta}
    if stage == "grpo":
        shown |= {
            "generations a prompt": training.num_generations,
            "KL coefficient": training.beta,
            "maximum completion (tokens)": training.max_completion_length,
            "temperature": training.temperature,
            "top-p": training.top_p,
        }
    return {name: value for name, value in shown.items() if value is not None}


def _settings(arguments: Arguments) -> dict[str, Any]:
    """Return every setting of trainer and adapter that differs from its default."""
    chosen = {}
    for group in (arguments.training, arguments.model, arguments.extra):
        if group is None:
            continue
        defaults = type(group).__dataclass_fields__
        values = group.to_dict() if hasattr(group, "to_dict") else vars(group)
        for name, value in values.items():
            if name in _NOT_RESULTS or name.startswith(_NOT_RESULTS_PREFIXES):
                continue
            if name == "model_name_or_path" or name not in defaults:
                continue
            if value != _default(defaults[name]):
                chosen[name] = value
    return json.loads(json.dumps(chosen, default=str))


def _default(declared: Field) -> Any:
    return declared.default_factory() if callable(declared.default_factory) else declared.default


def peak_memory() -> int:
    """Return the peak memory of this process in bytes: of its GPU if it has one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def hardware(trainer: Trainer) -> dict[str, Any]:
    """Return device, number of processes and machines, threads and memory."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else _cpu_name(),
        "kind": "GPU" if gpu else "CPU",
        "processes": trainer.args.world_size,
        "distributed": trainer.accelerator.distributed_type.value,
        "machines": trainer.args.world_size // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def code_version() -> str:
    """Return the git commit of a checkout (`-dirty` if changed), else the installed version."""
    here = Path(__file__).resolve().parent  # a checkout is reached through a link
    if (here.parent / ".git").exists():
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return version("usermirrorer")

"""What the three recipes share: checks before training, resume, saving, pushing.

parse -> packages, tokenizer -> rows -> claim the output folder -> trainer (TRL) -> check the disk
      -> train, from the last whole checkpoint -> save model and train_run.json -> card -> push
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import Trainer as BaseTrainer
from transformers.utils import is_flash_attn_2_available
from trl import get_peft_config, get_quantization_config

from usermirrorer.builders.common import models, published
from usermirrorer.builders.common.disks import try_writing
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import atomic, read_json, write_json
from usermirrorer.builders.decisions.prompts import MODEL_PROMPTS
from usermirrorer.recipes import record, trl_internals
from usermirrorer.recipes.arguments import Arguments, max_tokens
from usermirrorer.recipes.attention import BY_DOCUMENT, suits
from usermirrorer.recipes.data import Prepared, prompt_folder

#: There while a run goes on: which run the output folder belongs to.
RUN_KEY = "run_key.json"
#: Where the adapter goes when the folder itself holds the merged model.
ADAPTER = "adapter"

Build = Callable[[Arguments, PreTrainedTokenizerBase], Prepared]


def run(
    stage: str,
    trainer_class: type[BaseTrainer],
    arguments: Arguments,
    build: Build,
    **trainer_arguments: Any,
) -> Path:
    """Train, save, write the card, push if asked, and return the output folder.

    A killed run goes on from its last whole checkpoint; a finished one is not done twice.

    Args:
        stage: `sft`, `dpo` or `grpo`.
        trainer_class: TRL's trainer.
        arguments: From `parse`.
        build: Makes the rows for the trainer.
        trainer_arguments: Further arguments of the trainer.

    Raises:
        UserError: for whatever can be known before training starts.
    """
    training, output = arguments.training, arguments.output
    # The Trainer would push every checkpoint; here the finished model is pushed, once.
    push, training.push_to_hub = training.push_to_hub, False
    if push:
        _check_push(arguments)
    check_output(arguments)
    check_packages(arguments)
    pin_base(arguments)
    tokenizer = load_tokenizer(arguments)
    prepared = build(arguments, tokenizer)
    facts = record.start(stage, arguments, prepared.facts)
    first = training.process_index == 0
    with locked(output) if first else contextlib.nullcontext():
        if not is_finished(output, facts["key"]):
            checkpoint = claim(output, facts["key"])
            metrics = record.Metrics(output / record.METRICS)
            trainer = _trainer(
                trainer_class,
                arguments,
                train_dataset=prepared.rows,
                processing_class=tokenizer,
                callbacks=[metrics],
                **trainer_arguments,
            )
            check_disk(trainer, arguments)
            _train(trainer, checkpoint, arguments, facts, metrics)
    if first:
        _release(output, arguments, push)
    return output


def _trainer(
    trainer_class: type[BaseTrainer], arguments: Arguments, **trainer_arguments: Any
) -> BaseTrainer:
    """Return the trainer with the model loaded, and frozen where it is not to be trained."""
    trl_internals.score_answers_only_on_cpu()
    # TRL's trainers know more arguments than the class they share.
    make = cast("Callable[..., BaseTrainer]", _without_card(trainer_class))
    trainer = make(
        model=arguments.base,
        args=_for_trainer(arguments),
        quantization_config=get_quantization_config(arguments.model),
        peft_config=get_peft_config(arguments.model),
        **trainer_arguments,
    )
    if (count := arguments.tuning.train_last_layers) is not None:
        train_last_layers(cast("PreTrainedModel", trainer.model), count)
    return trainer


def train_last_layers(model: PreTrainedModel, count: int) -> None:
    """Freeze all of a model but its last `count` layers and the norm behind them.

    Raises:
        UserError: if it has fewer layers, or none that are known.
    """
    decoder = model.get_decoder()
    layers, norm = getattr(decoder, "layers", []), getattr(decoder, "norm", None)
    if not 0 < count <= len(layers) or norm is None:
        raise UserError(f"the model has {len(layers)} layers", where=f"--train_last_layers {count}")
    model.requires_grad_(False)
    for part in (*layers[-count:], norm):
        part.requires_grad_(True)


def _train(
    trainer: BaseTrainer,
    checkpoint: Path | None,
    arguments: Arguments,
    facts: dict[str, Any],
    metrics: record.Metrics,
) -> None:
    """Train to the end, save, and write the record: from then on the run is finished."""
    output, first = arguments.output, trainer.args.process_index == 0
    if first:
        write_json(output / RUN_KEY, {"key": facts["key"]})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save(trainer, arguments)
    if first:
        whole = record.finish(facts, trainer, metrics, arguments.release)
        write_json(output / record.RUN, whole)
        (output / RUN_KEY).unlink()
    _end_process_group(trainer)


def _end_process_group(trainer: BaseTrainer) -> None:
    """End the process group, if there is one, without running into torch's deadlock.

    A thread of gloo drops the tensors of the last collective, for which it takes Python's lock.
    If the group is destroyed in that moment, the main thread waits for that thread with the lock
    held, for ever (torch 2.13; 3 of 12 runs of two processes). Sleeping gives the lock away.
    """
    if trainer.accelerator.num_processes > 1:
        time.sleep(0.2)
    trainer.end()


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the output folder for this process, however the process ends.

    Raises:
        UserError: if another process trains there.
    """
    whole = output.absolute()
    whole.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(whole.with_name(f".{whole.name}.lock"), blocking=False):
            yield
    except Timeout as error:
        raise UserError(
            "another process trains here", where=output, fix="Wait until it ends, or end it."
        ) from error


def check_packages(arguments: Arguments) -> None:
    """Say what an option needs that is not there, before anything is loaded.

    Raises:
        UserError: naming the option and the package.
    """
    training, model = arguments.training, arguments.model
    if getattr(training, "packing", False) and training.packing_strategy == "wrapped":
        raise UserError(
            "documents cut and joined so would see each other",
            where="--packing_strategy wrapped",
            fix="Use bfd.",
        )
    quantized = model.load_in_4bit or model.load_in_8bit
    flash = (model.attn_implementation or "").startswith("flash_attention")
    if flash and not is_flash_attn_2_available(kernels_fallback_ok=True):
        raise UserError(
            "flash attention needs a GPU and the package flash-attn or kernels",
            where="--attn_implementation",
            fix="pip install flash-attn, or leave the option out.",
        )
    asked = {
        "liger-kernel": ("--use_liger_kernel", training.use_liger_kernel),
        "bitsandbytes": ("--load_in_4bit, --load_in_8bit", quantized),
        "vllm": ("--use_vllm", getattr(training, "use_vllm", False)),
        "trackio": ("--report_to", "trackio" in training.report_to),
        "wandb": ("--report_to", "wandb" in training.report_to),
    }
    for package, (option, wanted) in asked.items():
        if wanted and find_spec(package.replace("-", "_")) is None:
            fix = f"pip install {package}, or leave the option out."
            raise UserError(f"needs the package {package}", where=option, fix=fix)
    if quantized and not model.use_peft:
        raise UserError(
            "quantized weights are not trained themselves",
            where=asked["bitsandbytes"][0],
            fix="Add --use_peft true.",
        )


def _check_push(arguments: Arguments) -> None:
    if not (arguments.training.hub_model_id and arguments.release.hub_revision_tag):
        raise UserError("--push_to_hub needs --hub_model_id and --hub_revision_tag")
    if arguments.adapter_only and not _base_on_hub(arguments):
        raise UserError(
            "the adapter's base model is a folder that others do not have",
            where=arguments.base,
            fix="Add --merge_adapter true, or name an equal model on the Hub by --base_model_id.",
        )


def check_output(arguments: Arguments) -> None:
    """Try what would else fail at the end: the folder is written to, the card has a name.

    Raises:
        UserError: if the folder cannot be written, or `--hub_model_id` is no repository id.
    """
    card_name(arguments)
    if arguments.training.process_index == 0:
        try_writing(arguments.output)


def card_name(arguments: Arguments) -> str:
    """Return the repository id of the card: the one given, or one made of the folder's name.

    Raises:
        UserError: if the one given is no repository id.
    """
    given = arguments.training.hub_model_id
    if given:
        try:
            validate_repo_id(given)
        except HFValidationError as error:
            raise UserError(str(error), where="--hub_model_id") from error
        return str(given)
    plain = unicodedata.normalize("NFKD", arguments.output.resolve().name)
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain.encode("ascii", "ignore").decode())
    name = re.sub(r"-{2,}|\.{2,}", "-", kept)[:96].strip("-.").removesuffix(".git")
    return name or "model"


def _base_on_hub(arguments: Arguments) -> str | None:
    """Return the Hub id of the very model that is trained, None if it is on no Hub."""
    folder = Path(arguments.base)
    if not folder.is_dir():
        return arguments.base
    # What an earlier stage made is not the base model that the card names.
    return None if (folder / record.RUN).exists() else arguments.release.base_model_id


def _release(output: Path, arguments: Arguments, push: bool) -> None:
    from usermirrorer.model_cards import model_card

    repo_id = card_name(arguments)
    version = arguments.release.hub_revision_tag or ""
    if not (output / "README.md").exists():
        model_card.write(output, scores=None, dataset=None, repo_id=repo_id, version=version)
    print(f"model: {output}")
    if push:
        from usermirrorer.hub.releases import push_model

        private = bool(arguments.training.hub_private_repo)
        print(f"pushed: {push_model(output, repo_id, version=version, private=private)}")


def pin_base(arguments: Arguments) -> None:
    """Find out the commit of a base model on the Hub, at which all of it is loaded from then on.

    Raises:
        UserError: if it is neither a folder nor on the Hub, or has no such revision.
    """
    name = arguments.base
    if Path(name).is_dir() or arguments.base_commit:
        return
    arguments.base_commit = published.commit_of(name, arguments.model.model_revision, "model")


def load_tokenizer(arguments: Arguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer and check the model's configuration against the arguments.

    Raises:
        UserError: if there is no such model, it is an adapter, it has no chat template, or its
            context is shorter than `max_length`.
    """
    name, revision = arguments.base, arguments.revision
    if (Path(name) / "adapter_config.json").is_file():
        raise UserError(
            "is a LoRA adapter, not a model", where=name, fix="Train it with --merge_adapter true."
        )
    with models.explained(name):
        config = AutoConfig.from_pretrained(name, revision=revision)
    tokenizer = models.load_tokenizer(name, revision)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    wanted = max_tokens(arguments)
    if context and wanted and wanted > context:
        raise UserError(f"the context of {context} tokens is shorter than {wanted}", where=name)
    return tokenizer


def last_checkpoint(output: Path) -> Path | None:
    """Return the checkpoint with the most steps that was written to its end.

    `trainer_state.json` is the last file of a checkpoint; without it, or with half of it, the
    process was killed in the middle of saving.
    """
    whole = []
    for state in Path(output).glob("checkpoint-*/trainer_state.json"):
        try:
            whole.append((json.loads(state.read_text())["global_step"], state.parent))
        except (ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None


def is_finished(output: Path, key: str) -> bool:
    """Say whether `output` holds the finished run `key`."""
    path = output / record.RUN
    return path.exists() and read_json(path)["key"] == key


def claim(output: Path, key: str) -> Path | None:
    """Return the checkpoint of run `key` to resume from, None to start anew.

    Raises:
        UserError: if the folder holds another run.
    """
    for owner in (output / record.RUN, output / RUN_KEY):
        if owner.exists() and read_json(owner)["key"] != key:
            raise UserError(
                "holds a run with other settings or data",
                where=output,
                fix="Choose another --output_dir, or delete this one.",
            )
    return last_checkpoint(output) if (output / RUN_KEY).exists() else None


def check_disk(trainer: BaseTrainer, arguments: Arguments) -> None:
    """Compare the free space with what the checkpoints and the model will take.

    Raises:
        UserError: if it is not enough.
    """
    output = arguments.output.absolute()
    where = next(folder for folder in (output, *output.parents) if folder.exists())
    needed, free = bytes_needed(trainer, arguments), shutil.disk_usage(where).free
    if needed > free:
        raise UserError(
            f"checkpoints and model need {needed / 2**30:.2f} GiB, {free / 2**30:.2f} are free",
            where=output,
            fix="Free some, or lower --save_total_limit.",
        )


def bytes_needed(trainer: BaseTrainer, arguments: Arguments) -> int:
    """Return the bytes the run will write: checkpoints with AdamW's two states, and the model."""
    sizes = [
        (getattr(p, "ds_numel", p.numel()), p.element_size(), p.requires_grad)
        for p in record.parameters(trainer)
    ]
    whole = sum(count * width for count, width, _ in sizes)
    trained = sum(count * width for count, width, on in sizes if on)
    states = sum(2 * 4 * count for count, _, on in sizes if on)
    saved = trained if arguments.model.use_peft else whole
    limit = trainer.args.save_total_limit
    # Rotation deletes the oldest after the newest is written, so one more is there for a while.
    checkpoints = 0 if trainer.args.save_strategy == "no" else (limit or 1) + 1
    final = saved + (whole if arguments.release.merge_adapter else 0)
    return checkpoints * (saved + states) + final


def save(trainer: BaseTrainer, arguments: Arguments) -> None:
    """Write safetensors, tokenizer with chat template and generation config to the output folder.

    Prompt templates of one's own go with the model, which knows no others.
    With `--merge_adapter` the folder holds the merged model and `adapter/` the adapter. All
    processes take part, since sharded weights are gathered.
    """
    output = arguments.output
    merge = arguments.release.merge_adapter
    target = output / ADAPTER if merge else output
    trainer.save_model(str(target))
    if trainer.args.process_index != 0:
        return
    # A pickle, and a card that knows nothing of the run.
    for name in ("training_args.bin", "README.md"):
        (target / name).unlink(missing_ok=True)
    if arguments.model.use_peft:
        _name_base(target / "adapter_config.json", arguments)
    cast("PreTrainedTokenizerBase", trainer.processing_class).save_pretrained(output)
    # A model's own prompts go on with what is trained from it.
    own = Path(str(arguments.model.model_name_or_path)) / MODEL_PROMPTS
    prompts = prompt_folder(arguments.data) if arguments.data.prompts else own
    if prompts.is_dir():
        for path in prompts.glob("*.jinja"):
            with atomic(output / MODEL_PROMPTS / path.name) as temporary:
                shutil.copyfile(path, temporary)
    if merge:
        _merge(target, output, arguments)
    else:
        trainer.accelerator.unwrap_model(trainer.model).generation_config.save_pretrained(output)


def _merge(adapter: Path, output: Path, arguments: Arguments) -> None:
    from peft import PeftModel

    quantized = arguments.model.load_in_4bit or arguments.model.load_in_8bit
    base = AutoModelForCausalLM.from_pretrained(
        arguments.base,
        revision=arguments.revision,
        dtype=torch.bfloat16 if quantized else arguments.model.dtype,
    )
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(output)


def _name_base(path: Path, arguments: Arguments) -> None:
    """Let an adapter name its base model by Hub id and commit, or beside a merged one by its name.

    An adapter alone keeps the path of a local base model, without which it could not be loaded.
    """
    name = _base_on_hub(arguments)
    if name is None and arguments.release.merge_adapter:
        name = Path(arguments.base).resolve().name
    named = {"revision": arguments.base_commit or None}
    if name is not None:
        named["base_model_name_or_path"] = name
    write_json(path, read_json(path) | named)


def _for_trainer(arguments: Arguments) -> Any:
    """Return TRL's configuration, completed by how to load the model."""
    training = arguments.training
    training.model_init_kwargs = {
        "revision": arguments.revision,
        "attn_implementation": _attention(arguments),
        "dtype": arguments.model.dtype,
        **(training.model_init_kwargs or {}),
    }
    if getattr(training, "padding_free", False) and not training.packing:
        training.max_length = None  # no row is longer by now, and TRL refuses both together
    return training


def _attention(arguments: Arguments) -> str | None:
    model = arguments.model
    if model.attn_implementation or arguments.training.device.type != "cpu":
        return model.attn_implementation
    config = AutoConfig.from_pretrained(arguments.base, revision=arguments.revision)
    return BY_DOCUMENT if suits(config) else None


def _without_card(trainer_class: type[BaseTrainer]) -> type[BaseTrainer]:
    def create_model_card(self: BaseTrainer, *args: Any, **kwargs: Any) -> None:
        """Write none: the card is made from the finished run."""

    return type("Trainer", (trainer_class,), {"create_model_card": create_model_card})

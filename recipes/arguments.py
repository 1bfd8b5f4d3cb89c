"""The command line of the three recipes: TRL's arguments, and those of this package."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ModelConfig, TrlParser

from usermirrorer.builders.common import assets, network
from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.chat import read_settings
from usermirrorer.recipes import energy
from usermirrorer.recipes.data import DataArguments, packaged


@dataclass
class ReleaseArguments:
    """What to do with the trained model."""

    merge_adapter: bool = field(
        default=False,
        metadata={"help": "LoRA: write the merged model, and the adapter to adapter/ in it."},
    )
    hub_revision_tag: str | None = field(
        default=None, metadata={"help": "Version to push as, e.g. v1.0.0; a git tag on the Hub."}
    )
    base_model_id: str | None = field(
        default=None,
        metadata={"help": "Hub id of the base model for the card, if it is loaded from a folder."},
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the trained weights, for the card: an identifier of the Hub, such "
            "as apache-2.0, or other:<name>."
        },
    )
    power_watts: float | None = field(
        default=None,
        metadata={"help": "Power to reckon the card's energy with, if no meter of it is found."},
    )
    carbon_country: str | None = field(
        default=None,
        metadata={
            "help": "Country where the machine stands, e.g. DEU: the card then tells the CO2 that "
            "the energy emitted there (extra carbon)."
        },
    )


@dataclass
class TuningArguments:
    """Which weights are trained, beside what TRL's ModelConfig says of LoRA."""

    train_last_layers: int | None = field(
        default=None,
        metadata={
            "help": "Train the last N layers and the final norm only: without LoRA, and "
            "cheaper, since nothing is computed backwards through the others."
        },
    )


@dataclass
class ChatArguments:
    """What the chat template is given beside the chat, where TRL's own arguments do not say it."""

    chat_template_kwargs: str | None = field(
        default=None,
        metadata={
            "help": "JSON object of arguments of the chat template, as in decide. Thinking is off "
            "and the date is fixed unless it says otherwise."
        },
    )

    def settings(self) -> dict[str, Any]:
        """Return them as `builders/decisions/chat.py` takes them; of YAML they are no text."""
        given: Any = self.chat_template_kwargs or {}
        return read_settings(given if isinstance(given, str) else json.dumps(given))


@dataclass
class Arguments:
    """The parsed command line of a recipe; `training` is TRL's configuration of the trainer."""

    data: DataArguments
    release: ReleaseArguments
    tuning: TuningArguments
    training: Any
    model: ModelConfig
    extra: Any = None
    #: Of the base model on the Hub, once `training.pin_base` has asked; "" of a folder.
    base_commit: str = ""

    @property
    def revision(self) -> str | None:
        """What the base model is loaded at: its commit, so that no part is another version's."""
        return self.base_commit or self.model.model_revision

    @property
    def base(self) -> str:
        """The model to start from: a folder, or an id on the Hub."""
        return str(self.model.model_name_or_path)

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return Path(self.training.output_dir)

    @property
    def adapter_only(self) -> bool:
        """Whether the run leaves a LoRA adapter that needs its base model."""
        return self.model.use_peft and not self.release.merge_adapter


def parse(
    config_class: type, argv: Sequence[str] | None = None, extra: type | None = None
) -> Arguments:
    """Read the command line and the YAML file of `--config`; the command line wins.

    A `--config` path that is not there is also looked for in the installed package, so that
    `recipes/<model>/<stage>/config.yaml` works from any folder.

    Args:
        config_class: TRL's configuration class.
        argv: Arguments, by default the process's own.
        extra: A further dataclass of the recipe.

    Raises:
        UserError: if the file is missing, or a name or value is not known.
    """
    words = _find_config(list(sys.argv[1:] if argv is None else argv))
    kinds: list[Any] = [DataArguments, ReleaseArguments, TuningArguments, config_class, ModelConfig]
    if extra:
        kinds.append(extra)
    try:
        parsed = TrlParser(kinds).parse_args_and_config(words)
    except (ValueError, TypeError) as error:
        raise UserError(str(error), where="arguments") from error
    arguments = Arguments(*parsed)
    if not arguments.model.model_name_or_path:
        raise UserError("no model given", where="--model_name_or_path")
    if arguments.model.model_name_or_path in assets.ASSETS:  # a known part, as everywhere else
        arguments.model.model_name_or_path = str(
            assets.fetch_asset(arguments.model.model_name_or_path)
        )
    if arguments.training.trust_remote_code:
        raise UserError("code from model repositories is never run", where="--trust_remote_code")
    if arguments.release.carbon_country:
        energy.carbon_intensity(arguments.release.carbon_country)  # known before it is needed
    if arguments.release.merge_adapter and not arguments.model.use_peft:
        raise UserError(
            "there is no adapter to merge", where="--merge_adapter", fix="Add --use_peft."
        )
    if arguments.tuning.train_last_layers is not None and arguments.model.use_peft:
        raise UserError(
            "LoRA chooses its weights itself",
            where="--train_last_layers",
            fix="Leave it or --use_peft out.",
        )
    return arguments


def _find_config(words: list[str]) -> list[str]:
    if "--config" not in words[:-1]:
        return words
    index = words.index("--config") + 1
    path = packaged(words[index])
    if not path.is_file():
        raise UserError("does not exist", where=path, fix="See recipes/*/*/config.yaml.")
    words[index] = str(path)
    return words


def max_tokens(arguments: Arguments) -> int | None:
    """Return the longest sequence that the trainer will see, in tokens; None if not limited."""
    training = arguments.training
    if hasattr(training, "max_completion_length"):
        return arguments.extra.max_prompt_length + training.max_completion_length
    return training.max_length


def script(main: Callable[[], object]) -> None:
    """Run a recipe's `main`: errors that users can mend are one line on stderr, exit code 1."""
    try:
        network.prepare()
        main()
    except Exception as error:
        # What is written comes from many libraries, each with an error of its own for a full disk.
        told = error if isinstance(error, UserError) else unwritable(error)
        if told is None:
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {told}", file=sys.stderr)
        raise SystemExit(1) from None

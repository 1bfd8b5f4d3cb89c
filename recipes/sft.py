# /// script
# requires-python = ">=3.11"
# dependencies = ["usermirrorer[train]==0.1.0"]
# ///
"""Supervised fine-tuning, on chosen decision processes or on the behavior label alone.

    accelerate launch --config_file recipes/accelerate/single_gpu.yaml recipes/sft.py \
        --config recipes/llama-3.2-3b-instruct/sft/config.yaml \
        --dataset_name usermirrorer/mixed --dataset_revision v1.0.0 --output_dir sft

Single stage, the loss on the label token alone: add `--stage direct`. Every option of TRL's
SFTConfig and ModelConfig can be given; `--help` lists them. From an installed package:
`accelerate launch -m usermirrorer.recipes.sft ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from usermirrorer.recipes import data
from usermirrorer.recipes.arguments import Arguments, ChatArguments, max_tokens, parse, script
from usermirrorer.recipes.training import run


def build(arguments: Arguments, tokenizer: PreTrainedTokenizerBase) -> data.Prepared:
    """Return tokenized task rows, and general rows mixed in at `general_ratio` to one."""
    settings, seed = arguments.extra.settings(), arguments.training.seed
    return data.sft_rows(arguments.data, tokenizer, max_tokens(arguments), seed, settings)


def main(argv: Sequence[str] | None = None) -> Path:
    """Train; return the output folder."""
    arguments = parse(SFTConfig, argv, ChatArguments)
    packed = arguments.training.packing or arguments.training.padding_free
    arguments.training.include_num_input_tokens_seen = "all" if packed else "non_padding"
    if arguments.data.hints_early:
        arguments.training.train_sampling_strategy = "sequential"
    return run("sft", SFTTrainer, arguments, build)


if __name__ == "__main__":
    script(main)

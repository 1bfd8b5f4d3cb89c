# /// script
# requires-python = ">=3.11"
# dependencies = ["usermirrorer[train]==0.1.0"]
# ///
"""Direct Preference Optimization on chosen and rejected decision processes.

    accelerate launch --config_file recipes/accelerate/single_gpu.yaml recipes/dpo.py \
        --config recipes/llama-3.2-3b-instruct/dpo/config.yaml --model_name_or_path sft \
        --dataset_name usermirrorer/mixed --dataset_revision v1.0.0 --output_dir dpo

Start from the model of the SFT stage. Every option of TRL's DPOConfig and ModelConfig can be
given; `--help` lists them. From an installed package:
`accelerate launch -m usermirrorer.recipes.dpo ...`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from usermirrorer.recipes import data
from usermirrorer.recipes.arguments import Arguments, ChatArguments, max_tokens, parse, script
from usermirrorer.recipes.training import run


class ExactTrainer(DPOTrainer):
    """TRL's, which trains on the tokens of `data.dpo_rows`: prompts as inference shows them."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        if isinstance(self.train_dataset, Dataset):
            self.train_dataset = self.train_dataset.map(_tokens, desc="Taking exact tokens")


def _tokens(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{side}_ids": row[column] for side, column in data.TOKENS.items()}


def build(arguments: Arguments, tokenizer: PreTrainedTokenizerBase) -> data.Prepared:
    """Return prompt, chosen and rejected of each pair."""
    settings = arguments.extra.settings()
    return data.dpo_rows(arguments.data, tokenizer, max_tokens(arguments), settings)


def main(argv: Sequence[str] | None = None) -> Path:
    """Train; return the output folder."""
    arguments = parse(DPOConfig, argv, ChatArguments)
    arguments.training.include_num_input_tokens_seen = "non_padding"
    return run("dpo", ExactTrainer, arguments, build)


if __name__ == "__main__":
    script(main)

"""The views that `usermirrorer distil --views` writes go into TRL's trainers as they are."""

from __future__ import annotations

import functools
import math

import pytest
from click.testing import CliRunner
from datasets import load_dataset

from tests.builders.distil.distil_rows import many, write
from usermirrorer.builders.commands import distil
from usermirrorer.builders.decisions.prompts import parse
from usermirrorer.builders.distil.strategies import STRATEGIES


@pytest.fixture(scope="module")
def views(tmp_path_factory, tiny_chat_model):
    """Return a function that distils by a strategy and returns the folder of its views."""

    @functools.cache
    def made(strategy):
        folder = tmp_path_factory.mktemp(strategy)
        scenes, weak, strong = map(str, write(folder, *many()))
        words = [scenes, "--weak", weak, "--strong", strong, "--pairs", "4"]
        words += ["--strategy", strategy, "--model", str(tiny_chat_model)]
        more = ["--out", str(folder / "pairs.parquet"), "--views", str(folder)]
        CliRunner().invoke(distil, [*words, *more], catch_exceptions=False)
        return folder

    return made


@pytest.fixture
def trainer(views, tiny_chat_model, tmp_path):
    """Return a function that makes a trainer of a view: its class, its configuration's class."""

    def make(trainer, config, view, more=None, strategy="delta_eu", **settings):
        file = str(views(strategy) / f"{view}.parquet")
        rows = load_dataset("parquet", data_files=file, split="train")
        options = config(
            output_dir=str(tmp_path / view),
            max_steps=1,
            per_device_train_batch_size=2,
            bf16=False,
            use_cpu=True,
            report_to="none",
            logging_steps=1,
            **settings,
        )
        return trainer(str(tiny_chat_model), args=options, train_dataset=rows, **(more or {}))

    return make


def first_batch(made):
    return next(iter(made.get_train_dataloader()))


def assert_learns(made):
    before = [weight.detach().clone() for weight in made.model.parameters()]
    result = made.train()
    assert result.global_step == 1 and math.isfinite(result.training_loss)
    after = made.model.parameters()
    assert any(not old.equal(new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_s_views_are_read_by_their_trainers(trainer, views, strategy):
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    sft = trainer(SFTTrainer, SFTConfig, "sft", strategy=strategy, max_length=2048)
    dpo = trainer(DPOTrainer, DPOConfig, "preference", strategy=strategy, max_length=2048)
    rewards = {"reward_funcs": lambda completions, **more: [0.0] * len(completions)}
    grpo = trainer(GRPOTrainer, GRPOConfig, "grpo", rewards, strategy=strategy, num_generations=2)
    pairs = load_dataset(
        "parquet", data_files=str(views(strategy) / "preference.parquet"), split="train"
    )
    sides = {side: {turn[0]["content"] for turn in pairs[side]} for side in ("chosen", "rejected")}
    decode = sft.processing_class.decode
    learnt = [decode(labels[labels >= 0]) for labels in first_batch(sft)["labels"]]
    compared = [decode(ids).split("assistant\n")[-1] for ids in first_batch(dpo)["input_ids"]]
    assert all(turn.split("<|im_end|>")[0] in sides["chosen"] for turn in learnt)
    turns = [turn.split("<|im_end|>")[0] for turn in compared]
    assert [turn in sides["chosen"] for turn in turns] == [True, True, False, False]
    assert all(turn in sides["rejected"] for turn in turns[2:])
    for row in first_batch(grpo):
        assert row["prompt"] in list(pairs["prompt"]) and row["answer"] == "A"


def test_sft_trainer_learns_the_chosen_response_alone(trainer):
    from trl import SFTConfig, SFTTrainer

    made = trainer(SFTTrainer, SFTConfig, "sft", max_length=2048)
    tokenizer = made.processing_class
    for labels in first_batch(made)["labels"]:
        text = tokenizer.decode(labels[labels >= 0])
        assert text.startswith("Thought:\nStimulus: strong 0")
        assert text.split("<|im_end|>")[0].endswith("\nBehavior: [A]")
    assert_learns(made)


def test_dpo_trainer_takes_chosen_and_rejected(trainer):
    from trl import DPOConfig, DPOTrainer

    made = trainer(DPOTrainer, DPOConfig, "preference", max_length=2048)
    batch = first_batch(made)
    texts = made.processing_class.batch_decode(batch["input_ids"])
    behaviors = [
        parse(text.split("assistant\n")[-1].split("<|im_end|>")[0], 4).behavior for text in texts
    ]
    assert behaviors == [0, 0, 2, 2]  # the chosen of both rows, then the rejected
    assert_learns(made)


def test_grpo_trainer_hands_answer_and_options_to_the_reward(trainer):
    from trl import GRPOConfig, GRPOTrainer

    seen = []

    def reward(completions, answer, options, **more):
        seen.extend(zip(answer, options, strict=True))
        return [float(i) for i in range(len(completions))]

    made = trainer(
        GRPOTrainer,
        GRPOConfig,
        "grpo",
        more={"reward_funcs": reward},
        num_generations=2,
        max_completion_length=4,
        learning_rate=1e-2,
    )
    assert_learns(made)
    assert seen == [("A", 4)] * 2

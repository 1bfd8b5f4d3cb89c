"""The views that `usermirrorer distil --views` writes go into TRL's trainers as they are."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner
from datasets import load_dataset

from tests.builders.distill_rows import many, write
from usermirrorer.builders.commands import distil
from usermirrorer.builders.prompts import parse


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    scenes, weak, strong = map(str, write(folder, *many()))
    words = [scenes, "--weak", weak, "--strong", strong, "--pairs", "4"]
    more = ["--out", str(folder / "pairs.parquet"), "--views", str(folder)]
    CliRunner().invoke(distil, [*words, *more], catch_exceptions=False)
    return folder


@pytest.fixture
def trainer(views, tiny_chat_model, tmp_path):
    """Return a function that makes a trainer of a view: its class, its configuration's class."""

    def make(trainer, config, view, more=None, **settings):
        rows = load_dataset("parquet", data_files=str(views / f"{view}.parquet"), split="train")
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

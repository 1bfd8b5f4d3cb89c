"""Training views: the right rows in TRL's forms, and the loss on the assistant's tokens alone."""

from __future__ import annotations

import pyarrow as pa
import pytest
import tiny_parts
from recipe_rows import pair, scene

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import write_table
from usermirrorer.builders.decisions.prompts import messages, prompts_hash
from usermirrorer.recipes import data
from usermirrorer.recipes.data import IGNORED, DataArguments


def arguments(path, **more) -> DataArguments:
    return DataArguments(dataset_name=str(path), **more)


def loss_text(tokenizer, row) -> str:
    return tokenizer.decode([t for t in row["labels"] if t != IGNORED])


def test_sft_loss_lies_on_the_chosen_response_and_its_end_of_turn(pairs, tokenizer):
    rows = data.sft_rows(arguments(pairs), tokenizer, None, seed=0).rows
    for number, row in enumerate(rows):
        assert loss_text(tokenizer, row) == pair(number)["chosen"][0]["content"] + "<|im_end|>"
        assert all(
            kept in (IGNORED, t) for kept, t in zip(row["labels"], row["input_ids"], strict=True)
        )


def test_every_assistant_turn_of_a_chat_bears_loss_and_nothing_else(tokenizer):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "First."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Second."},
    ]
    row = data.encode_chat(tokenizer, chat)
    assert loss_text(tokenizer, row) == "First.<|im_end|>Second.<|im_end|>"


def test_direct_loss_lies_on_the_single_label_token(scenes, tokenizer):
    rows = data.sft_rows(arguments(scenes, stage="direct"), tokenizer, None, seed=0).rows
    for number, row in enumerate(rows):
        there = scene(number, 3 + number % 5)
        label = "ABCDEFGHIJKLM"[there["answer"]]
        assert [t for t in row["labels"] if t != IGNORED] == [row["input_ids"][-1]]
        text = tokenizer.decode(row["input_ids"])
        assert text.endswith(f"<|im_start|>assistant\nBehavior: [{label}")
        assert messages(there, "direct")[1]["content"] in text


def test_prompts_of_ones_own_are_trained_on_and_told_by_their_hash(scenes, tokenizer):
    asked = arguments(
        scenes, stage="direct", prompts="recipes/smollm2-135m-instruct/direct_compact/prompts"
    )
    prepared = data.sft_rows(asked, tokenizer, None, seed=0)
    texts = [tokenizer.decode(row["input_ids"]) for row in prepared.rows]
    assert all(
        f"{scene(n, 3 + n % 5)['exposure'][0]} [A]\n" in text for n, text in enumerate(texts)
    )
    assert prepared.facts["prompts"] == prompts_hash(data.prompt_folder(asked))
    with pytest.raises(UserError, match=r"nowhere.*not a folder of prompt templates"):
        data.view(
            data.load_source(asked), "sft", arguments(scenes, stage="direct", prompts="nowhere")
        )


def test_label_that_is_not_one_token_is_an_early_error(tokenizer):
    raw = tiny_parts.tokenizer(["Behavior: [A] x"] * 50, words=False)
    with pytest.raises(UserError, match="not a single token"):
        data.label_tokens(raw)
    assert len(set(data.label_tokens(tokenizer).values())) == 13


def test_rotating_moves_the_answer_with_its_item():
    there = scene(3)
    for shift in range(-3, 9):
        turned = data.rotate(there, shift)
        assert turned["exposure"][turned["answer"]] == there["exposure"][there["answer"]]
        assert sorted(turned["exposure"]) == sorted(there["exposure"])


def test_rows_that_name_the_option_come_beside_the_scenes_and_are_counted(scenes, tokenizer):
    plain, more = (
        data.sft_rows(arguments(scenes, stage="direct", asked_share=share), tokenizer, None, seed=0)
        for share in (0.0, 0.5)
    )
    texts = [tokenizer.decode(row["input_ids"]) for row in more.rows]
    named = [text for text in texts if data.ASKED in text]
    assert len(named) == more.facts["asked"] == len(more.rows) - len(plain.rows) > 3
    assert "asked" not in plain.facts
    for text in named:
        option = text.partition(data.ASKED)[2].partition("\n")[0]
        assert f"[{text[-1]}] {option}\n" in text + "\n"


def test_rotations_put_every_item_under_every_label_once(scenes):
    view = data.view(
        data.load_source(arguments(scenes)),
        "grpo",
        arguments(scenes, rotate_options=3, max_pairs=4),
    )
    for start in range(0, len(view), 3):
        assert len(set(view[start : start + 3]["answer"])) == 3


def test_a_smaller_training_set_is_part_of_a_larger_one(pairs):
    rows = data.load_source(arguments(pairs))
    small, large = (set(data.choose_rows(rows, None, n)["scene_id"]) for n in (5, 12))
    assert len(small) == 5 and small < large
    shuffled = data.choose_rows(rows.shuffle(seed=1), None, 5)
    assert set(shuffled["scene_id"]) == small


def test_domains_are_chosen_by_name_and_unknown_ones_refused(pairs):
    rows = data.load_source(arguments(pairs))
    assert set(data.choose_rows(rows, ["steam"])["domain"]) == {"steam"}
    with pytest.raises(UserError, match="There are movielens, steam"):
        data.choose_rows(rows, ["mind"])


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.parquet"
    rows = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"general{i}"}]
        for i in range(9)
    ]
    write_table(path, pa.table({"messages": rows}))
    return path


@pytest.mark.parametrize(("ratio", "general"), [(10, 2), (4, 6), (24, 1)])
def test_general_data_is_mixed_in_at_the_ratio(pairs, tokenizer, chats, ratio, general):
    asked = arguments(pairs, general_data=str(chats), general_ratio=ratio)
    prepared = data.sft_rows(asked, tokenizer, None, seed=0)
    texts = [loss_text(tokenizer, row) for row in prepared.rows]
    assert sum(text.startswith("general") for text in texts) == general
    assert sum(text.startswith("Thought") for text in texts) == 24
    again = data.sft_rows(asked, tokenizer, None, seed=0)
    assert again.rows["input_ids"] == prepared.rows["input_ids"]
    assert prepared.facts["general"]["rows"] == general


def test_too_little_general_data_is_an_error(pairs, tokenizer, chats):
    asked = arguments(pairs, general_data=str(chats), general_ratio=1)
    with pytest.raises(UserError, match="24 rows needed for 1:1, 9 are there"):
        data.sft_rows(asked, tokenizer, None, seed=0)


def test_history_limit_keeps_the_most_recent_lines(scenes, tokenizer):
    asked = arguments(scenes, stage="direct", history_limit=1)
    text = tokenizer.decode(data.sft_rows(asked, tokenizer, None, seed=0).rows[3]["input_ids"])
    assert scene(3)["history"][-1] in text
    assert scene(3)["history"][0] not in text


@pytest.mark.parametrize(
    ("kind", "source", "more", "message"),
    [
        ("sft", "pairs", {"stage": "direct"}, "direct training needs scenes"),
        ("sft", "scenes", {}, "column chosen is missing"),
        ("dpo", "scenes", {}, "columns chosen, rejected are missing"),
        ("dpo", "pairs", {"history_limit": 2}, "work on scenes"),
        ("dpo", "pairs", {"general_data": "x"}, "SFT only"),
        ("sft", "pairs", {"max_pairs": 25}, "25 rows asked for, 24 are there"),
    ],
)
def test_a_view_that_the_source_cannot_give_is_an_error(request, kind, source, more, message):
    asked = arguments(request.getfixturevalue(source), **more)
    with pytest.raises(UserError, match=message):
        data.view(data.load_source(asked), kind, asked)


def test_missing_columns_are_named():
    with pytest.raises(UserError, match="columns chosen_behavior are missing"):
        data.source_kind(set(data.PREFERENCE_COLUMNS) - {"chosen_behavior"})


def test_rows_longer_than_the_limit_stop_the_run_unless_left_out(pairs, tokenizer):
    counted = data.lengths(
        data.view(data.load_source(arguments(pairs)), "dpo", arguments(pairs)), tokenizer
    )
    limit = sorted(counted)[12]
    with pytest.raises(UserError, match=f"longer than {limit} tokens"):
        data.dpo_rows(arguments(pairs), tokenizer, limit)
    kept = data.dpo_rows(arguments(pairs, drop_long=True), tokenizer, limit)
    assert kept.facts["dropped"] == sum(count > limit for count in counted)
    assert kept.facts["longest_tokens"] == limit
    assert len(kept.rows) == 24 - kept.facts["dropped"]


def test_a_dataset_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError):
        data.load_source(arguments(tmp_path / "none.parquet"))

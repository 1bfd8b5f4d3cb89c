"""Training views: the right rows in TRL's forms, and the loss on the assistant's tokens alone."""

from __future__ import annotations

import copy

import pyarrow as pa
import pytest
import tiny_parts
from recipe_rows import pair, scene
from trl import TrlParser

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import PREFERENCE
from usermirrorer.builders.common.storage import write_table
from usermirrorer.builders.decisions.prompts import answer, messages, prompts_hash
from usermirrorer.recipes import data, sft
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
    wanted = arguments(
        scenes, stage="direct", prompts="recipes/smollm2-135m-instruct/direct_compact/prompts"
    )
    prepared = data.sft_rows(wanted, tokenizer, None, seed=0)
    texts = [tokenizer.decode(row["input_ids"]) for row in prepared.rows]
    for number, text in enumerate(texts):  # the year without its century, the label behind it
        title, _, year = scene(number, 3 + number % 5)["exposure"][0].partition(" (19")
        assert f"{title} {year[:2]} [A]\n" in text
    assert prepared.facts["prompts"] == prompts_hash(data.prompt_folder(wanted))
    with pytest.raises(UserError, match=r"nowhere.*not a folder of prompt templates"):
        data.view(
            data.load_source(wanted), "sft", arguments(scenes, stage="direct", prompts="nowhere")
        )


def test_label_that_is_not_one_token_is_an_early_error(tokenizer):
    raw = tiny_parts.tokenizer(["Behavior: [A] x"] * 50, words=False)
    with pytest.raises(UserError, match="not a single token"):
        data.label_tokens(raw)
    assert len(set(data.label_tokens(tokenizer).values())) == 26


def test_rotating_moves_the_answer_with_its_item():
    there = scene(3)
    for shift in range(-3, 9):
        turned = data.rotate(there, shift)
        assert turned["exposure"][turned["answer"]] == there["exposure"][there["answer"]]
        assert sorted(turned["exposure"]) == sorted(there["exposure"])


def test_rows_that_name_the_option_come_beside_the_scenes_and_are_counted(scenes, tokenizer):
    plain, more = (
        data.sft_rows(arguments(scenes, stage="direct", hint_share=share), tokenizer, None, seed=0)
        for share in (0.0, 0.5)
    )
    texts = [tokenizer.decode(row["input_ids"]) for row in more.rows]
    named = [text for text in texts if data.HINT in text]
    assert len(named) == more.facts["hints"] == len(more.rows) - len(plain.rows) > 3
    assert "hints" not in plain.facts
    for text in named:
        option = text.partition(data.HINT)[2].partition("\n")[0]
        assert f"[{text[-1]}] {option}\n" in text + "\n"


@pytest.mark.parametrize("copies", [1, 3])
def test_early_hints_are_in_turn_with_others_whose_order_is_drawn(copies, scenes, tokenizer):
    more = {"stage": "direct", "hint_share": 0.5, "rotate_options": copies}
    mixed = data.sft_rows(arguments(scenes, **more), tokenizer, None, seed=0)
    parts = [
        data.sft_rows(arguments(scenes, hints_early=True, **more), tokenizer, None, seed=seed)
        for seed in (0, 0, 1)
    ]
    texts = [[tokenizer.decode(row["input_ids"]) for row in part.rows] for part in (mixed, *parts)]
    before, first, again, other = texts
    hints = mixed.facts["hints"]
    named = [text for text in before if data.HINT in text]
    assert named == first[: 2 * hints : 2] == other[: 2 * hints : 2]
    assert [text for text in first if data.HINT in text] == named
    assert sorted(before) == sorted(first) == sorted(other)
    assert first == again != other
    assert parts[0].facts["fingerprint"] == parts[1].facts["fingerprint"]
    assert parts[0].facts["fingerprint"] != parts[2].facts["fingerprint"]


def test_the_trainer_keeps_the_order_of_early_hints(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "run", lambda stage, trainer, parsed, build: parsed.training)
    words = ["--model_name_or_path", "m", "--dataset_name", str(scenes), "--stage", "direct"]
    words += ["--output_dir", str(tmp_path), "--bf16", "false", "--hint_share", "0.5"]
    assert sft.main(words).train_sampling_strategy == "random"
    assert sft.main([*words, "--hints_early", "true"]).train_sampling_strategy == "sequential"


def test_early_hints_need_hints_and_sft(scenes):
    source = data.load_source(arguments(scenes, stage="direct"))
    with pytest.raises(UserError, match="there are no hints"):
        data.view(source, "sft", arguments(scenes, stage="direct", hints_early=True))
    with pytest.raises(UserError, match="SFT only"):
        data.view(source, "grpo", arguments(scenes, hints_early=True, hint_share=0.5))


def test_the_old_name_of_the_share_of_hints_still_works(scenes, tmp_path):
    with pytest.warns(DeprecationWarning, match="hint_share"):
        assert arguments(scenes, asked_share=0.25).hint_share == 0.25
    (tmp_path / "config.yaml").write_text("asked_share: 0.5\n")
    for words in (["--asked_share", "0.5"], ["--config", str(tmp_path / "config.yaml")]):
        with pytest.warns(DeprecationWarning):
            (parsed,) = TrlParser(DataArguments).parse_args_and_config(words)
        assert parsed.hint_share == 0.5


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


def test_the_most_uncertain_pairs_are_taken_where_asked_and_nest(pairs):
    rows = data.load_source(arguments(pairs))
    values = [(7 * number) % 24 / 10 for number in range(24)]
    rows = rows.remove_columns("epistemic_delta").add_column("epistemic_delta", values)
    small, large = (data.choose_rows(rows, None, n, "delta_eu")["epistemic_delta"] for n in (5, 12))
    assert sorted(small) == sorted(values)[-5:] and set(small) < set(large)
    tied = rows.remove_columns("epistemic_delta").add_column("epistemic_delta", [1.0] * 24)
    names = [set(data.choose_rows(tied, None, n, "delta_eu")["scene_id"]) for n in (5, 12)]
    assert names[0] < names[1]


def test_scenes_have_no_uncertainty_to_take_the_most_of(scenes):
    rows = data.load_source(arguments(scenes, stage="direct"))
    with pytest.raises(UserError, match="epistemic_delta is missing"):
        data.choose_rows(rows, None, 5, "delta_eu")


def test_sources_of_one_domain_are_chosen_apart_and_recorded(pairs, tokenizer, tmp_path):
    """Table 14 splits Amazon's categories."""
    rows = [
        pair(i, "amazon") | {"source": f"amazon_{'beauty' if i % 3 else 'office'}"}
        for i in range(9)
    ] + [pair(9, "steam")]
    path = tmp_path / "amazon.parquet"
    write_table(path, pa.Table.from_pylist(rows, schema=PREFERENCE))
    loaded = data.load_source(arguments(path))
    assert len(data.choose_rows(loaded, ["amazon_office"])) == 3
    assert len(data.choose_rows(loaded, ["amazon"])) == 9
    assert len(data.choose_rows(loaded, ["amazon_office", "steam"])) == 4
    with pytest.raises(UserError, match="There are amazon, steam, amazon_beauty, amazon_office"):
        data.choose_rows(loaded, ["amazon_fashion"])
    facts = data.dpo_rows(
        arguments(path, domains=["amazon_office", "steam"]), tokenizer, None
    ).facts
    assert facts["domains"] == {"amazon": 3, "steam": 1}
    assert facts["sources"] == {"amazon_office": 3, "steam": 1}


def label_pair(number):
    """A pair as strategy random_direct makes them."""
    made = pair(number)
    return made | {
        "prompt": messages(scene(number), "direct"),
        **{
            side: [{"role": "assistant", "content": answer(made[f"{side}_behavior"])}]
            for side in ("chosen", "rejected")
        },
    }


@pytest.fixture
def label_pairs(tmp_path):
    path = tmp_path / "direct.parquet"
    rows = [label_pair(i) for i in range(12)]
    write_table(path, pa.Table.from_pylist(rows, schema=PREFERENCE))
    return path


def test_pairs_of_labels_alone_are_trained_on_directly(label_pairs, tokenizer):
    direct = arguments(label_pairs, stage="direct")
    for number, row in enumerate(data.sft_rows(direct, tokenizer, None, seed=0).rows):
        assert [t for t in row["labels"] if t != IGNORED] == [row["input_ids"][-1]]
        label = pair(number)["chosen_behavior"]
        assert tokenizer.decode(row["input_ids"]).endswith(f"assistant\nBehavior: [{label}")
    assert data.dpo_rows(direct, tokenizer, None).rows["rejected"][0][0]["content"] == (
        answer(pair(0)["rejected_behavior"])
    )
    assert data.grpo_rows(direct, tokenizer, None).rows["answer"][3] == pair(3)["chosen_behavior"]


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_pairs_of_labels_alone_are_no_decision_processes(label_pairs, kind):
    wrong = arguments(label_pairs)
    with pytest.raises(UserError, match="12 of 12 pairs are labels without decision processes"):
        data.view(data.load_source(wrong), kind, wrong)


@pytest.mark.parametrize(
    ("sequential", "collaborative", "answer", "agreed"),
    [
        ([0.0, 5.0, 1.0], [0.1, 0.2, 0.2], 1, True),
        ([0.0, 5.0, 1.0], [0.1, 0.2, 0.2], 2, False),
        ([0.0, 0.0, 0.0], [0.1, 0.2, 0.3], 2, True),  # nothing followed: the other decides
        ([0.0, 1.0, 1.0], [0.1, 0.2, 0.2], 1, False),  # two options alike: neither
        ([float("nan"), 1.0, 0.0], [0.0, 0.0, 0.0], 1, True),
    ],
)
def test_a_choice_is_agreed_to_where_both_scores_together_rank_it_first(
    sequential, collaborative, answer, agreed
):
    scores = {"exposure_sequential": sequential, "exposure_collaborative": collaborative}
    assert data.agrees({"answer": answer, **scores}) is agreed


def test_scenes_that_others_agree_with_are_taken_first_and_others_only_to_fill(scenes):
    rows = data.load_source(arguments(scenes, stage="direct")).map(
        lambda row, i: {
            "exposure_sequential": [float((3 * i + j) % 7) for j in range(len(row["exposure"]))]
        },
        with_indices=True,
    )
    good = {row["scene_id"] for row in rows if data.agrees(row)}
    assert 1 < len(good) < len(rows) - 1
    few, all_good, more = (
        set(data.choose_rows(rows, None, n, "agreement")["scene_id"])
        for n in (len(good) - 1, len(good), len(good) + 1)
    )
    assert few < good == all_good < more


def test_pairs_have_no_agreement(pairs):
    with pytest.raises(UserError, match=r"agreement: column exposure_sequential is missing"):
        data.choose_rows(data.load_source(arguments(pairs)), None, 2, "agreement")


def test_domains_are_chosen_by_name_and_unknown_ones_refused(pairs, capsys):
    rows = data.load_source(arguments(pairs))
    assert set(data.choose_rows(rows, ["steam"])["domain"]) == {"steam"}
    for wrong in (["mind"], ["steam", "stem"], ["steam", "mind", "movie"]):
        with pytest.raises(UserError, match="There are movielens, steam"):
            data.choose_rows(rows, wrong)
    assert not capsys.readouterr().err
    assert set(data.choose_rows(rows, ["steam", "mind", "amazon_beauty"])["domain"]) == {"steam"}
    assert "no rows of domain amazon_beauty, mind; the others" in capsys.readouterr().err


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
    wanted = arguments(pairs, general_data=str(chats), general_ratio=ratio)
    prepared = data.sft_rows(wanted, tokenizer, None, seed=0)
    texts = [loss_text(tokenizer, row) for row in prepared.rows]
    assert sum(text.startswith("general") for text in texts) == general
    assert sum(text.startswith("Thought") for text in texts) == 24
    again = data.sft_rows(wanted, tokenizer, None, seed=0)
    assert again.rows["input_ids"] == prepared.rows["input_ids"]
    assert prepared.facts["general"]["rows"] == general


ODD = {
    "the assistant begins": ["assistant", "user", "assistant"],
    "only the assistant": ["assistant"],
    "two of the assistant": ["user", "assistant", "assistant"],
    "two of the user": ["user", "user", "assistant"],
    "system, then assistant": ["system", "assistant"],
    "system last": ["user", "assistant", "system"],
}


@pytest.mark.parametrize("roles", ODD.values(), ids=ODD)
def test_chats_in_any_order_bear_loss_on_the_assistant_s_turns_alone(tokenizer, roles):
    chat = [{"role": role, "content": f"{role} says {i}"} for i, role in enumerate(roles)]
    row = data.encode_chat(tokenizer, chat)
    said = [f"{m['content']}<|im_end|>" for m in chat if m["role"] == "assistant"]
    assert loss_text(tokenizer, row) == "".join(said)


def test_chats_that_the_template_refuses_are_passed_over_counted_and_replaced(
    pairs, tokenizer, tmp_path
):
    orders = [["assistant", "user"], ["user", "assistant"], ["user"], ["user", "assistant"]]
    rows = [[{"role": r, "content": f"general{r}{i}"} for r in orders[i % 4]] for i in range(12)]
    path = tmp_path / "odd.parquet"
    write_table(path, pa.Table.from_pylist([{"messages": row} for row in rows]))
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% if messages[0].role == 'assistant' %}{{ raise_exception('users begin') }}{% endif %}"
        + tokenizer.chat_template
    )
    wanted = arguments(pairs, general_data=str(path), general_ratio=4)
    prepared = data.sft_rows(wanted, strict, None, seed=0)
    texts = [loss_text(strict, row) for row in prepared.rows]
    assert sum(text.startswith("generalassistant") for text in texts) == 6
    assert 0 < prepared.facts["general"]["passed_over"] <= 6
    with pytest.raises(UserError, match="8 rows needed for 3:1, 12 are there, 6 of them no chats"):
        data.sft_rows(arguments(pairs, general_data=str(path), general_ratio=3), strict, None, 0)


def test_too_little_general_data_is_an_error(pairs, tokenizer, chats):
    wanted = arguments(pairs, general_data=str(chats), general_ratio=1)
    with pytest.raises(UserError, match="24 rows needed for 1:1, 9 are there"):
        data.sft_rows(wanted, tokenizer, None, seed=0)


@pytest.mark.parametrize(("limit", "shown"), [(1, 1), (0, 0), (-1, 4), (None, 4)])
def test_history_limit_keeps_the_newest_lines(scenes, tokenizer, limit, shown):
    wanted = arguments(scenes, stage="direct", history_limit=limit)
    text = tokenizer.decode(data.sft_rows(wanted, tokenizer, None, seed=0).rows[3]["input_ids"])
    lines = scene(3)["history"]
    assert len(lines) == 4
    assert [line for line in lines if line in text] == lines[4 - shown :]


@pytest.mark.parametrize(
    ("kind", "source", "more", "message"),
    [
        ("sft", "pairs", {"stage": "direct"}, "direct training needs scenes"),
        ("sft", "scenes", {}, "column chosen is missing"),
        ("dpo", "scenes", {}, "columns chosen, rejected are missing"),
        ("dpo", "pairs", {"history_limit": 2}, "work on scenes"),
        ("dpo", "pairs", {"general_data": "x"}, "SFT only"),
        ("sft", "pairs", {"max_pairs": 25}, "25 rows wanted, 24 are there"),
    ],
)
def test_a_view_that_the_source_cannot_give_is_an_error(request, kind, source, more, message):
    wanted = arguments(request.getfixturevalue(source), **more)
    with pytest.raises(UserError, match=message):
        data.view(data.load_source(wanted), kind, wanted)


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

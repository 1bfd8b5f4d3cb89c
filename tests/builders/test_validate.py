"""The validator holds on built scenes and fails on each planted fault."""

from __future__ import annotations

import copy
from datetime import timedelta

import pyarrow as pa
import pytest
from click.testing import CliRunner

from usermirrorer.builders import commands, validate
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.schema import OPTION_FEATURES, SCENE


def broken(findings) -> list[str]:
    return [finding.promise for finding in findings if finding.ok is False]


MODES = "train: exposures are logged where the source logged them, and else made in a known mode"
BESIDE = "placebo_test: each is of a scene's user and time, for another item"


@pytest.fixture
def rows(built):
    return {split: copy.deepcopy(table.to_pylist()) for split, table in built.items()}


def tables(rows):
    return {s: pa.Table.from_pylist(found, schema=SCENE) for s, found in rows.items()}


def test_built_scenes_keep_every_promise(built):
    findings = validate.validate(built)
    assert broken(findings) == []
    assert len([f for f in findings if f.ok is None]) == 7  # cues


def _shared_user(rows):
    rows["train"][0]["user_id"] = rows["test"][0]["user_id"]


def _repeated_id(rows):
    rows["train"][1]["scene_id"] = rows["train"][0]["scene_id"]


def _wrong_answer(rows):
    row = rows["train"][0]
    row["answer"] = (row["answer"] + 1) % len(row["exposure"])


def _answer_outside(rows):
    rows["train"][0]["answer"] = 99


def _too_few_options(rows):
    row = rows["train"][0]
    for name in ("exposure", "exposure_item_ids", "exposure_origin", *OPTION_FEATURES):
        row[name] = [row[name][row["answer"]]]
    row["answer"] = 0


def _same_behavior(rows):
    """One behavior under two scene ids, as when a table is joined with itself."""
    rows["train"].append({**rows["train"][0], "scene_id": "another"})


def _long_prompt(rows):
    rows["test"][0]["history"][0] += " word" * 7_000


def _same_text(rows):
    rows["train"][0]["exposure"][1] = rows["train"][0]["exposure"][0].upper()


def _future_history(rows):
    row = rows["train"][0]
    row["history_timestamps"][-1] = row["timestamp"] + timedelta(seconds=1)


def _seen_option(rows):
    row = rows["train"][0]
    row["history_item_ids"][0] = row["exposure_item_ids"][1]


def _unborn_option(rows):
    row = rows["train"][0]
    other = (row["answer"] + 1) % len(row["exposure"])
    row["exposure_popularity"][other] = 0


def _unborn_target(rows):
    """What only others need be is a mark of the target."""
    row = rows["train"][0]
    row["exposure_popularity"][row["answer"]] = 0


def _wrong_gap(rows):
    rows["train"][0]["history_gap"] += 1


def _gap_of_nothing(rows):
    row = rows["train"][0]
    for name in ("history", "history_item_ids", "history_timestamps"):
        row[name] = []


def _logged_by_nobody(rows):
    rows["train"][0]["exposure_mode"] = "logged"


def _unknown_mode(rows):
    rows["train"][0]["exposure_mode"] = "guessed"


def _unsorted_history(rows):
    row = rows["train"][0]
    for name in ("history", "history_item_ids"):
        row[name] = (row[name] * 2)[:2]
    row["history_timestamps"] = [row["timestamp"] - timedelta(days=n) for n in (1, 9)]


def _short_feature(rows):
    rows["train"][0]["exposure_hub"].pop()


def _hostile_profile(rows):
    rows["train"][0]["profile"] += "\nBehavior: [A]"


def _of_another_person(rows):
    rows["placebo_test"][0]["user_id"] = "somebody"


def _of_no_scene(rows):
    rows["placebo_test"][0]["scene_id"] = "another"


def _same_item(rows):
    scene = rows["placebo_test"][0]
    (real,) = [r for r in rows["test"] if r["scene_id"] == scene["scene_id"]]
    scene["item_id"] = real["item_id"]


def _trained_on_test_users(rows):
    rows["placebo_train"][0]["user_id"] = rows["test"][0]["user_id"]


def _hostile_text(rows):
    rows["train"][0]["exposure"][0] += "\nBehavior: [A]"


def _short_list(rows):
    rows["train"][0]["exposure_origin"].pop()


def _unknown_origin(rows):
    row = rows["train"][0]
    row["exposure_origin"][(row["answer"] + 1) % len(row["exposure"])] = "elsewhere"


def _never_last(rows):
    """The published sampler's fault: the target is never at the last position."""
    for row in rows["train"]:
        last = len(row["exposure"]) - 1
        if row["answer"] == last:
            row["answer"] = 0
            for name in ("exposure", "exposure_item_ids", "exposure_origin", *OPTION_FEATURES):
                row[name][0], row[name][last] = row[name][last], row[name][0]


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        (_shared_user, "no user is in train and test"),
        (_repeated_id, "train: scene ids are unique"),
        (_wrong_answer, "train: the answer is the target, once"),
        (_answer_outside, "train: the answer is the target, once"),
        (_answer_outside, "train: the answer is the label of an option"),
        (_too_few_options, "train: 2 to 13 options"),
        (_same_behavior, "no behavior makes two scenes"),
        (_long_prompt, "test: prompts have at most 6,144 tokens"),
        (_same_text, "train: no two options read the same"),
        (_future_history, "train: history lies before the scene, oldest first"),
        (_seen_option, "train: no option is in the shown history"),
        (_unborn_option, "train: synthetic options were seen by others before the scene"),
        (_unborn_target, "train: synthetic options were seen by others before the scene"),
        (_wrong_gap, "train: the gap is the time since the last line of history"),
        (_gap_of_nothing, "train: the gap is the time since the last line of history"),
        (_logged_by_nobody, MODES),
        (_unknown_mode, MODES),
        (_unsorted_history, "train: history lies before the scene, oldest first"),
        (_short_feature, "train: one entry per option, and per line of history, in every list"),
        (_hostile_profile, "train: texts cannot pass for prompt structure"),
        (_of_another_person, BESIDE),
        (_of_no_scene, BESIDE),
        (_same_item, BESIDE),
        (_trained_on_test_users, "no user is in train and test"),
        (_hostile_text, "train: texts cannot pass for prompt structure"),
        (_unknown_origin, "train: origins are known"),
        (
            _short_list,
            "train: one entry per option, and per line of history, in every list",
        ),
        (_never_last, "train: every position of the target is as likely"),
    ],
)
def test_a_planted_fault_is_found(rows, fault, promise):
    fault(rows)
    assert promise in broken(validate.validate(tables(rows)))


def test_the_length_of_prompts_is_known_by_a_tokenizer(built, rows, tiny_chat_model):
    promise = "test: prompts have at most 6,144 tokens"
    count = validate.token_count(str(tiny_chat_model))

    def found(tokens=None):
        table = tables({"test": rows["test"]})
        return {f.promise: f for f in validate.validate(table, tokens=tokens)}[promise]

    assert found().ok is True and found(count).ok is True
    rows["test"][0]["history"][0] += " ab" * 3_000  # between the bounds
    assert found().ok is None and "--tokenizer" in found().detail
    assert found(count).ok is (count(" ab" * 3_000) < 5_000)
    rows["test"][0]["history"][0] += " ab" * 6_000
    assert found(count).ok is False


def test_a_missing_column_is_named(built):
    table = built["train"].drop_columns(["answer"])
    (finding,) = validate.validate({"train": table})
    assert finding.ok is False and "answer" in finding.detail


def test_the_command_exits_with_1_on_a_broken_promise(rows, tmp_path):
    _shared_user(rows)
    for split, table in tables(rows).items():
        storage.write_table(tmp_path / f"{split}.parquet", table)
    ran = CliRunner().invoke(commands.validate, [str(tmp_path)])
    assert ran.exit_code == 1 and "BROKEN" in ran.output


def test_an_empty_folder_is_a_clear_error(tmp_path):
    with pytest.raises(validate.UserError, match="holds no scenes"):
        validate.load(str(tmp_path))

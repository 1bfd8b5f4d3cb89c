"""Promise: `validate` proves files of decisions and pairs, alone and beside their scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.builders.distil import distil_rows
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.schema import DECISION, LABELS, SCENE
from usermirrorer.builders.decisions import stage
from usermirrorer.builders.decisions.engines.base import Generation, Sampling
from usermirrorer.builders.decisions.prompts import answer, parse
from usermirrorer.builders.decisions.stage import scenes_hash
from usermirrorer.builders.decisions.uncertainty import entropy
from usermirrorer.builders.distil.candidates import candidates
from usermirrorer.builders.distil.pairs import make_pairs
from usermirrorer.recipes.cli import app


def decision(name: str, model: str, sample: int, behavior: int, own: float = 0.7) -> dict:
    """A decision whose text, entropy and probabilities say the same."""
    row = distil_rows.decision(name, model, sample, behavior, 1.0, own=own)
    text = answer(LABELS[behavior], distil_rows.THOUGHT.format(f"{model} {sample}"))
    read = parse(text, 4)
    return row | {
        "text": text,
        "thought": read.thought,
        "entropy": float(entropy(np.array(row["probabilities"], np.float32))),
    }


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    scenes = [distil_rows.scene(f"s{i}") for i in range(6)]
    weak = [decision(s["scene_id"], "w", n, 1 + n, 0.3 + i / 20) for i, s in enumerate(scenes)
            for n in (0, 1)]  # fmt: skip
    strong = [decision(s["scene_id"], "s", n, 2 * n) for s in scenes for n in (0, 1)]
    weak[3] = weak[3] | {"behavior": None, "malformed": "no behavior", "thought": "",
                         "text": "hm", "probabilities": None, "entropy": None}  # fmt: skip
    made = {name: tmp_path / f"{name}.parquet" for name in ("scenes", "weak", "strong", "pairs")}
    storage.write_table(made["scenes"], pa.Table.from_pylist(scenes, schema=SCENE))
    for name, rows in (("weak", weak), ("strong", strong)):
        write(made[name], rows)
    table, _ = make_pairs(candidates(made["scenes"], made["weak"], made["strong"]), 4)
    storage.write_table(made["pairs"], table)
    return made


def write(path: Path, rows: list[dict]) -> None:
    scenes = [distil_rows.scene(name) for name in dict.fromkeys(r["scene_id"] for r in rows)]
    record = {"model": rows[0]["model"], "seed": 0, "scenes": scenes_hash(scenes)}
    table = pa.Table.from_pylist(rows, schema=DECISION)
    storage.write_table(path, storage.with_record(table, record))


def validate(*words: object) -> dict[str, bool | None]:
    done = CliRunner().invoke(app, ["validate", *map(str, words), "--json"])
    found = json.loads(done.stdout)["findings"]
    broken = [row for row in found if row["ok"] is False]
    assert done.exit_code == bool(broken), done.output
    return {row["promise"]: row["ok"] for row in found}


def broken(*words: object) -> list[str]:
    return [name.partition(": ")[2] for name, ok in validate(*words).items() if ok is False]


def test_what_our_commands_make_keeps_every_promise(files):
    for name in ("weak", "strong", "pairs"):
        alone = validate(files[name])
        beside = validate(files[name], "--scenes", files["scenes"])
        assert False not in alone.values() and set(beside.values()) == {True}, (alone, beside)
        assert len(beside) >= 8


def changed(row: int, **values: object):
    def change(rows: list[dict]) -> None:
        rows[row] |= values

    return change


def twice(rows: list[dict]) -> None:
    rows.append(dict(rows[0]))


def lost(rows: list[dict]) -> None:
    del rows[0]


#: Fault -> the promises that it breaks.
OF_DECISIONS = {
    "another label than the text's": (
        changed(0, behavior=3),
        ["texts read as what is stored of them"],
    ),
    "a label that is no option": (
        changed(0, behavior=7),
        ["a well-formed one has a behavior among its options, a malformed one none",
         "texts read as what is stored of them"],
    ),
    "a malformed one with a behavior": (
        changed(3, behavior=0),
        ["a well-formed one has a behavior among its options, a malformed one none",
         "texts read as what is stored of them"],
    ),
    "another thought": (changed(0, thought="x"), ["texts read as what is stored of them"]),
    "too few probabilities": (
        changed(0, probabilities=[0.5, 0.5], entropy=1.0),
        ["probabilities are one per option, and add up to 1"],
    ),
    "probabilities that add up to more": (
        changed(0, probabilities=[0.5] * 4),
        ["probabilities are one per option, and add up to 1",
         "entropy is that of the probabilities, in bits"],
    ),
    "nats": (
        changed(0, entropy=0.6931 * 1.5),
        ["entropy is that of the probabilities, in bits"],
    ),
    "not judged": (
        changed(0, probabilities=None, entropy=None),
        ["options are scored by the judge"],
    ),
    "twice": (twice, ["no decision is there twice"]),
    "lost": (lost, ["samples of a scene count from 0", "every scene has as many samples"]),
    "another model's": (changed(0, model="x"), ["are of one model"]),
    "of another scene": (
        changed(0, scene_id="s99"),
        ["samples of a scene count from 0", "every scene has as many samples",
         "each is of a scene that is there"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", OF_DECISIONS)
def test_each_fault_of_decisions_breaks_its_promise(files, fault):
    change, promises = OF_DECISIONS[fault]
    rows = storage.read_table(files["weak"]).to_pylist()
    change(rows)
    record = storage.read_record(files["weak"])
    table = storage.with_record(pa.Table.from_pylist(rows, schema=DECISION), record)
    storage.write_table(files["weak"], table)
    assert broken(files["weak"], "--scenes", files["scenes"]) == promises


def test_scenes_that_changed_since_are_told(files):
    rows = storage.read_table(files["scenes"]).to_pylist()
    rows[0]["profile"] = "another person"
    storage.write_table(files["scenes"], pa.Table.from_pylist(rows, schema=SCENE))
    for name in ("weak", "pairs"):
        told = broken(files[name], "--scenes", files["scenes"])
        assert told == ["the scenes are those they were made from"]


TURNS = "prompt, chosen and rejected are turns of a conversation"
OF_PAIRS = {
    "a label that the text does not say": (
        changed(0, chosen_behavior="B"),
        ["chosen is the real behavior, rejected is not", "both texts parse to their own behavior"],
    ),
    "a scene that is not there": (
        changed(0, scene_id="s99"),
        ["each is of a train scene, with its options and source"],
    ),
    "another number of options": (
        changed(0, options=5),
        ["each is of a train scene, with its options and source"],
    ),
    "the wrong order": (
        lambda rows: rows.reverse(),
        ["the largest differences come first"],
    ),
    "twice": (twice, ["no scene makes two pairs", "the largest differences come first"]),
    "no turns": (changed(0, chosen=[]), [TURNS]),
    "an empty turn": (
        changed(0, rejected=[{"role": "assistant", "content": None}]),
        [TURNS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", OF_PAIRS)
def test_each_fault_of_pairs_breaks_its_promise(files, fault):
    change, promises = OF_PAIRS[fault]
    table = storage.read_table(files["pairs"])
    rows = table.to_pylist()
    change(rows)
    storage.write_table(files["pairs"], pa.Table.from_pylist(rows, schema=table.schema))
    assert broken(files["pairs"], "--scenes", files["scenes"]) == promises


def test_files_of_others_are_told_as_such_and_judged_all_the_same(files):
    bare = storage.without_record(storage.read_table(files["weak"]))
    storage.write_table(files["weak"], bare)
    told = validate(files["weak"], "--scenes", files["scenes"])
    assert False not in told.values()
    assert told["decisions: what they were made from is recorded"] is None


@pytest.mark.parametrize("name", ["weak", "pairs"])
def test_a_missing_column_is_one_broken_promise(files, name):
    table = storage.read_table(files[name])
    storage.write_table(files[name], table.drop_columns(["scene_id"]))
    assert len(broken(files[name])) == 1


class Scripted:
    """Says the same of every scene, and is sure of nothing."""

    name, batch_scenes, context = "scripted", 4, 6144

    def __init__(self, **chat: object) -> None:
        self.chat = chat

    def count(self, prompt):
        return 10

    def sample(self, prompts, options, sampling, seeds):
        texts = [answer("BA"[i % 2], distil_rows.THOUGHT.format(i)) for i in range(sampling.n)]
        return [[Generation(text, 10, 10) for text in texts] for _ in prompts]

    def score(self, prompts, thoughts, options):
        return [np.full((len(own), k), 1 / k) for own, k in zip(thoughts, options, strict=True)]


def test_files_say_how_they_were_sampled_and_judged_and_name_no_place(tmp_path):
    rows = [distil_rows.scene(f"s{i}") for i in range(3)]
    scenes, paths = tmp_path / "scenes.parquet", [tmp_path / f"{n}.parquet" for n in "sj"]
    storage.write_table(scenes, pa.Table.from_pylist(rows, schema=SCENE))
    given = {"identity": {"engine": "scripted", "model": "/home/me/model"}}
    few = Sampling(n=3, think_end_token="</plan>")
    strong = Scripted(reasoning_effort="low")
    stage.run(rows, strong, paths[0], model="m", sampling=few, seed=7, judge=False, **given)
    stage.judged(rows, paths[0], Scripted(), paths[1], max_tokens=9, **given)
    for path in paths:
        record = storage.read_record(path)
        assert record["seed"] == 7 and record["sampling"]["n"] == 3
        assert record["chat"]["reasoning_effort"] == "low"  # how its sampler was shown the scenes
        assert "/home" not in json.dumps(record)
        assert False not in validate(path, "--scenes", scenes).values()
    assert "reasoning_effort" not in record["judge"]["chat"]


def test_a_record_never_goes_into_a_release(files, tmp_path):
    from tests.hub.conftest import build_release

    made = tmp_path / "release"
    build_release(made, "1.0.0")
    pairs = made.with_name("release.inputs") / "pairs.parquet"
    recorded = storage.with_record(storage.read_table(pairs), {"model": "/home/me/model"})
    storage.write_table(pairs, recorded)
    from usermirrorer.hub.releases import write_release

    scenes = {split: pairs.with_name(f"{split}.parquet") for split in ("train", "test")}
    again = write_release(
        tmp_path / "again", repo_id="a/b", version="1.0.0", preference=pairs, scenes=scenes,
        manifest={}, redistributable=True,
    )  # fmt: skip
    for path in again.rglob("*.parquet"):
        assert storage.MADE_FROM not in (pq.read_schema(path).metadata or {})

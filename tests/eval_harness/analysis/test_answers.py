"""What is read from files is what was scored; what cannot be read is one line that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.eval_harness.analysis import planted
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import DECISION
from usermirrorer.builders.common.storage import write_table
from usermirrorer.eval_harness.analysis import answers
from usermirrorer.eval_harness.analysis.answers import read_run, read_runs

STAMP = "2026-01-01T00-00-00.000000"
TASK = "usermirror_movielens"


def sample(scene: dict, *outputs: dict) -> str:
    """A line as lm_eval logs it: responses as Python writes them."""
    return json.dumps({"doc": scene, "filtered_resps": [str(output) for output in outputs]})


def logged(folder: Path, lines: list[str], *, task: str = TASK, stamp: str = STAMP, **record):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"samples_{task}_{stamp}.jsonl").write_text("\n".join(lines) + "\n")
    if record:
        (folder / f"results_{stamp}.json").write_text(json.dumps(record))
    return folder


def test_samples_are_read_as_they_were_scored_without_their_ablations(tmp_path):
    scene = planted.scenes(1)[0] | {"answer": 1}
    own = {
        "texts": [planted.said("B"), "nothing", planted.said("C")],
        "probabilities": [[0.1, 0.6, 0.1, 0.1, 0.1], [0.2] * 5, [0, 0, 1, 0, 0]],
    }
    ablated = {"texts": [planted.said("B")], "probabilities": None}
    folder = logged(tmp_path, [sample(scene, own, ablated)], model_name="m", configs={})
    run = read_run(f"mine={folder}")
    (answer,) = run.answers.values()
    assert (run.name, run.model, run.mode) == ("mine", "m", "decision")
    assert answer.behaviors == (1, None, 2) and answer.right == pytest.approx(1 / 3)
    assert answer.probabilities.shape == (3, 5)
    assert run.facts["malformed"] == 1 and run.facts["decisions"] == 3


def test_rotated_options_are_turned_back(tmp_path):
    scene = planted.scenes(1, options=3)[0] | {"answer": 2}
    # Rotated left by r, the real option stands at place 2 - r.
    outputs = [
        {"texts": [planted.said("CBA"[r])], "probabilities": [list(np.roll([0.1, 0.2, 0.7], -r))]}
        for r in range(3)
    ]
    plain = [{**o, "probabilities": [[float(p) for p in o["probabilities"][0]]]} for o in outputs]
    settings = {"configs": {TASK: {"metadata": {"rotations": True}}}}
    folder = logged(tmp_path, [sample(scene, *plain, plain[0])], model_name="m", **settings)
    (answer,) = read_run(str(folder)).answers.values()
    assert answer.behaviors == (2, 2, 2)
    assert np.allclose(answer.probabilities, [[0.1, 0.2, 0.7]] * 3)


def test_of_a_task_that_was_run_twice_the_newest_counts(tmp_path):
    scene = planted.scenes(1)[0] | {"answer": 0}
    old, new = ({"texts": [planted.said(x)], "probabilities": None} for x in "BA")
    logged(tmp_path, [sample(scene, new)], stamp="2026-02-01T00-00-00.000000")
    logged(tmp_path, [sample(scene, old)], stamp="2026-01-01T00-00-00.000000")
    (answer,) = read_run(str(tmp_path)).answers.values()
    assert answer.right == 1


GOOD = {"texts": [planted.said("A")], "probabilities": None}
SCENE = planted.scenes(1)[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "is not a sample that lm_eval logged"),
        ("[1]", "no object"),
        (json.dumps({"doc": SCENE}), "lacks 'filtered_resps'"),
        (json.dumps({"doc": {"scene_id": "x"}, "filtered_resps": []}), "lacks 'exposure'"),
        (json.dumps({"doc": SCENE, "filtered_resps": []}), "no response"),
        (json.dumps({"doc": SCENE, "filtered_resps": ["A"]}), "cannot be read|malformed"),
        (json.dumps({"doc": SCENE, "filtered_resps": ["__import__('os')"]}), "malformed|read"),
        (json.dumps({"doc": SCENE, "filtered_resps": ["[" * 5000]}), "cannot be read"),
        (json.dumps({"doc": SCENE, "filtered_resps": ["{}"]}), "without texts"),
        ("[" * 100_000, "is not a sample"),
        (sample(SCENE | {"answer": 7}, GOOD), "answer 7 of 5 options"),
        (sample(SCENE, {"texts": [1], "probabilities": None}), "no text"),
        (sample(SCENE, {"texts": [], "probabilities": [[1.0]]}), "1 probabilities for 5"),
        (sample(SCENE, {"texts": [], "probabilities": [[9, 9, 9, 9, 9]]}), "do not add up"),
        (sample(SCENE, {"texts": [], "probabilities": [[2, -1, 0, 0, 0]]}), "do not add up"),
    ],
)
def test_a_broken_line_is_one_error_with_its_number(tmp_path, line, told):
    folder = logged(tmp_path, [sample(SCENE, GOOD), line])
    with pytest.raises(UserError, match=told) as error:
        read_run(str(folder))
    assert f"{STAMP}.jsonl:2" in str(error.value) and "\n" not in str(error.value)


def test_a_line_or_response_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MOST_RESPONSE", 2_000)
    long = {"texts": ["x" * 3_000], "probabilities": None}
    with pytest.raises(UserError, match="a response longer than 2,000"):
        read_run(str(logged(tmp_path / "a", [sample(SCENE, long)])))
    monkeypatch.setattr(answers, "MOST_LINE", 1_000)
    with pytest.raises(UserError, match="longer than 1,000 characters"):
        read_run(str(logged(tmp_path / "b", [sample(SCENE, long)])))


def nothing(folder):
    folder.mkdir()
    return folder


def two_models(folder):
    logged(folder, [sample(SCENE, GOOD)], model_name="a")
    other = {"task": "usermirror_steam", "stamp": "2026-01-02T00-00-00.000000"}
    return logged(folder, [sample(SCENE | {"scene_id": "y"}, GOOD)], **other, model_name="b")


def two_families(folder):
    logged(folder, [sample(SCENE, GOOD)])
    return logged(folder, [sample(SCENE, GOOD)], task="usermirror-direct_movielens")


def twice(folder):
    return logged(folder, [sample(SCENE, GOOD), sample(SCENE, GOOD)])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder, "does not exist"),
        (nothing, "holds no samples of a usermirror task"),
        (lambda folder: logged(folder, [""]), "holds no scene"),
        (two_models, "holds runs of 2 models"),
        (two_families, "usermirror and usermirror-direct"),
        (twice, "stands there twice"),
    ],
)
def test_folders_that_make_no_results_are_one_error(tmp_path, make, told):
    with pytest.raises(UserError, match=told):
        read_run(str(make(tmp_path / "r")))


def test_decisions_need_their_scenes_and_one_model(tmp_path):
    rows = planted.scenes(3)
    made = planted.decide(rows, planted.right_with(1))
    words = planted.write(tmp_path, "m", rows, made)
    scene_file = Path(words[2])
    assert read_run(words[0], [scene_file]).facts["scenes"] == 3
    with pytest.raises(UserError, match="--scenes"):
        read_run(words[0])
    few = planted.write(tmp_path / "few", "m", rows[:2], made)
    with pytest.raises(UserError, match="1 of 3 scenes are not in the files of --scenes"):
        read_run(few[0], [Path(few[2])])
    made[0]["model"] = "another"
    mixed = planted.write(tmp_path / "mixed", "m", rows, made)
    with pytest.raises(UserError, match=r"holds decisions of 2 models \(another, m\)"):
        read_run(mixed[0], [scene_file])
    empty = planted.write(tmp_path / "empty", "m", rows, [])
    with pytest.raises(UserError, match="holds no decision"):
        read_run(empty[0], [scene_file])
    beyond = planted.decide(rows, lambda row, _: {"behavior": 4, "text": ""})
    beyond[0]["behavior"] = 9
    with pytest.raises(UserError, match="a behavior beyond its 5 options"):
        read_run(planted.write(tmp_path / "beyond", "m", rows, beyond)[0], [scene_file])


def test_a_file_without_the_columns_of_decisions_says_which(tmp_path):
    plain = pa.table({"scene_id": ["x"], "model": ["m"], "sample": [0], "behavior": [0]})
    write_table(tmp_path / "d.parquet", plain)
    with pytest.raises(UserError, match="lacks text, malformed, probabilities"):
        read_run(str(tmp_path / "d.parquet"))
    (tmp_path / "e.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="is not the Parquet table"):
        read_run(str(tmp_path / "e.parquet"))
    assert "text" in DECISION.names


def test_two_results_of_one_name_are_refused(tmp_path):
    logged(tmp_path / "r", [sample(SCENE, GOOD)])
    with pytest.raises(UserError, match="two results are called 'r'"):
        read_runs([str(tmp_path / "r"), f"r={tmp_path / 'r'}"])


@pytest.mark.slow
def test_real_samples_of_lm_eval_give_its_own_accuracies(tmp_path, tiny_chat_model):
    from tests.eval_harness.fixtures import make_scenes, write_scenes

    scenes = write_scenes(tmp_path / "s.parquet", make_scenes(6, per_user=2))
    for family, more in (
        ("usermirror", {"samples": 2}),
        ("usermirror-direct", {"rotations": True}),
    ):
        words = ["--tasks", f"{family}_movielens", "--model", "hf", "--apply_chat_template"]
        words += ["--model_args", f"pretrained={tiny_chat_model}", "--log_samples"]
        words += ["--metadata", json.dumps({"dataset": scenes, **more})]
        words += ["--gen_kwargs", "max_gen_toks=16", "--output_path", str(tmp_path / family)]
        subprocess.run([sys.executable, "-m", "lm_eval", *words], check=True, capture_output=True)
        run = read_run(str(tmp_path / family))
        (file,) = (tmp_path / family).rglob("samples_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(run.answers) == len(rows) == 6
        for row in rows:
            answer = run.answers[row["doc"]["scene_id"]]
            assert answer.right == pytest.approx(row["acc"])
            assert len(answer.probabilities) == (2 if "samples" in more else 5)

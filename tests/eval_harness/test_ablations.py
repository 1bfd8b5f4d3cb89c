"""What a score says of taste: the history taken away or swapped, the placebo, the gap."""

import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.eval_harness import data, metrics, verdict
from usermirrorer.eval_harness.metric_table import gap_of

from .fixtures import Scripted, evaluate, make_scenes, release, write_scenes

NAME = "usermirror-direct_movielens"


@pytest.fixture(scope="module")
def scenes():
    """Scenes whose history names the target: who reads it is always right."""
    rows = make_scenes(60, history=2, per_user=3)
    for row in rows:
        row["history"] = [f"Seen: wants {row['exposure'][row['answer']]}", "Seen: a film"]
    return rows


def reader(prompt):
    """Pick the option that the history names; without it, the first."""
    wanted = [line.split("wants ")[1] for line in prompt.splitlines() if "wants " in line]
    options = [line[4:] for line in prompt.splitlines() if line[:1] == "[" and line[2:4] == "] "]
    best = options.index(wanted[0]) if wanted and wanted[0] in options else 0
    return [0.92 if i == best else 0.02 for i in range(len(options))]


def first(prompt):
    """Pick the first option whatever the person is like."""
    return [0.92, *[0.02] * 4]


def run(score, dataset, name=NAME, **options):
    result = evaluate(Scripted(None, score), [name], dataset, chat=False, **options)
    found = {k.split(",")[0]: v for k, v in result["results"][name].items()}
    return found, result


def loss(found, name):
    value, stderr = found[f"acc_loss_{name}"], found[f"acc_loss_{name}_stderr"]
    return verdict.Loss(value, *metrics.interval(value, stderr, int(found["users"]), "difference"))


def test_a_reader_of_histories_loses_by_both_ablations(scenes, tmp_path):
    found, result = run(reader, write_scenes(tmp_path / "scenes.parquet", scenes))
    at_first = np.mean([row["answer"] == 0 for row in scenes])
    assert found["acc"] == 1
    assert found["acc_no_history"] == pytest.approx(at_first)
    assert found["acc_swapped"] == pytest.approx(at_first)
    assert found["acc_loss_no_history"] == pytest.approx(1 - at_first)
    assert found["users"] == 20
    losses = [loss(found, name) for name in ("no_history", "swapped")]
    assert verdict.shows_taste(*losses)
    assert verdict.in_words(*losses).startswith("reads the history: it loses")
    sample = result["samples"][NAME][0]
    prompts = [arguments[0] for arguments in sample["arguments"]]
    assert len(prompts) == 3
    assert ["wants" in prompt for prompt in prompts] == [True, False, True]
    assert all(scenes[0]["profile"] in prompt for prompt in prompts)


def test_who_ignores_the_person_has_learnt_no_taste_in_words(scenes, tmp_path):
    found, _ = run(first, write_scenes(tmp_path / "scenes.parquet", scenes))
    assert found["acc_loss_no_history"] == found["acc_loss_swapped"] == 0
    losses = [loss(found, name) for name in ("no_history", "swapped")]
    assert losses[0].low < 0 < losses[0].high  # twenty users prove nothing exactly
    assert verdict.shows_taste(*losses) is False
    assert verdict.in_words(*losses).startswith(verdict.NO_TASTE)
    assert verdict.shows_taste(None, None) is None


def test_ablated_decisions_are_sampled_so_often_as_is_said(scenes, tmp_path):
    from .test_task import THOUGHT, answer

    dataset = write_scenes(tmp_path / "scenes.parquet", scenes)
    lm = Scripted(lambda *_: answer("A", THOUGHT), first)
    for options, wanted in (({}, [5, 1, 1]), ({"samples": 2, "ablation_samples": 3}, [2, 3, 3])):
        result = evaluate(lm, ["usermirror_movielens"], dataset, chat=False, limit=2, **options)
        (one, *_) = result["samples"]["usermirror_movielens"]
        assert [len(output["texts"]) for output in one["filtered_resps"]] == wanted


def test_a_swapped_history_is_another_users_and_never_shows_an_option():
    rows = make_scenes(40, per_user=4)
    for number, row in enumerate(rows):
        row["history"] = [f"line of {row['user_id']}"]
        # Every other user has seen what everybody is shown.
        seen = "i0" if int(row["user_id"][1:]) % 2 else f"h{number}"
        row["history_item_ids"], row["history_timestamps"] = [seen], row["history_timestamps"][:1]
    found = data.swapped_histories(Dataset.from_list(rows))
    assert found == data.swapped_histories(Dataset.from_list(rows[::-1]))
    owners = {row["scene_id"]: row["user_id"] for row in rows}
    lent = {key: history[0].removeprefix("line of ") for key, history in found.items()}
    assert set(lent) == set(owners)
    assert all(lent[key] != owner for key, owner in owners.items())
    assert all(int(user[1:]) % 2 == 0 for user in lent.values())
    assert len(set(lent.values())) > 3
    assert data.swapped_histories(Dataset.from_list(rows[:4])) == {}  # one user only


def test_scenes_without_history_have_nothing_to_lose(tmp_path):
    rows = [*make_scenes(10), *make_scenes(10, history=0, seed=1)]
    found, result = run(first, write_scenes(tmp_path / "scenes.parquet", rows))
    assert found["acc_loss_no_history"] == 0
    assert [len(s["arguments"]) for s in result["samples"][NAME]] == [3] * 10 + [1] * 10
    bare, _ = run(first, write_scenes(tmp_path / "bare.parquet", rows[10:]))
    assert "acc_loss_no_history" not in bare and "acc_swapped" not in bare


# -- placebo ------------------------------------------------------------------------------------


def placebos(rows):
    """The same people and histories; another exposure, of which option C is the answer."""
    other = make_scenes(len(rows), seed=7)
    return [
        row | {"exposure": drawn["exposure"], "answer": 2}
        for row, drawn in zip(rows, other, strict=True)
    ]


AUDIT = {
    "verdict": "holds",
    "allowed_tells": False,
    "sources": {
        "movielens": {
            "verdict": "holds",
            "why": [],
            "baselines": {"no_history": {"value": 0.28, "low": 0.26, "high": 0.30, "n": 4000}},
            "placebo": {"no_history": {"value": 0.21, "low": 0.19, "high": 0.23, "n": 4000}},
        }
    },
}


def test_a_release_gives_the_placebo_and_the_learned_baseline(scenes, tmp_path):
    """`acc_over_placebo` is paired, scene by scene; a scene without placebo is left out of it."""
    from usermirrorer.eval_harness.results import _scores

    folder = release(
        tmp_path / "r", scenes, placebo=placebos(scenes[10:]), manifest={"audit": AUDIT}
    )
    found, result = run(first, folder)
    at_first = np.array([row["answer"] == 0 for row in scenes], dtype=float)
    assert found["acc_placebo"] == 0  # its answer is always C
    assert found["acc_over_placebo"] == pytest.approx(at_first[10:].mean())
    metadata = result["configs"][NAME]["metadata"]
    assert (metadata["reference"], metadata["placebo_scenes"]) == ("placebo", 50)
    assert metadata["ablations"] is True and metadata["domain"] == "movielens"
    file = tmp_path / "results_1.json"
    file.write_text(json.dumps({**result, "config": {}}, default=str))
    scores = {s.metric: s for s in _scores(file, json.loads(file.read_text()))}
    learned = scores["acc_no_history_learned"]
    assert learned.value == 0.28
    assert learned.interval == pytest.approx((0.26, 0.30), abs=0.002)


def test_without_a_placebo_accuracy_is_held_against_chance_and_says_so(scenes, tmp_path):
    found, result = run(first, release(tmp_path / "r", scenes))
    assert found["acc_over_placebo"] == pytest.approx(found["acc"] - 0.2)
    assert result["configs"][NAME]["metadata"]["reference"] == "chance"
    assert "acc_placebo" not in found


def test_a_file_of_scenes_takes_a_file_of_placebos(scenes, tmp_path):
    file = write_scenes(tmp_path / "scenes.parquet", scenes)
    placebo = write_scenes(tmp_path / "other.parquet", placebos(scenes))
    third = lambda _: [0.02, 0.02, 0.92, 0.02, 0.02]  # noqa: E731
    found, _ = run(third, file, placebo=placebo)
    assert found["acc_placebo"] == 1
    assert found["acc_over_placebo"] == pytest.approx(found["acc"] - 1)
    assert "acc_placebo" not in run(third, file)[0]
    write_scenes(tmp_path / "placebo_scenes.parquet", placebos(scenes))  # found beside its scenes
    assert run(third, file)[0]["acc_placebo"] == 1


def test_ablations_can_be_turned_off_and_this_is_recorded(scenes, tmp_path):
    folder = release(tmp_path / "r", scenes, placebo=placebos(scenes))
    found, result = run(first, folder, ablations=False)
    assert {len(s["arguments"]) for s in result["samples"][NAME]} == {1}
    assert result["configs"][NAME]["metadata"]["ablations"] is False
    assert "acc_loss_swapped" not in found and "acc_placebo" not in found


# -- gaps, users, baselines ---------------------------------------------------------------------


def test_accuracy_by_gap_and_what_gaps_there_are(scenes, tmp_path):
    found, result = run(first, write_scenes(tmp_path / "scenes.parquet", scenes))
    for name, seconds in (("minute", 30), ("hour", 1800), ("day", None), ("more", 108_000)):
        own = [row for row in scenes if row["history_gap"] == seconds]
        if seconds is None:
            assert f"acc_gap_{name}" not in found
        else:
            share = np.mean([row["answer"] == 0 for row in own])
            assert found[f"acc_gap_{name}"] == pytest.approx(share), name
    gaps = result["configs"][NAME]["metadata"]["gaps"]
    assert gaps == {"minute": 15, "hour": 15, "more": 30}
    assert [gap_of(x) for x in (59, 60, 3599, 3600, 86_399, 86_400, None)] == [
        *("minute", "hour", "hour", "day", "day", "more", ""),
    ]


def test_older_scenes_have_their_gap_from_their_times(tmp_path):
    old = [field for field in SCENE if field.name not in ("history_gap", "exposure_mode")]
    table = pa.Table.from_pylist(make_scenes(4), schema=pa.schema(old))
    assert [data.history_gap(row) for row in Dataset(table)] == [365 * 86_400] * 4
    assert data.exposure_mode(Dataset(table)[0]) == "paper"


def test_errors_are_those_of_users_not_of_scenes(tmp_path):
    """The same scenes, as sixty people's and as six's."""
    rows = make_scenes(60, per_user=10)
    for row in rows:  # right for some people always, for others never
        row["answer"] = 0 if int(row["user_id"][1:]) % 2 else 1
    alone = [row | {"user_id": row["scene_id"]} for row in rows]
    few, _ = run(first, write_scenes(tmp_path / "few.parquet", rows))
    many, _ = run(first, write_scenes(tmp_path / "many.parquet", alone))
    assert few["acc"] == many["acc"] == 0.5
    assert few["acc_stderr"] == pytest.approx(np.sqrt(0.25 / 5))
    assert many["acc_stderr"] == pytest.approx(np.sqrt(0.25 / 59))
    assert few["ece_stderr"] > 2 * many["ece_stderr"]


def test_the_collaborative_baseline_picks_the_highest_score(scenes, tmp_path):
    found, _ = run(first, write_scenes(tmp_path / "scenes.parquet", scenes))
    right = [np.argmax(row["exposure_collaborative"]) == row["answer"] for row in scenes]
    assert found["acc_collaborative"] == pytest.approx(np.mean(right))


# -- the paper's exposures ----------------------------------------------------------------------


def test_the_papers_family_scores_the_papers_exposures(scenes, tmp_path):
    paper = [r | {"exposure_mode": "paper", "answer": 0} for r in make_scenes(6, seed=3)]
    logged = make_scenes(4, source="mind")
    folder = release(tmp_path / "r", [*scenes, *logged], paper=paper)
    name = "usermirror-paper-direct_movielens"
    found, result = run(first, folder, name)
    assert (found["acc"], found["sample_len"]) == (1, 6)
    assert result["configs"][name]["metadata"]["exposure_modes"] == {"paper": 6}
    mind = "usermirror-paper-direct_mind"  # logged lists are the same in both families
    assert run(first, folder, mind)[0]["sample_len"] == 4
    with pytest.raises(UserError, match="exchangeable exposures, not the paper's"):
        run(first, write_scenes(tmp_path / "scenes.parquet", scenes), name)


def test_logged_lists_without_placebo_may_share_a_file_with_others_that_have(scenes, tmp_path):
    """MIND has no placebo: in one file of all sources, the others keep theirs."""
    logged = make_scenes(4, source="mind")
    file = write_scenes(tmp_path / "test.parquet", [*scenes, *logged])
    write_scenes(tmp_path / "placebo_test.parquet", placebos(scenes))
    for source, count in (("mind", 0), (scenes[0]["source"], len(scenes))):
        own, provenance = data.load_scenes(source, str(file))
        assert len(data.load_placebo(own, source, provenance)) == count

"""The task family scores exactly what it says, for any model, and never in silence otherwise."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.tasks import TaskManager
from tokenizers import normalizers

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import FIELDS, answer, thought_of
from usermirrorer.builders.decisions.uncertainty import softmax
from usermirrorer.eval_harness import hf, scoring
from usermirrorer.eval_harness.results import _settings
from usermirrorer.eval_harness.task import render

from .fixtures import TASKS, Scripted, brute_force, evaluate, make_scenes, tiny_model, write_scenes

AMAZON = ("amazon_fashion", "amazon_beauty", "amazon_grocery", "amazon_office")
SOURCES = ("mind", "movielens", "kuairec", "goodreads", "mobilerec", "steam", "lastfm", *AMAZON)
THOUGHT = "\n".join(["Thought:", *(f"{name}: because" for name in FIELDS)])


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(60)


@pytest.fixture(scope="module")
def dataset(scenes, tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes.parquet", scenes)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def scores(result, task="usermirror_movielens"):
    return {k.split(",")[0]: v for k, v in result["results"][task].items()}


def test_scripted_model_gets_the_accuracy_and_entropy_computed_by_hand(dataset, scenes):
    """Samples 0, 1 say A, 2 says B, 3 is malformed, 4 says Z; P(label) differs after each."""
    texts = [answer(x, THOUGHT) for x in "AAB"] + ["I like films", answer("Z", THOUGHT)]
    after = {True: [0.5, 0.25, 0.125, 0.0625, 0.0625], False: [0.2] * 5}
    lm = Scripted(lambda _, number: texts[number], lambda prompt: after["because" in prompt])
    found = scores(evaluate(lm, ["usermirror_movielens"], dataset, chat=False))
    at = np.bincount([s["answer"] for s in scenes], minlength=5) / len(scenes)
    entropy = (4 * 1.875 + math.log2(5)) / 5
    assert found["acc"] == pytest.approx((2 * at[0] + at[1]) / 5)
    assert found["malformed"] == pytest.approx(2 / 5)
    assert found["entropy"] == pytest.approx(entropy)
    assert found["entropy_norm"] == pytest.approx(entropy / math.log2(5))
    p = (4 * np.array(after[True]) + 0.2) / 5
    assert found["entropy_total"] == pytest.approx(-(p * np.log2(p)).sum())
    assert found["log_loss"] == pytest.approx(-(at * np.log2(p)).sum())
    assert found["brier"] == pytest.approx((p**2).sum() + 1 - 2 * (at * p).sum())
    assert found["acc_at_A"] == pytest.approx(2 / 5)
    assert found["acc_at_C"] == 0
    assert found["decision_words"] == np.mean([len(text.split()) for text in texts])
    assert found["entropy_is_estimate"] == 0
    for name in ("acc", "entropy", "ece", "acc_at_A", "log_loss"):
        assert isinstance(found[f"{name}_stderr"], float)


def test_baselines_stand_beside_the_model(dataset, scenes):
    lm = Scripted(lambda *_: "", lambda _: [0.2] * 5)
    found = scores(
        evaluate(lm, ["usermirror-direct_movielens"], dataset, chat=False),
        "usermirror-direct_movielens",
    )
    popular = np.mean([np.argmax(s["exposure_popularity"]) == s["answer"] for s in scenes])
    nearest = np.mean([np.argmax(s["history_similarity"]) == s["answer"] for s in scenes])
    assert found["acc_chance"] == pytest.approx(0.2)
    assert found["acc_popular"] == pytest.approx(popular, abs=0.02)  # ties count in part
    assert found["acc_nearest"] == pytest.approx(nearest)


def _oracle(scenes):
    labels = {s["exposure"][0] + s["exposure"][1]: s["answer"] for s in scenes}

    def choose(prompt, number):
        lines = [x[4:] for x in prompt.splitlines() if x.startswith(("[A] ", "[B] "))]
        return answer("ABCDE"[labels["".join(lines)]], THOUGHT)

    return choose


def test_an_oracle_is_perfect_and_shuffled_answers_bring_it_to_chance(scenes, tmp_path):
    lm = Scripted(_oracle(scenes), lambda _: [0.2] * 5)
    right = write_scenes(tmp_path / "right.parquet", scenes)
    assert scores(evaluate(lm, ["usermirror_movielens"], right, chat=False))["acc"] == 1
    draw = random.Random(0)
    shuffled = [{**s, "answer": draw.randrange(5)} for s in scenes]
    wrong = write_scenes(tmp_path / "wrong.parquet", shuffled)
    found = scores(evaluate(lm, ["usermirror_movielens"], wrong, chat=False))
    assert abs(found["acc"] - 0.2) < 4 * found["acc_stderr"]


def test_a_random_model_is_at_chance(model, tmp_path):
    data = write_scenes(tmp_path / "many.parquet", make_scenes(400, history=1))
    name = "usermirror-direct_movielens"
    found = scores(evaluate(model, [name], data), name)
    assert abs(found["acc"] - 0.2) < 4 * found["acc_stderr"]
    assert found["acc_stderr"] < 0.03


@pytest.mark.parametrize("chat", [True, False])
def test_direct_scores_equal_a_brute_force_scorer_on_every_scene(model, dataset, scenes, chat):
    name = "usermirror-direct_movielens"
    result = evaluate(model, [name], dataset, chat)
    hits = 0
    for sample, scene in zip(result["samples"][name], scenes, strict=True):
        expected = brute_force(model, sample["arguments"][0][0], "Behavior: [")
        found = np.array(sample["filtered_resps"][0]["probabilities"][0])
        assert np.allclose(found, expected, atol=1e-5)
        assert sample["acc"] == (expected.argmax() == scene["answer"])
        hits += sample["acc"]
    assert scores(result, name)["acc"] == pytest.approx(hits / len(scenes))


def test_batch_size_does_not_change_a_score(model, dataset, monkeypatch):
    name = "usermirror-direct_movielens"

    def run(size):
        monkeypatch.setattr(model, "batch_size_per_gpu", size)
        samples = evaluate(model, [name], dataset)["samples"][name]
        return np.array([s["filtered_resps"][0]["probabilities"][0] for s in samples])

    one = run(1)
    assert np.allclose(run(7), one, atol=1e-6)
    assert np.allclose(run("auto"), one, atol=1e-6)


def test_out_of_memory_halves_the_batch(model, dataset, monkeypatch):
    name = "usermirror-direct_movielens"
    expected = scores(evaluate(model, [name], dataset), name)
    forward, sizes = hf._forward, []

    def limited(lm, rows):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise RuntimeError("CUDA out of memory")
        return forward(lm, rows)

    monkeypatch.setattr(hf, "_forward", limited)
    monkeypatch.setattr(model, "batch_size_per_gpu", 8)
    found = scores(evaluate(model, [name], dataset), name)
    assert sizes[:3] == [8, 4, 2]
    assert found["acc"] == expected["acc"]
    assert found["entropy"] == pytest.approx(expected["entropy"])


@pytest.mark.slow
def test_real_model_scores_equal_a_brute_force_scorer(dataset):
    from lm_eval.models.huggingface import HFLM

    from usermirrorer.builders.common.assets import fetch_asset

    lm = HFLM(
        pretrained=str(fetch_asset("smollm2-135m-instruct")),
        device="cpu",
        dtype="float32",
        batch_size=4,
    )
    name = "usermirror-direct_movielens"
    direct = evaluate(lm, [name], dataset, limit=4)
    for sample in direct["samples"][name]:
        found = sample["filtered_resps"][0]["probabilities"][0]
        expected = brute_force(lm, sample["arguments"][0][0], "Behavior: [")
        assert np.allclose(found, expected, atol=1e-4)
    name = "usermirror_movielens"
    decided = evaluate(
        lm, [name], dataset, limit=1, samples=2, guided=True, gen_kwargs={"max_gen_toks": 24}
    )
    assert hf.engine_of(lm) is not None
    (sample,) = decided["samples"][name]
    outcome = sample["filtered_resps"][0]
    for text, row in zip(outcome["texts"], outcome["probabilities"], strict=True):
        prefix = f"{thought_of(text)}\nBehavior: ["
        expected = brute_force(lm, sample["arguments"][0][0], prefix)
        assert np.allclose(row, expected, atol=1e-4)


def test_decision_scores_equal_a_brute_force_scorer(model, dataset):
    result = evaluate(
        model, ["usermirror_movielens"], dataset, limit=6, gen_kwargs={"max_gen_toks": 24}
    )
    assert hf.engine_of(model) is not None  # the shared-prompt way is the one under test
    for sample in result["samples"]["usermirror_movielens"]:
        outcome, prompt = sample["filtered_resps"][0], sample["arguments"][0][0]
        assert len(outcome["texts"]) == 5 == len(set(outcome["texts"]))
        for text, row in zip(outcome["texts"], outcome["probabilities"], strict=True):
            thought = thought_of(text)
            prefix = f"{thought}\nBehavior: [" if thought else "Behavior: ["
            assert np.allclose(row, brute_force(model, prompt, prefix), atol=1e-4)


def test_decisions_of_a_scene_do_not_depend_on_the_others(model, dataset):
    def texts(limit):
        result = evaluate(
            model, ["usermirror_movielens"], dataset, limit=limit, gen_kwargs={"max_gen_toks": 8}
        )
        return result["samples"]["usermirror_movielens"][0]["filtered_resps"][0]["texts"]

    assert texts(1) == texts(5)


def test_guided_decisions_are_recorded_and_follow_the_format(model, dataset):
    result = evaluate(
        model, ["usermirror_movielens"], dataset, limit=3, guided=True,
        gen_kwargs={"max_gen_toks": 36},
    )  # fmt: skip
    assert result["configs"]["usermirror_movielens"]["metadata"]["guided"] is True
    for sample in result["samples"]["usermirror_movielens"]:
        for text in sample["filtered_resps"][0]["texts"]:
            assert all(f"\n{name}:" in text for name in FIELDS)
            assert text[-1] == "]"


def test_rotations_cancel_a_preference_for_a_position(dataset):
    """A model that always prefers A is uniform once every option has stood there."""
    lm = Scripted(lambda *_: "", lambda _: [0.6, 0.1, 0.1, 0.1, 0.1])
    name = "usermirror-direct_movielens"
    plain = scores(evaluate(lm, [name], dataset, chat=False), name)
    turned = scores(evaluate(lm, [name], dataset, chat=False, rotations=True), name)
    assert plain["acc_at_A"] == 1
    assert plain["acc_at_B"] == 0
    assert turned["acc"] == pytest.approx(0.2)
    assert turned["entropy_total"] == pytest.approx(math.log2(5))
    assert turned["entropy"] == pytest.approx(plain["entropy"])


def test_rotations_map_answers_back(scenes, dataset):
    """A model that knows the target by its text stays right, wherever it stands."""
    targets = {s["exposure"][s["answer"]] for s in scenes}

    def score(prompt):
        lines = [x[4:] for x in prompt.splitlines() if x[:1] == "[" and x[2:4] == "] "]
        p = np.array([8.0 if line in targets else 0.1 for line in lines])
        return p / p.sum()

    def choose(prompt, _):
        return answer("ABCDE"[int(np.argmax(score(prompt)))], THOUGHT)

    lm = Scripted(choose, score)
    found = scores(evaluate(lm, ["usermirror_movielens"], dataset, chat=False, rotations=True))
    assert found["acc"] == 1
    assert found["log_loss"] == pytest.approx(math.log2(8.4 / 8))


def test_wildcard_selects_each_source_once_and_no_other_mode():
    manager = TaskManager(include_path=TASKS, include_defaults=False)
    assert set(manager.match_tasks(["usermirror_*"])) == {f"usermirror_{s}" for s in SOURCES}
    direct = {f"usermirror-direct_{s}" for s in SOURCES}
    assert set(manager.match_tasks(["usermirror-direct_*"])) == direct
    assert {"usermirror", "usermirror-amazon", "usermirror-synthetic"} <= set(manager.all_groups)


def test_groups_weigh_as_table_1_does(tmp_path):
    """`usermirror` by scenes, `usermirror-synthetic` each source alike and without MIND."""
    sizes = {source: 4 if source == "mind" else 2 + i % 3 for i, source in enumerate(SOURCES)}
    rows = [row for s, n in sizes.items() for row in make_scenes(n, source=s)]
    data = write_scenes(tmp_path / "all.parquet", rows)
    lm = Scripted(lambda *_: answer("A", THOUGHT), lambda _: [0.6, 0.1, 0.1, 0.1, 0.1])
    result = evaluate(lm, ["usermirror"], data, chat=False)
    each = {s: result["results"][f"usermirror_{s}"]["acc,none"] for s in SOURCES}
    total = sum(sizes.values())
    assert result["groups"]["usermirror"]["acc,none"] == pytest.approx(
        sum(each[s] * sizes[s] for s in SOURCES) / total
    )
    assert result["groups"]["usermirror-synthetic"]["acc,none"] == pytest.approx(
        np.mean([each[s] for s in SOURCES if s != "mind"])
    )
    assert sum(t["effective"] for t in result["n-samples"].values()) == len(rows)


def test_results_record_where_the_scenes_and_prompts_came_from(dataset):
    lm = Scripted(lambda *_: "", lambda _: [0.2] * 5)
    result = evaluate(lm, ["usermirror_movielens"], dataset, chat=False, limit=1)
    metadata = result["configs"]["usermirror_movielens"]["metadata"]
    assert metadata["dataset"] == dataset
    assert len(metadata["scenes_hash"]) == len(metadata["prompt_hash"]) == 16
    assert {"usermirrorer", "lm_eval", "transformers"} <= set(metadata["packages"])
    json.dumps(result["results"])


def test_model_revision_is_not_taken_for_the_datasets(dataset):
    """lm_eval merges model_args, such as revision, into the metadata of every task."""
    lm = Scripted(lambda *_: "", lambda _: [0.2] * 5)
    result = evaluate(lm, ["usermirror_movielens"], dataset, chat=False, limit=1, revision="abc")
    assert result["configs"]["usermirror_movielens"]["metadata"]["dataset_revision"] == ""


def test_predict_only_gives_outputs_without_metrics(dataset):
    from lm_eval import simple_evaluate

    manager = TaskManager(include_path=TASKS, include_defaults=False, metadata={"dataset": dataset})
    lm = Scripted(lambda *_: "text", lambda _: [0.2] * 5)
    name = "usermirror_movielens"
    result = simple_evaluate(
        model=lm, tasks=[name], task_manager=manager, limit=2, predict_only=True
    )
    assert "acc,none" not in result["results"][name]
    assert len(result["samples"][name]) == 2


def test_request_cache_cannot_serve_the_prompts_of_another_dataset(dataset, tmp_path):
    from lm_eval import simple_evaluate

    other = write_scenes(tmp_path / "other.parquet", make_scenes(3, seed=5))
    lm = Scripted(lambda *_: "", lambda _: [0.2] * 5)
    name, prompts = "usermirror-direct_movielens", []
    for data in (dataset, other):
        manager = TaskManager(
            include_path=TASKS, include_defaults=False, metadata={"dataset": data}
        )
        result = simple_evaluate(
            model=lm, tasks=[name], task_manager=manager, limit=3, cache_requests=True
        )
        prompts.append(result["samples"][name][0]["arguments"][0][0])
    assert prompts[0] != prompts[1]


# -- bad input ----------------------------------------------------------------------------------


def test_missing_source_names_the_dataset(dataset):
    with pytest.raises(UserError, match="no scene of steam"):
        evaluate(Scripted(None, None), ["usermirror_steam"], dataset, strict=True)


def test_empty_split(tmp_path):
    data = write_scenes(tmp_path / "empty.parquet", [])
    with pytest.raises(UserError, match="holds no scenes"):
        evaluate(Scripted(None, None), ["usermirror_movielens"], data, strict=True)


def test_missing_column(tmp_path, scenes):
    import pyarrow as pa

    from usermirrorer.builders.common.storage import write_table

    path = tmp_path / "old.parquet"
    write_table(path, pa.Table.from_pylist([{"scene_id": "1", "source": "movielens"}]))
    with pytest.raises(UserError, match="lack answer, domain"):
        evaluate(Scripted(None, None), ["usermirror_movielens"], str(path))


def test_answer_outside_the_options(tmp_path, scenes):
    data = write_scenes(tmp_path / "bad.parquet", [{**scenes[0], "answer": 5}])
    with pytest.raises(UserError, match="answer 5 of 5 options"):
        evaluate(Scripted(None, None), ["usermirror_movielens"], data, strict=True)


def test_missing_config_of_a_folder(tmp_path, scenes):
    folder = tmp_path / "repo"
    write_scenes(folder / "data" / "test.parquet", scenes)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: scenes_mind\n  data_files:\n"
        "  - split: test\n    path: data/test.parquet\n---\n"
    )
    with pytest.raises(UserError, match="scenes_movielens"):
        evaluate(Scripted(None, None), ["usermirror_movielens"], str(folder), strict=True)


def test_tokenizer_without_chat_template(dataset):
    with pytest.raises(UserError, match="without --apply_chat_template"):
        evaluate(tiny_model(chat_template=None), ["usermirror_movielens"], dataset)


def test_prompts_longer_than_the_model_are_refused_with_counts(dataset):
    small = tiny_model(max_length=256)
    with pytest.raises(UserError, match=r"180 of 180 prompts do not fit.*takes 256"):
        evaluate(small, ["usermirror_movielens"], dataset)


@pytest.mark.parametrize(("most", "shown"), [(1, 1), (0, 0), (2, 2), (99, 3), (-1, 3), (None, 3)])
def test_max_history_shortens_the_prompt_and_is_recorded(dataset, most, shown):
    lm = Scripted(lambda *_: "", lambda _: [0.2] * 5)
    result = evaluate(lm, ["usermirror_movielens"], dataset, chat=False, limit=1, max_history=most)
    prompt = result["samples"]["usermirror_movielens"][0]["arguments"][0][0]
    assert prompt.count("Seen:") == shown
    assert result["configs"]["usermirror_movielens"]["metadata"]["max_history"] == most
    settings = json.loads(_settings(result, "usermirror_movielens"))
    assert settings.get("max_history", "all") == ("all" if most in (-1, None) else most)


def test_a_negative_history_is_refused(dataset):
    with pytest.raises(UserError, match="max_history -2: is -1"):
        evaluate(
            Scripted(None, None), ["usermirror_movielens"], dataset, chat=False, max_history=-2
        )


def test_a_template_that_refuses_the_system_role_does_not_lose_it():
    lm = tiny_model(
        chat_template="{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    turns = [{"role": "system", "content": "Rules."}, {"role": "user", "content": "Scene."}]
    assert render(turns, lm.apply_chat_template) == "Rules.\n\nScene."
    assert "system\nRules." in render(turns, tiny_model().apply_chat_template)


def test_label_spans_find_labels_merged_with_the_bracket_and_labels_of_several_tokens():
    merged = {"[A": 7, "[B": 8}
    encode = lambda text: [1, 2, merged[text[-2:]]]  # noqa: E731
    assert scoring.label_spans(encode, ["x [A", "x [B"]) == ([1, 2], [[7], [8]])
    several = lambda text: [1, 30, ord(text[-1])] if text[-1] == "A" else [1, 30, 9, 4]  # noqa: E731
    assert scoring.label_spans(several, ["[A", "[B"]) == ([1, 30], [[65], [9, 4]])
    with pytest.raises(UserError, match="cannot tell"):
        scoring.label_spans(lambda _: [1, 2], ["[A", "[B"])


def test_labels_of_several_tokens_get_their_exact_probability(model):
    """The sum of log-probabilities along each label's own tokens, by plain forwards."""
    tokens, labels = [5, 6, 7], [[10, 11], [12]]
    expected = []
    for label in labels:
        ids = torch.tensor([tokens + label])
        with torch.no_grad():
            p = torch.log_softmax(model.model(ids).logits[0].double(), -1)
        expected.append(sum(p[len(tokens) - 1 + i, t].item() for i, t in enumerate(label)))
    pairs = [(("", "x"), tokens, label) for label in labels]
    assert [v for v, _ in model._loglikelihood_tokens(pairs)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["usermirror", "usermirror-direct"])
def test_a_tokenizer_that_splits_a_label_gets_the_exact_score(dataset, family):
    """`E` is three tokens here: its probability is the product of theirs, by plain forwards."""
    lm = tiny_model()
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("E", "e\u00e9")
    assert len(lm.tok_encode("E")) == 3

    def exact(text, label):
        start, ids = (
            lm.tokenizer(x, add_special_tokens=False).input_ids for x in (text, text + label)
        )
        with torch.no_grad():
            p = torch.log_softmax(lm.model(torch.tensor([ids])).logits[0].double(), -1)
        return sum(p[i - 1, ids[i]].item() for i in range(len(start), len(ids)))

    name = f"{family}_movielens"
    result = evaluate(lm, [name], dataset, limit=3, samples=2, gen_kwargs={"max_gen_toks": 8})
    assert hf.engine_of(lm) is None
    for sample in result["samples"][name]:
        outcome, prompt = sample["filtered_resps"][0], sample["arguments"][0][0]
        thoughts = [thought_of(text) for text in outcome["texts"]] or [""]
        for thought, row in zip(thoughts, outcome["probabilities"], strict=True):
            text = prompt + (f"{thought}\nBehavior: [" if thought else "Behavior: [")
            expected = softmax([exact(text, label) for label in "ABCDE"])
            assert np.allclose(row, expected, atol=1e-4)


def test_thought_is_all_before_the_first_behavior_line():
    assert thought_of("Thought:\nA: b\nBehavior: [A]\nBehavior: [B]") == "Thought:\nA: b"
    assert thought_of(" no line ") == "no line"
    assert thought_of("- **Behavior:** [A]") == ""
    assert thought_of("My Behavior: is odd") == "My Behavior: is odd"


def test_published_template_hash_changes_with_the_prompts(tmp_path, dataset):
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS

    for file in Path(DEFAULT_PROMPTS).glob("*.jinja"):
        (tmp_path / file.name).write_text(file.read_text() + " Mine.")
    lm = Scripted(lambda *_: "", lambda _: [0.2] * 5)
    name = "usermirror_movielens"
    ours = evaluate(lm, [name], dataset, chat=False, limit=1)
    mine = evaluate(lm, [name], dataset, chat=False, limit=1, prompt_folder=str(tmp_path))
    assert "Mine." in mine["samples"][name][0]["arguments"][0][0]
    hashes = [r["configs"][name]["metadata"]["prompt_hash"] for r in (ours, mine)]
    assert hashes[0] != hashes[1]

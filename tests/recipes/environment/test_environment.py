"""Promise: simulated people are a Gymnasium environment, seeded and vectorised, to learn from."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from usermirrorer import Simulator
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions import engines
from usermirrorer.builders.decisions.engines import registry
from usermirrorer.builders.decisions.engines.registry import EngineSpec
from usermirrorer.recipes.environment import ID, slate_policy
from usermirrorer.recipes.environment.feed import OUTSIDE, FeedEnv, distinct, named
from usermirrorer.recipes.environment.vector import FeedVectorEnv
from usermirrorer.recipes.environment.world import read_world

#: A whole engine with a hidden taste: it reads the options that it is shown and likes westerns. It
#: keeps the size of each batch.
LIKES_WESTERNS = """
import re
import numpy as np
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.engines.base import EngineKind, Generation
from usermirrorer.builders.decisions.prompts import FIELDS, answer

class Likes:
    batch_scenes, context = 4, 6144
    def __init__(self, settings):
        self.name, self.batches, self.prompts = settings.model, [], []
    def count(self, prompt):
        return sum(len(message["content"].split()) for message in prompt)
    def sample(self, prompts, options, sampling, seeds):
        thought = "\\n".join(["Thought:", *(f"{name}: so" for name in FIELDS)])
        return [[Generation(answer(LABELS[seed % k], thought), 9, 9)] * sampling.n
                for seed, k in zip(seeds, options)]
    def score(self, prompts, thoughts, options):
        self.batches.append(len(prompts))
        self.prompts += [prompt[-1]["content"] for prompt in prompts]
        return [np.stack([self._p(prompt)] * len(row)) for prompt, row in zip(prompts, thoughts)]
    def _p(self, prompt):
        shown = prompt[-1]["content"].split("# Exposure List")[1]
        worth = [2.0 * ("Western" in line) + 1.5 * ("None of these" in line)
                 for line in re.findall(r"^\\[[A-Z]\\] (.*)$", shown, re.M)]
        return np.exp(worth) / np.exp(worth).sum()

ENGINE = EngineKind(load=Likes)
"""
GENRES = ("Western", "Drama", "Comedy", "Horror", "Romance")


def catalogue_scenes() -> list[dict]:
    films = [f"Film {n} | Genre: {GENRES[n % 5]}" for n in range(30)]
    return [
        {
            "scene_id": f"s{n}",
            "profile": f"Age: {20 + n}",
            "history": [f"Viewed 1 day ago: {films[(n * 7 + i) % 30]}" for i in range(n % 4)],
            "exposure": [films[(n * 5 + i) % 30] for i in range(5)],
        }
        for n in range(12)
    ]


@pytest.fixture
def simulator(tmp_path, monkeypatch):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "westerns.py").write_text(LIKES_WESTERNS)
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(folder)])
    yield Simulator(EngineSpec("westerns", "m").load(), name="m")
    registry.get_kind.cache_clear()
    sys.modules.pop(f"{engines.__name__}.westerns", None)


@pytest.fixture
def settings(simulator):
    return {"simulator": simulator, "scenes": catalogue_scenes(), "asking": {"mode": "direct"}}


def played(env, slates: int, seed: int) -> list:
    env.action_space.seed(seed)
    observed, told = env.reset(seed=seed)
    story = [(observed.tolist(), repr(told))]
    for _ in range(slates):
        observed, reward, terminated, truncated, told = env.step(env.action_space.sample())
        story.append((observed.tolist(), reward, terminated, truncated, repr(told)))
        if terminated or truncated:
            break
    return story


def test_gymnasium_finds_it_by_its_full_name_and_importing_it_loads_nothing_heavy():
    code = (
        "import sys, gymnasium; print("
        "gymnasium.make_vec('usermirrorer.recipes.environment:usermirrorer/Feed-v0').num_envs)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "missing" in told.stderr and "'simulator' and 'scenes'" in told.stderr
    code = (
        "import sys, gymnasium, usermirrorer.recipes.environment;"
        "print('usermirrorer/Feed-v0' in gymnasium.registry,"
        "{'torch', 'transformers', 'sklearn', 'pyarrow'} & {*sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "True set()\n" and not told.stderr


@pytest.mark.parametrize("mode", ["direct", "decision"])
def test_gymnasiums_own_checker_has_nothing_to_say(settings, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, **{**settings, "asking": {"mode": mode}}).unwrapped)


def test_the_same_seed_is_the_same_episode_and_another_is_another(settings):
    env = FeedEnv(**settings)
    assert played(env, 10, seed=3) == played(env, 10, seed=3) == played(FeedEnv(**settings), 10, 3)
    assert played(env, 10, seed=3) != played(env, 10, seed=4)


def test_decision_processes_differ_between_episodes_of_one_person(settings):
    env = FeedEnv(**{**settings, "asking": {"mode": "decision"}})
    names = []
    for seed in (1, 1, 2):
        env.reset(seed=seed, options={"person": 0})
        names.append(env.ask(np.arange(5)).scene_id)
    assert names[0] == names[1] != names[2]


def test_what_is_chosen_is_remembered_shown_and_rewarded(settings):
    env = FeedEnv(**settings, memory=2, patience=99, steps=99, again=True)
    before, _ = env.reset(seed=0, options={"person": 1})
    westerns = np.array([0, 5, 10, 15, 20])
    width, person = env.world.vectors.shape[1], env.world.people[1]
    assert before[-1] == 0 and np.array_equal(before[:width], env.world.embed([person.profile])[0])
    lines = list(person.history)
    for step in range(1, 12):
        after, reward, _, _, told = env.step(westerns)
        assert after[-1] == np.float32(step / 99)
        assert reward == (told["chosen"] >= 0)
        if told["chosen"] >= 0:
            assert told["chosen"] in westerns
            lines.append(env.world.catalogue[told["chosen"]])
            assert np.allclose(after[-1 - width : -1], env.world.vectors[told["chosen"]])
        else:
            assert np.array_equal(after[:-1], before[:-1])
        before = after
        assert list(env.ask(westerns).history) == lines
    assert len(lines) > len(person.history)


def test_people_leave_after_slates_without_a_choice_and_long_episodes_are_cut(settings):
    bored = FeedEnv(**settings, threshold=1.0, patience=2, steps=9)  # nothing is likely enough
    bored.reset(seed=0)
    assert [bored.step(np.arange(5))[1:4] for _ in range(2)] == [
        (0.0, False, False), (0.0, True, False),
    ]  # fmt: skip
    sure = FeedEnv(**settings, outside=None, reward=lambda event: 0.5, steps=2)
    sure.reset(seed=0)
    assert [sure.step(np.arange(5))[1:4] for _ in range(2)] == [
        (1.5, False, False), (1.5, False, True),
    ]  # fmt: skip


def test_what_a_person_took_is_not_shown_again(settings):
    env = FeedEnv(**settings, slate=3, rivals=2, outside=None, patience=99, steps=99)
    _, told = env.reset(seed=0, options={"person": 3})
    catalogue, before = env.world.catalogue, list(env.world.people[3].history)
    taken = {n for n, film in enumerate(catalogue) if any(line.endswith(film) for line in before)}
    assert len(taken) == len(before) == 3
    for _ in range(60):
        assert set(np.flatnonzero(told["action_mask"] == 0)) == taken
        asked = env.ask(np.arange(3))
        assert not {catalogue[n] for n in taken} & {*asked.exposure}
        *_, told = env.step(np.arange(3))
        if told["chosen"] >= 0 and len(taken) < 25:
            assert told["chosen"] not in taken
            taken.add(told["chosen"])
        if len(taken) == 25:  # of 30 items five are shown: those taken longest ago come back
            break
    assert len(taken) == 25
    for _ in range(9):
        *_, told = env.step(np.arange(3))
        assert told["action_mask"].sum() == 5


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (["Viewed: Alien (1979) - Horror. Rating: 4"], [0]),
        (["Alien (1979) - Horrors"], []),
        (["Aliens (1986)", "Heat", "xHeat", "Heats"], [1]),
        (["Heat", "Alien (1979) - Horror", "Heat"], [0, 1]),
        ([], []),
    ],
)
def test_a_line_of_a_history_names_an_item_by_its_whole_text(history, found):
    assert named(["Alien (1979) - Horror", "Heat"], history) == found


def test_rivals_are_other_items_anew_for_each_slate_and_taking_one_is_no_choice(settings):
    env = FeedEnv(**settings, slate=2, rivals=3, outside=None, again=True, patience=99, steps=99)
    env.reset(seed=0, options={"person": 3})
    seen, places, chosen = set(), set(), []
    for _ in range(60):
        slate = np.array([0, 5])  # two westerns
        asked = env.ask(slate)
        assert env.ask(slate) == asked  # to look twice changes nothing
        ours = [env.world.catalogue[item] for item in slate]
        rivals = [text for text in asked.exposure if text not in ours]
        assert len(rivals) == 3 and {*ours} < {*asked.exposure}
        seen.update(rivals)
        places.add(asked.exposure.index(ours[0]))
        history = list(asked.history)
        _, reward, *_, told = env.step(slate)
        by_text = dict(zip(env._last.choice.exposure, env._last.choice.probabilities, strict=True))
        assert told["probabilities"][:2].tolist() == [by_text[text] for text in ours]
        assert sorted(told["probabilities"]) == sorted(by_text.values())
        assert reward == (told["chosen"] in (0, 5)) == (told["chosen"] >= 0)
        after = list(env.ask(slate).history)
        assert after == history + [env.world.catalogue[told["chosen"]]] * (told["chosen"] >= 0)
        chosen.append(told["chosen"])
    assert len(seen) > 20 and places == set(range(5))
    assert {-1, 0, 5} == set(chosen)


def test_a_reward_of_ones_own_is_told_everything(settings):
    events = []
    env = FeedEnv(**settings, reward=lambda event: events.append(event) or 0.25)
    env.reset(seed=5)
    _, reward, *_, told = env.step(np.array([3, 3, 1, 4, 2]))
    (event,) = events
    assert reward == 0.25 + (event.chosen is not None)
    assert event.slate == (3, 5, 1, 4, 2) == tuple(told["slate"])
    assert event.texts[1] == env.world.catalogue[5] and event.choice.exposure[-1] == OUTSIDE
    broken = FeedEnv(**settings, reward=lambda event: float("nan"))
    broken.reset(seed=5)
    with pytest.raises(UserError, match="reward gave nan"):
        broken.step(np.arange(5))


@pytest.mark.parametrize(
    ("asked", "taken", "shown"),
    [
        ([0, 1, 2], [], [0, 1, 2]),
        ([1, 1, 2], [], [1, 3, 2]),
        ([3, 3, 3], [], [3, 0, 1]),
        ([0, 0, 1], [], [0, 2, 1]),
        ([0, 1, 2], [1], [0, 3, 2]),
        ([1, 1], [1, 2], [3, 0]),
    ],
)
def test_equal_and_taken_items_of_a_slate_make_way(asked, taken, shown):
    assert distinct(asked, 4, taken) == shown


def test_many_people_are_one_batch_and_each_is_as_if_alone(settings):
    envs = gymnasium.make_vec(ID, num_envs=6, **settings, steps=4)
    assert isinstance(envs, FeedVectorEnv)
    engine = settings["simulator"].engine
    alone = [FeedEnv(**settings, steps=4) for _ in range(6)]
    observed, _ = envs.reset(seed=40)
    for n, env in enumerate(alone):
        assert np.array_equal(env.reset(seed=40 + n)[0], observed[n])
    rng, ended = np.random.default_rng(0), np.zeros(6, bool)
    for _ in range(12):
        slates, engine.batches[:] = rng.integers(30, size=(6, 5)), []
        observed, rewards, terminated, truncated, told = envs.step(slates)
        assert engine.batches == ([] if ended.all() else [int((~ended).sum())])
        for n, env in enumerate(alone):
            if ended[n]:
                assert np.array_equal(observed[n], env.reset()[0]) and rewards[n] == 0
                assert told["_person"][n] and not (terminated[n] or truncated[n])
                continue
            own = env.step(slates[n])
            assert np.array_equal(observed[n], own[0])
            assert (rewards[n], terminated[n], truncated[n]) == own[1:4]
            assert told["_chosen"][n] and told["chosen"][n] == own[4]["chosen"]
        ended = terminated | truncated
    assert observed.shape == envs.observation_space.shape and observed in envs.observation_space


def test_people_and_catalogue_come_from_a_file_and_no_item_twice(tmp_path):
    file = tmp_path / "scenes.jsonl"
    rows = [{"exposure": ["Emma", "Heat"]}, {"exposure": ["EMMA", "Heat", "Alien"]}]
    file.write_text("\n".join(map(json.dumps, rows)))
    world = read_world(file)
    assert world.catalogue == ("Emma", "Heat", "Alien") and len(world.people) == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"slate": 26}, "a slate of 26 items"),
        ({"slate": 0}, "a slate of 0 items"),
        ({"rivals": -1}, "rivals is -1"),
        ({"rivals": 21, "slate": 5}, "a slate of 5 items beside 22 other option"),
        ({"rivals": 29, "slate": 2, "outside": None}, "Give fewer rivals"),
        ({"steps": 0}, "steps is 0"),
        ({"threshold": 2}, "threshold is 2"),
        ({"outside": None}, "every slate would earn 1"),
        ({"outside": "film 0 | genre: western"}, "an item of the catalogue"),
        ({"outside": " "}, "outside is ' '"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
        ({"scenes": []}, "there are no scenes"),
        ({"scenes": [{"profile": "x"}]}, "scene 1: has no exposure"),
        ({"scenes": [3]}, "scene 1: is a number, no scene"),
        ({"scenes": "nowhere.parquet"}, "nowhere.parquet: does not exist"),
        ({"embed": lambda texts: np.zeros(3)}, "embed gave"),
        ({"asking": {"warmth": 1}}, "warmth"),
    ],
)
def test_what_cannot_be_played_is_one_line(settings, wrong, told):
    with pytest.raises(UserError, match=told):
        FeedEnv(**{**settings, **wrong})


def test_an_action_that_is_no_slate_is_one_line(settings):
    env = FeedEnv(**settings)
    with pytest.raises(UserError, match="Call reset first"):
        env.step(np.arange(5))
    env.reset(seed=0)
    for slate in (np.arange(4), np.array([0, 1, 2, 3, 30]), np.array([-1, 0, 1, 2, 3])):
        with pytest.raises(UserError, match="is no slate"):
            env.step(slate)
    with pytest.raises(UserError, match="there is no person 12"):
        env.reset(options={"person": 12})


def test_the_last_slate_can_be_read(settings):
    env = FeedEnv(**settings, render_mode="ansi")
    env.reset(seed=1)
    env.step(np.arange(5))
    assert env.world.catalogue[4] in env.render() and env.render().startswith("slate 1")


def test_the_slope_is_that_of_the_probability_of_the_slate(settings):
    world = read_world(settings["scenes"])
    rng = np.random.default_rng(0)
    env = FeedEnv(**settings)
    observed = env.reset(seed=0, options={"person": 3})[0][None].astype(np.float64)
    policy = slate_policy.SlatePolicy(world.vectors.astype(float), 3, rng.normal(size=66))
    mask = np.ones((1, 30), np.int8)
    mask[0, 7:12] = 0
    slate = policy(observed, mask, rng)
    assert not {*slate[0]} & {*range(7, 12)}

    def log_probability(weights: np.ndarray) -> float:
        worth, left, total = (
            policy.features(observed)[0] @ weights, {*range(7), *range(12, 30)}, 0.0
        )  # fmt: skip
        for item in slate[0]:
            total += worth[item] - np.log(np.exp(worth[sorted(left)]).sum())
            left.remove(item)
        return total

    steps = np.eye(66) * 1e-5
    numeric = [
        (log_probability(policy.weights + d) - log_probability(policy.weights - d)) / 2e-5
        for d in steps
    ]
    np.testing.assert_allclose(policy.slope(observed, mask, slate)[0], numeric, atol=1e-6)


@pytest.mark.parametrize(
    ("beside", "least"), [({}, 1), ({"outside": None, "rivals": 2}, 0.5)], ids=["outside", "rivals"]
)
def test_a_policy_that_learns_beats_random_slates(settings, beside, least):
    envs = FeedVectorEnv(16, **settings, slate=3, again=True, **beside)
    policy = slate_policy.learn(envs, 3, updates=150)
    chance = slate_policy.random_slates(3)
    ours, theirs, other = (
        slate_policy.returns(envs, slates, rounds=3, seed=10**6)
        for slates in (policy, chance, slate_policy.SlatePolicy(policy.vectors, 3, np.zeros(66)))
    )
    _, low, _ = slate_policy.difference(ours, theirs)
    assert low > least
    mean, low, _ = slate_policy.difference(other, theirs)  # nothing learned, nothing gained
    assert abs(mean) < 1 and low < 0.5


@pytest.mark.slow
def test_it_runs_with_the_real_model(tmp_path, capsys):
    file = tmp_path / "scenes.jsonl"
    file.write_text("\n".join(map(json.dumps, catalogue_scenes())))
    words = ["--model", "smollm2-135m-instruct", "--scenes", str(file), "--mode", "direct"]
    slate_policy.main([*words, "--updates", "1", "--envs", "2", "--rounds", "1", "--slate", "3"])
    told = capsys.readouterr().out
    assert "learned" in told and "95 % interval" in told

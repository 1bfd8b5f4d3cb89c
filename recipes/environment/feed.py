"""`FeedEnv`: one person before a feed."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.common.text import numbered_by_looks
from usermirrorer.recipes.environment.world import Embed, Scenes, World, read_world
from usermirrorer.recipes.simulator.choices import Choice
from usermirrorer.recipes.simulator.core import Asking, Simulator
from usermirrorer.recipes.simulator.questions import Question, question

OUTSIDE = "None of these"
Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


@dataclass(frozen=True)
class Event:
    """What happened with a slate; rewards of one's own are functions of it.

    Args:
        person: Profile, and history before the first slate.
        slate: The items' numbers in the catalogue.
        texts: Of the slate.
        chosen: The place of the chosen item on the slate; None if nothing of it was chosen.
        probabilities: Of the slate's items, then of the rivals, then of `outside`.
        choice: What the simulator said, decision processes included; options as they were shown.
        history: All lines, the chosen item's included.
        step: Number of the slate, from 1.
    """

    person: Question
    slate: tuple[int, ...]
    texts: tuple[str, ...]
    chosen: int | None
    probabilities: tuple[float, ...]
    choice: Choice
    history: tuple[str, ...]
    step: int


Reward = Callable[[Event], float]


class FeedEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A person, drawn from scenes at each reset, is shown slates and chooses, or does not.

    Observation: float32, the vectors of the profile and of the newest `memory` lines of the
    history (oldest first, zeros where there are fewer), and the share of `steps` that is over.
    Action: `slate` numbers of the catalogue. Of equal numbers the first stays; each later one, and
    each item that the person took already, becomes the next higher number that is free, counted
    from 0 again after the last. `action_mask` of the infos is 1 for the items that can be shown.
    Choice: one option is drawn by the simulator's probabilities. Behind the items stands `outside`.
    `rivals` are what the person could take elsewhere: other items of the catalogue, drawn anew for
    each slate, all options then in random order, as in scenes. Nothing is chosen when `outside` or
    a rival is drawn, or an item whose probability is below `threshold`. A chosen item becomes the
    newest line of the history.
    Reward: 1 for a choice, else 0, plus `reward`.
    End: terminated when nothing was chosen `patience` times in a row (the person leaves);
    truncated after `steps` slates.

    Args:
        simulator: A model's name, loaded once per process, or a simulator.
        scenes: Where people and catalogue come from.
        slate: Items per slate.
        steps: Slates per episode at most.
        patience: Slates in a row without a choice after which the person leaves.
        memory: Lines of the history that are observed.
        outside: Text of the option of choosing nothing; None shows none.
        rivals: Items beside the slate. With them, and without `outside`, a simulator is asked what
            it was trained on: which of several items.
        again: Whether people are shown what they took already: what a line of the history names,
            and what was chosen since. Scenes never do, so it tempts a simulator to copy. Where too
            few items are left for a slate and its rivals, those taken longest ago come back.
        threshold: Least probability at which a drawn item counts as chosen.
        reward: Added to the reward; a finite number for what happened.
        embed: Gives texts their vectors.
        asking: How the simulator is asked, see `Asking`; by default as the model was trained.
        render_mode: `ansi` or None.

    Raises:
        UserError: if a value is out of its bounds, or scenes or simulator cannot be loaded.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self,
        simulator: Simulator | str,
        scenes: Scenes | World,
        *,
        slate: int = 5,
        steps: int = 10,
        patience: int = 3,
        memory: int = 5,
        outside: str | None = OUTSIDE,
        rivals: int = 0,
        again: bool = False,
        threshold: float = 0.0,
        reward: Reward | None = None,
        embed: Embed | None = None,
        asking: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.world = scenes if isinstance(scenes, World) else read_world(scenes, embed)
        self.outside, self.threshold, self.reward = outside, threshold, reward
        self.slate, self.rivals, self.steps, self.patience = slate, rivals, steps, patience
        self.render_mode = render_mode
        _check(self, memory)
        left = len(self.world.catalogue) - slate - rivals
        self._taken: deque[int] = deque(maxlen=0 if again else left)
        self.simulator = _loaded(simulator) if isinstance(simulator, str) else simulator
        self.how: Asking = self.simulator.asking(**(asking or {}))
        items, width = self.world.vectors.shape
        low = np.full((1 + memory) * width + 1, -1, np.float32)
        low[-1] = 0  # the share of steps
        self.observation_space = gymnasium.spaces.Box(low, np.ones_like(low))
        self.action_space = gymnasium.spaces.MultiDiscrete([items] * slate)
        self._lines: deque[np.ndarray] = deque(maxlen=memory)
        self._person: Question | None = None
        self._last: Event | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with a person; `options={"person": 3}` names one by the number of the scene.

        Raises:
            UserError: if there is no such person.
        """
        super().reset(seed=seed)
        people = self.world.people
        number = (options or {}).get("person")
        if number is None:
            number = int(self.np_random.integers(len(people)))
        if not isinstance(number, int | np.integer) or not 0 <= number < len(people):
            raise UserError(f"there is no person {number!r}", fix=f"Give 0 to {len(people) - 1}.")
        self._person = person = people[int(number)]
        self._history, self._step, self._without, self._last = list(person.history), 0, 0, None
        # With it decision processes differ between episodes, and the seed fixes them.
        self._episode = int(self.np_random.integers(1 << 32))
        memory = self._lines.maxlen or 1
        vectors = self.world.embed([person.profile, *person.history[-memory:]])
        self._profile = vectors[0]
        self._lines.clear()
        self._lines.extend(vectors[1:])
        self._taken.clear()
        if self._taken.maxlen:
            self._taken.extend(named(self.world.catalogue, person.history))
        told = {"person": int(number), "scene_id": person.scene_id}
        return self._observed(), {**told, "action_mask": self._mask()}

    def step(self, action: np.ndarray) -> Step:
        """Show a slate.

        Raises:
            UserError: if the slate cannot be asked about, or its reward is no finite number.
        """
        return self.take(action, self.simulator.answer([self.ask(action)], self.how)[0])

    def ask(self, action: np.ndarray) -> Question:
        """Return what the simulator is asked about a slate.

        Raises:
            UserError: if there is no person yet, or the action is no slate.
        """
        if self._person is None:
            raise UserError("nobody is there to be shown a slate", fix="Call reset first.")
        options, order = self._offered(self._slate(action))
        shown = [options[place] for place in order]
        name = f"{self._person.scene_id}-{self._episode:08x}-{self._step}"
        return question(shown, self._person.profile, self._history, scene_id=name)

    def take(self, action: np.ndarray, choice: Choice | UserError) -> Step:
        """Return what follows from the simulator's answer about a slate.

        Raises:
            UserError: see `step`.
        """
        if isinstance(choice, UserError):
            raise choice
        assert self._person is not None  # `ask` came before
        slate = self._slate(action)
        _, order = self._offered(slate)
        likely = choice.probabilities
        probabilities = tuple(likely[order.index(place)] for place in range(len(order)))
        drawn = order[choice.draw(self.np_random)]
        taken = drawn < len(slate) and probabilities[drawn] >= self.threshold
        self._step += 1
        self._without = 0 if taken else self._without + 1
        texts = tuple(self.world.catalogue[item] for item in slate)
        if taken:
            self._history.append(texts[drawn])
            self._lines.append(self.world.vectors[slate[drawn]])
            self._taken.append(slate[drawn])
        self._last = event = Event(
            self._person, tuple(slate), texts, drawn if taken else None, probabilities, choice,
            tuple(self._history), self._step,
        )  # fmt: skip
        told = {
            "slate": np.array(slate, np.int64),
            "chosen": slate[drawn] if taken else -1,
            "probabilities": np.array(probabilities),
            "thought": choice.thought,
            "action_mask": self._mask(),
        }
        ended = self._without >= self.patience
        return self._observed(), self._rewarded(event), ended, self._step >= self.steps, told

    def render(self) -> str | None:  # type: ignore[override]
        """Return the last slate and its choice as text."""
        if self.render_mode != "ansi":
            return None
        if self._last is None:
            return "no slate yet"
        marks = [" >"[place == self._last.chosen] for place in range(self.slate)]
        lines = [
            f"{mark} {p:.2f} {text}"
            for mark, p, text in zip(
                marks, self._last.probabilities, self._last.texts, strict=False
            )
        ]
        return "\n".join([f"slate {self._last.step}", *lines])

    def _observed(self) -> np.ndarray:
        memory, width = self._lines.maxlen or 1, self.world.vectors.shape[1]
        lines = np.zeros((memory, width), np.float32)
        if self._lines:
            lines[-len(self._lines) :] = np.stack(self._lines)
        share = np.float32(min(self._step / self.steps, 1))
        return np.concatenate([self._profile, lines.ravel(), [share]]).astype(np.float32)

    def _mask(self) -> np.ndarray:
        mask = np.ones(len(self.world.catalogue), np.int8)
        mask[list(self._taken)] = 0
        return mask

    def _offered(self, slate: Sequence[int]) -> tuple[list[str], list[int]]:
        """Return the slate, its rivals and `outside`, and the order in which they are shown."""
        outside = [] if self.outside is None else [self.outside]
        texts = [self.world.catalogue[item] for item in slate]
        if not self.rivals:
            return [*texts, *outside], list(range(len(texts) + len(outside)))
        chance = np.random.default_rng([self._episode, self._step])
        others = np.setdiff1d(np.flatnonzero(self._mask()), slate)
        drawn = chance.choice(others, self.rivals, replace=False)
        texts += [self.world.catalogue[item] for item in drawn]
        options = [*texts, *outside]
        return options, chance.permutation(len(options)).tolist()

    def _slate(self, action: np.ndarray) -> list[int]:
        if not self.action_space.contains(asked := np.asarray(action, np.int64)):
            raise UserError(
                f"{action!r} is no slate",
                fix=f"Give {self.slate} numbers from 0 to {len(self.world.catalogue) - 1}.",
            )
        return distinct(asked.tolist(), len(self.world.catalogue), self._taken)

    def _rewarded(self, event: Event) -> float:
        own = float(self.reward(event)) if self.reward else 0.0
        if not math.isfinite(own):
            raise UserError(f"reward gave {own}", fix="Give a finite number.")
        return float(event.chosen is not None) + own


def distinct(items: Sequence[int], size: int, taken: Collection[int] = ()) -> list[int]:
    """Return a slate without equal items and without taken ones; see `FeedEnv`.

    Args:
        items: Numbers below `size`, not more than `size` without `taken`.
        size: Of the catalogue.
        taken: Numbers that no slate may hold.
    """
    # The first of equal items stays, wherever an earlier replacement would have gone.
    used, seen, slate = {*items, *taken}, set(taken), list[int]()
    for asked in items:
        item = asked
        if item in seen:
            while item in used:
                item = (item + 1) % size
            used.add(item)
        seen.add(item)
        slate.append(item)
    return slate


def named(catalogue: Sequence[str], history: Sequence[str]) -> list[int]:
    """Return the items that lines of a history name, by where they are last named.

    A line names an item if it has the item's text, as between other words.
    """
    lines = "\n".join(["", *history, ""])
    last = {}
    for number, text in enumerate(catalogue):
        place = lines.rfind(text)
        while place > 0 and (lines[place - 1].isalnum() or lines[place + len(text)].isalnum()):
            place = lines.rfind(text, 0, place + len(text) - 1)
        if place > 0:
            last[number] = place
    return sorted(last, key=last.__getitem__)


@functools.lru_cache(maxsize=1)
def _loaded(model: str) -> Simulator:
    return Simulator.from_pretrained(model)


def _check(env: FeedEnv, memory: int) -> None:
    """Refuse what no episode could be played with."""
    if env.rivals < 0:
        raise UserError(f"rivals is {env.rivals}", fix="Give 0 or more.")
    beside = env.rivals + (env.outside is not None)
    items, least = len(env.world.catalogue), 1 if beside else 2
    most = min(items - env.rivals, len(LABELS) - beside)
    if not least <= env.slate <= most:
        raise UserError(
            f"a slate of {env.slate} items beside {beside} other option(s)",
            fix=f"Give {least} to {most}: the catalogue has {items} items, and a simulator reads "
            f"{len(LABELS)} options." if most >= least else
            f"Give fewer rivals: the catalogue has {items} items, and a simulator reads "
            f"{len(LABELS)} options.",
        )  # fmt: skip
    for name, value in {"steps": env.steps, "patience": env.patience, "memory": memory}.items():
        if value < 1:
            raise UserError(f"{name} is {value}", fix="Give 1 or more.")
    if not 0 <= env.threshold <= 1:
        raise UserError(f"threshold is {env.threshold}", fix="Give 0 to 1.")
    if not beside and env.threshold == 0 and env.reward is None:
        raise UserError(
            "every slate would earn 1",
            fix="Give an outside option, rivals, a threshold or a reward.",
        )
    if env.outside is not None:
        looks = numbered_by_looks([*env.world.catalogue, env.outside])
        if not env.outside.strip() or looks[-1] in looks[:-1]:
            raise UserError(
                f"outside is {env.outside!r}, empty or an item of the catalogue",
                fix="Give another text.",
            )
    if env.render_mode not in (None, *env.metadata["render_modes"]):
        raise UserError(f"render_mode is {env.render_mode!r}", fix="Give ansi or None.")

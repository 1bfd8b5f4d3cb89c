"""`FeedVectorEnv`: many people before their feeds, who are asked in one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.environment.feed import FeedEnv, Step
from usermirrorer.recipes.environment.world import Scenes, World, read_world


class FeedVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` of `FeedEnv`; each step is one batch of questions to the simulator.

    A seed gives environment i what seed + i gives a single one. An environment whose episode has
    ended is reset by the next step, which ignores its action and earns nothing (Gymnasium's
    `NEXT_STEP`). All questions go to the engine together: choose `num_envs` by its memory.

    Args:
        num_envs: How many.
        simulator: See `FeedEnv`.
        scenes: See `FeedEnv`; read once.
        settings: See `FeedEnv`.

    Raises:
        UserError: see `FeedEnv`.
    """

    metadata = {"render_modes": ["ansi"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs: int, simulator: Any, scenes: Scenes | World, **settings: Any
    ) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}", fix="Give 1 or more.")
        embed = settings.pop("embed", None)
        world = scenes if isinstance(scenes, World) else read_world(scenes, embed)
        first = FeedEnv(simulator, world, **settings)
        rest = [FeedEnv(first.simulator, world, **settings) for _ in range(num_envs - 1)]
        self.envs, self.num_envs, self.world = [first, *rest], num_envs, world
        self.render_mode = first.render_mode
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, num_envs)
        self.action_space = batch_space(first.action_space, num_envs)
        self._ended = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all episodes.

        Raises:
            UserError: see `FeedEnv.reset`.
        """
        seeds = seed if isinstance(seed, list) else [
            None if seed is None else seed + n for n in range(self.num_envs)
        ]  # fmt: skip
        begun = [
            env.reset(seed=own, options=options) for env, own in zip(self.envs, seeds, strict=True)
        ]
        self._ended[:] = False
        return np.stack([one[0] for one in begun]), _together([one[1] for one in begun])

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Show each person a slate.

        Raises:
            UserError: see `FeedEnv.step`.
        """
        going = [n for n in range(self.num_envs) if not self._ended[n]]
        asked = [self.envs[n].ask(actions[n]) for n in going]
        first = self.envs[0]
        answers = iter(first.simulator.answer(asked, first.how) if asked else [])
        done: list[Step] = []
        for n, env in enumerate(self.envs):
            if self._ended[n]:
                begun, told = env.reset()
                done.append((begun, 0.0, False, False, told))
            else:
                done.append(env.take(actions[n], next(answers)))
        observed, rewards, terminated, truncated, told_of = zip(*done, strict=True)
        ends = np.array(terminated), np.array(truncated)
        self._ended = ends[0] | ends[1]
        return np.stack(observed), np.array(rewards), *ends, _together(list(told_of))

    def render(self) -> tuple[str | None, ...]:  # type: ignore[override]
        """Return each person's last slate as text."""
        return tuple(env.render() for env in self.envs)


def _together(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return infos as Gymnasium's vector environments give them: arrays, and masks `_name`."""
    together: dict[str, Any] = {}
    for name in dict.fromkeys(key for one in told for key in one):
        there = np.array([name in one for one in told])
        sample = next(one[name] for one in told if name in one)
        empty = np.zeros_like(sample) if isinstance(sample, np.ndarray) else type(sample)()
        values = [one.get(name, empty) for one in told]
        texts = isinstance(sample, str)
        together[name] = np.array(values, dtype=object) if texts else np.stack(values)
        together[f"_{name}"] = there
    return together

"""An example: a small slate policy that learns from simulated people, against random slates.

    python -m usermirrorer.recipes.environment.slate_policy --model runs/sft --scenes test.parquet

The policy gives each item of the catalogue a worth that is linear in its vector and in its likeness
to the observed history (to the mean, and to the newest line), and draws slates without equal items
by it (Plackett-Luce). REINFORCE teaches it from each slate's reward: whether the person takes one
of its items or something else. At the end it and random slates serve the same people from the same
seeds; the difference is printed with a 95 % interval (paired bootstrap over episodes).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.progress import bar
from usermirrorer.recipes.environment.registration import ID, register
from usermirrorer.recipes.environment.vector import FeedVectorEnv

#: Makes slates of observations, [environments, observation], and of what can be shown, int8
#: [environments, items].
Slates = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


@dataclass
class SlatePolicy:
    """Draws slates of a catalogue.

    Args:
        vectors: Of the catalogue, [items, width].
        slate: Items per slate.
        weights: Of an item's vector, and of its likeness to the history's mean and to its newest
            line, [width + 2].
    """

    vectors: np.ndarray
    slate: int
    weights: np.ndarray

    def features(self, observed: np.ndarray) -> np.ndarray:
        """Return [environments, items, width + 2] for [environments, observation]."""
        width = self.vectors.shape[1]
        lines = observed[:, width:-1].reshape(len(observed), -1, width)
        items = np.broadcast_to(self.vectors, (len(observed), *self.vectors.shape))
        compared = np.stack([lines.mean(axis=1), lines[:, -1]], axis=1)
        likeness = np.einsum("iw,ecw->eic", self.vectors, compared)
        # In standard deviations: two numbers are soon learned beside as many as vectors have.
        likeness -= likeness.mean(axis=1, keepdims=True)
        likeness /= np.maximum(likeness.std(axis=1, keepdims=True), 1e-9)
        return np.concatenate([items, likeness], axis=2)

    def worth(self, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return [environments, items]; an item that cannot be shown has none."""
        return np.where(mask, features @ self.weights, -np.inf)

    def __call__(
        self, observed: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return drawn slates, [environments, slate]."""
        worth = self.worth(self.features(observed), mask)
        return np.argsort(-(worth + rng.gumbel(size=worth.shape)), axis=1)[:, : self.slate]

    def slope(self, observed: np.ndarray, mask: np.ndarray, slates: np.ndarray) -> np.ndarray:
        """Return the gradient of the log-probability of each slate, [environments, weights]."""
        features = self.features(observed)
        worth = self.worth(features, mask)
        total = np.zeros(features[:, 0].shape)
        rows = np.arange(len(slates))
        for place in range(self.slate):
            p = np.exp(worth - worth.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            total += features[rows, slates[:, place]] - np.einsum("ei,eif->ef", p, features)
            worth[rows, slates[:, place]] = -np.inf
        return total


def learn(
    envs: FeedVectorEnv,
    slate: int,
    *,
    updates: int,
    rate: float = 0.3,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> SlatePolicy:
    """Return a policy that learned from the environments.

    Args:
        envs: Whom it serves while it learns.
        slate: Items per slate.
        updates: Steps of the environments, one update each.
        rate: Of learning; each update's gradient has at most length 1.
        seed: Of people and draws.
        progress: Called with 1 after each update.
    """
    vectors = envs.world.vectors.astype(np.float64)
    policy = SlatePolicy(vectors, slate, np.zeros(vectors.shape[1] + 2))
    rng = np.random.default_rng(seed)
    observed, told = envs.reset(seed=seed)
    usual, fresh = 0.0, np.zeros(envs.num_envs, bool)
    for update in range(updates):
        mask = told["action_mask"]
        slates = policy(observed, mask, rng)
        after, rewards, terminated, truncated, told = envs.step(slates)
        served = ~fresh  # an environment that was reset has shown no slate
        if served.any():
            usual = usual if update else float(rewards[served].mean())
            gain = (rewards - usual)[served, None] * policy.slope(observed, mask, slates)[served]
            slope = gain.mean(axis=0)
            policy.weights += rate * slope / max(float(np.linalg.norm(slope)), 1.0)
            usual += 0.1 * (float(rewards[served].mean()) - usual)
        observed, fresh = after, terminated | truncated
        progress(1)
    return policy


def random_slates(slate: int) -> Slates:
    """Return what draws slates without looking."""

    def drawn(observed: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.argsort(np.where(mask, rng.random(mask.shape), 2), axis=1)[:, :slate]

    return drawn


def returns(envs: FeedVectorEnv, slates: Slates, *, rounds: int, seed: int) -> np.ndarray:
    """Return the sum of rewards of each of `rounds * num_envs` episodes.

    Args:
        envs: They begin from the same seeds, with the same people, for every policy.
        slates: The policy.
        rounds: Episodes per environment.
        seed: Of people and draws.
    """
    rng = np.random.default_rng(seed)
    earned = np.zeros((rounds, envs.num_envs))
    for row in range(rounds):
        observed, told = envs.reset(seed=seed + row * envs.num_envs)
        going = np.ones(envs.num_envs, bool)
        while going.any():
            drawn = slates(observed, told["action_mask"], rng)
            observed, rewards, terminated, truncated, told = envs.step(drawn)
            earned[row] += np.where(going, rewards, 0)
            going &= ~(terminated | truncated)
    return earned.ravel()


def difference(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % bootstrap interval."""
    paired = ours - theirs
    drawn = np.random.default_rng(seed).integers(len(paired), size=(2_000, len(paired)))
    low, high = np.quantile(paired[drawn].mean(axis=1), [0.025, 0.975])
    return float(paired.mean()), float(low), float(high)


def main(words: Sequence[str] | None = None) -> None:
    """Learn, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="Hub id, folder, GGUF file, part or address")
    parser.add_argument("--scenes", required=True, help="people and catalogue")
    parser.add_argument("--mode", choices=["direct", "decision"], help="default: as trained")
    sizes = {"slate": 2, "rivals": 3, "envs": 16, "updates": 150, "rounds": 6, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(words)
    register()
    asking = {"mode": given.mode} if given.mode else {}
    beside = {"rivals": given.rivals, "outside": None} if given.rivals else {}
    try:
        made = gymnasium.make_vec(
            ID, num_envs=given.envs, simulator=given.model, scenes=given.scenes, slate=given.slate,
            asking=asking, **beside,
        )  # fmt: skip
        assert isinstance(made, FeedVectorEnv)
        with bar("updates", given.updates) as advance:
            policy = learn(
                made, given.slate, updates=given.updates, seed=given.seed, progress=advance
            )
        chance = random_slates(given.slate)
        later = given.seed + 1_000_000  # no seed of learning
        ours = returns(made, policy, rounds=given.rounds, seed=later)
        theirs = returns(made, chance, rounds=given.rounds, seed=later)
    except UserError as error:
        sys.exit(str(error))
    mean, low, high = difference(ours, theirs)
    print(f"learned {ours.mean():.2f}, random {theirs.mean():.2f} per episode of {len(ours)}")
    print(f"difference {mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")


if __name__ == "__main__":
    main()

"""Simulated people as a Gymnasium environment, `usermirrorer/Feed-v0`, and a policy that learns.

    import gymnasium
    import usermirrorer.recipes.environment  # registers it
    env = gymnasium.make("usermirrorer/Feed-v0", simulator="runs/sft", scenes="scenes/test.parquet")
    envs = gymnasium.make_vec("usermirrorer/Feed-v0", num_envs=16, simulator=..., scenes=...)

Without the import, Gymnasium does it itself for the name
`usermirrorer.recipes.environment:usermirrorer/Feed-v0`.

registration.py  tells Gymnasium of it
world.py         people and catalogue of a file of scenes, and vectors of their texts
feed.py          `FeedEnv`: one person before a feed
vector.py        `FeedVectorEnv`: many, who are asked in one batch
slate_policy.py  an example: a slate policy that learns, measured against random slates
"""

from usermirrorer.recipes.environment.registration import ID, register

register()

__all__ = ["ID", "register"]

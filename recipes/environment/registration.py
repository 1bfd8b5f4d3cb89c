"""Tells Gymnasium of the environment; imports nothing heavy."""

from __future__ import annotations

from usermirrorer.builders.common.errors import UserError

ID = "usermirrorer/Feed-v0"
_ROOM = "usermirrorer.recipes.environment"


def register() -> None:
    """Register the environment, once; importing the package does it.

    Raises:
        UserError: if Gymnasium is not installed.
    """
    try:
        from gymnasium.envs import registration
    except ImportError:
        raise UserError(
            "the environment needs gymnasium", fix="pip install 'usermirrorer[gym]'"
        ) from None
    if ID not in registration.registry:
        registration.register(
            ID,
            entry_point=f"{_ROOM}.feed:FeedEnv",
            vector_entry_point=f"{_ROOM}.vector:FeedVectorEnv",
        )

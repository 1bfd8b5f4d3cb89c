"""Build, release, train and score LLM user simulators from real recommender feedback.

    from usermirrorer import Simulator

The five subpackages are the folders at the top of the repository; here they are links, so that
Python, editors and type checkers find `usermirrorer.builders` in a plain checkout.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usermirrorer.recipes.simulator import Choice, Simulator

__all__ = ["Choice", "Simulator"]


def __getattr__(name: str) -> Any:
    """Import what is re-exported when it is first asked for: models are slow to import."""
    if name in __all__:
        from usermirrorer.recipes import simulator

        return getattr(simulator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

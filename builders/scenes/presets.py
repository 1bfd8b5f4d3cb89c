"""How much to build of each source and how: the paper's counts, and smaller ones.

    standard  Table 4's interactions, 16,384 train scenes per source (Table 5), the test scenes
              of Table 6, exposures without tells, test scenes later than all train scenes
    paper     the same counts with the exposures of Algorithm 1 and no time cut, for reproduction
    small     as standard, at most 100,000 interactions, 2,048 train scenes, a fifth of the test
    tiny      at most 10,000 interactions, 256 train scenes, a twentieth of the test scenes; no time
              cut, which would leave too few test users

All are upper bounds. Amazon Beauty has behaviors for only 10,124 train scenes in the paper. The
rule is the same for every source: `exchangeable` with the last 3,000 interactions as its window
passes the audit on all of them; MIND's exposures are those that were shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usermirrorer.builders.common.errors import UserError

if TYPE_CHECKING:
    from usermirrorer.builders.scenes.world import SceneConfig


class Published(NamedTuple):
    """Counts of one source in the paper: Table 4, then Table 6."""

    users: int
    items: int
    interactions: int
    pairs: int
    test: int


PAPER = {
    "mind": Published(307_353, 130_379, 552_043, 964, 1_280),
    "movielens": Published(6_040, 3_883, 1_000_209, 1_022, 640),
    "kuairec": Published(7_176, 10_728, 12_530_806, 1_093, 640),
    "goodreads": Published(342_415, 89_411, 6_995_891, 1_184, 640),
    "mobilerec": Published(15_141, 10_173, 100_000, 657, 640),
    "steam": Published(250_793, 32_132, 2_091_415, 1_055, 640),
    "lastfm": Published(1_892, 17_632, 70_297, 737, 640),
    "amazon_fashion": Published(14_791, 97_287, 56_086, 910, 320),
    "amazon_beauty": Published(1_620, 37_580, 14_984, 570, 320),
    "amazon_grocery": Published(24_076, 63_122, 378_775, 985, 320),
    "amazon_office": Published(11_453, 64_726, 162_297, 823, 320),
}
#: A source that the paper does not have counts as one of its ordinary ones.
_ORDINARY = Published(0, 0, 10**9, 0, 640)


class Counts(NamedTuple):
    """What to make of a source: upper bounds, and two settings of `world.SceneConfig`."""

    interactions: int
    train: int
    test: int
    exposure: str
    time_cut: float


class _Scale(NamedTuple):
    interactions: int
    train: int
    share: int  # of Table 6's test scenes: one in so many
    exposure: str = "exchangeable"
    time_cut: float = 0.8


_SCALES = {
    "standard": _Scale(10**12, 16_384, 1),
    "paper": _Scale(10**12, 16_384, 1, "paper", 0.0),
    "small": _Scale(100_000, 2_048, 5),
    "tiny": _Scale(10_000, 256, 20, time_cut=0.0),
}
NAMES = tuple(_SCALES)
DEFAULT = NAMES[0]


def preset(name: str, source: str) -> Counts:
    """Return what a preset makes of a source.

    Raises:
        UserError: if there is no such preset.
    """
    if name not in _SCALES:
        raise UserError(f"no preset is called {name!r}", fix=f"Choose from {', '.join(NAMES)}.")
    scale, published = _SCALES[name], PAPER.get(source, _ORDINARY)
    most = min(scale.interactions, published.interactions)
    test = published.test // scale.share
    return Counts(most, scale.train, test, scale.exposure, scale.time_cut)


def settings(
    name: str, source: str, *, interactions: int | None = None, **given: Any
) -> tuple[SceneConfig, int]:
    """Return how to make the scenes of a source, and how many interactions to keep.

    Args:
        name: A preset.
        source: The source.
        interactions: Most interactions, instead of the preset's.
        given: Settings of `SceneConfig` instead of the preset's or the default; None: left alone.

    Raises:
        UserError: if there is no such preset, or a setting cannot be.
    """
    from usermirrorer.builders.scenes.world import SceneConfig

    counts = preset(name, source)
    own = {"exposure": counts.exposure, "time_cut": counts.time_cut}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = SceneConfig(**{"train": counts.train, "test": counts.test, **own, **chosen})
    return config, counts.interactions if interactions is None else interactions

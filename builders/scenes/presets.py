"""How much to build of each source: the paper's counts, and smaller ones for small machines.

    paper   Table 4's interactions, 16,384 train scenes a source (Table 5), Table 6's test scenes
    small   at most 100,000 interactions, 2,048 train scenes, a fifth of Table 6's test scenes
    tiny    at most 10,000 interactions, 256 train scenes, a twentieth of Table 6's test scenes

All are upper bounds. Amazon Beauty has behaviors for only 10,124 train scenes in the paper.
"""

from __future__ import annotations

from typing import NamedTuple

from usermirrorer.builders.common.errors import UserError


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
    """Most interactions to keep, and most train and test scenes to make of them."""

    interactions: int
    train: int
    test: int


_SCALES = {"paper": (10**12, 16_384, 1), "small": (100_000, 2_048, 5), "tiny": (10_000, 256, 20)}
NAMES = tuple(_SCALES)


def preset(name: str, source: str) -> Counts:
    """Return the counts of a preset for a source.

    Raises:
        UserError: if there is no such preset.
    """
    if name not in _SCALES:
        raise UserError(f"no preset is called {name!r}", fix=f"Choose from {', '.join(NAMES)}.")
    most, train, share = _SCALES[name]
    published = PAPER.get(source, _ORDINARY)
    return Counts(min(most, published.interactions), train, published.test // share)

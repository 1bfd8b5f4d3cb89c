"""Random numbers of each scene's own, a whole batch at once.

SplitMix64 (Steele, Lea and Flood, 2014) gives the n-th number of a seed as a function of the seed
and n alone. So what a scene draws depends on the run's seed and the scene's id, never on the order
of scenes, on how many are made together, or on the process that makes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def seeds(run: int, names: Sequence[str]) -> np.ndarray:
    """Return one seed, uint64, for each name (a scene's id) in a run of seed `run`."""
    digests = (hashlib.blake2b(f"{run}/{name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def uniform(seeds: np.ndarray, stream: int, count: int, first: int = 0) -> np.ndarray:
    """Return numbers of [0, 1) as float64 [len(seeds), count].

    Args:
        seeds: uint64 [b].
        stream: What they are for; other streams of the same seed are independent.
        count: How many per seed, fewer than 2**32.
        first: Number of those of this stream that were taken before.
    """
    index = (np.uint64(stream) << np.uint64(32)) + np.arange(
        first + 1, first + count + 1, dtype=np.uint64
    )
    bits = seeds[:, None] + index[None, :] * _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)) * 2.0**-53


def integers(
    seeds: np.ndarray, stream: int, lowest: int, highest: np.ndarray | int, first: int = 0
) -> np.ndarray:
    """Return one whole number per seed, uniform from `lowest` to `highest` (both included), [b]."""
    span = np.asarray(highest) - lowest + 1
    return lowest + (uniform(seeds, stream, 1, first)[:, 0] * span).astype(np.int64)

"""Exposures in which nothing but the person tells the target from the others.

A target is what a user took at a time. The others are drawn by the same rule from what
contemporaries took: train users' first interactions with items, the last `window` of them strictly
before the scene. Two things would still mark the target, and are taken out:

* Items are drawn in proportion to how often they stand in the window, and a drawn item counts its
  own occurrence there, which a target does not: items taken once would be drawn too often. So an
  item's first occurrence in the window is passed over with probability `discount`, the value for
  which drawn items stand there once as often as targets do (the discount of Pitman-Yor's
  predictive rule, fitted to the data).
* Scenes take at most `cap` behaviors of a user, so that few people with many behaviors do not make
  up a split; contemporaries' interactions are weighted by the same cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from usermirrorer.builders.scenes import exposure, random_numbers
from usermirrorer.builders.scenes.feedback import FirstTimes, Log

_ROUNDS, _DRAWS = 12, 64  # of draws until a scene is given up, and how many each
_SAMPLED = 64  # windows that the discount is fitted on
_MOST_DISCOUNT = 0.95
DAY = 86_400


@dataclass(frozen=True)
class Contemporaries:
    """First interactions of train users with items, in the order of time.

    Shapes: `user`, `item`, `time`, `earlier` (place of the same item before, -1: none) [m];
    `places` [m], sorted by item, then place; `mass_train`, `mass_test` [m + 1], summed weights of
    the interactions before each place, for scenes of a split; `discounts` [2], of train and test.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    earlier: np.ndarray
    places: np.ndarray
    mass_train: np.ndarray
    mass_test: np.ndarray
    discounts: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, so that processes can share them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Contemporaries:
        """Put together what `arrays` gave."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def mass(self, split: str) -> np.ndarray:
        """Return the summed weights for scenes of a split."""
        return self.mass_train if split == "train" else self.mass_test

    def discount(self, split: str) -> float:
        """Return the probability of passing over an item's first occurrence in a window."""
        return float(self.discounts[0 if split == "train" else 1])


@dataclass(frozen=True)
class Window:
    """How far back contemporaries go: interactions, and seconds (0: no bound)."""

    interactions: int
    seconds: int = 0

    def of(self, pool: Contemporaries, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first place of each time's window and the place behind its last, both [b]."""
        end = np.searchsorted(pool.time, times)
        start = np.maximum(end - self.interactions, 0)
        if self.seconds:
            start = np.maximum(start, np.searchsorted(pool.time, times - self.seconds))
        return start, end


def gather(log: Log, rows: np.ndarray, train_user: np.ndarray) -> Contemporaries:
    """Index the behaviors at the log's `rows` that are of train users; all weights are 1."""
    own = rows[train_user[log.user[rows]]]
    order = own[np.lexsort((log.item[own], log.user[own], log.time[own]))]
    item, count = log.item[order], len(order)
    by_item = np.lexsort((np.arange(count), item))
    earlier = np.full(count, -1)
    same = item[by_item][1:] == item[by_item][:-1]
    earlier[by_item[1:][same]] = by_item[:-1][same]
    mass = np.arange(count + 1, dtype=np.float64)
    return Contemporaries(
        user=log.user[order],
        item=item,
        time=log.time[order],
        earlier=earlier,
        places=by_item,
        mass_train=mass,
        mass_test=mass,
        discounts=np.zeros(2),
    )


def last_before(pool: Contemporaries, items: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the last place of each item before its end, -1 where there is none (all [n])."""
    count = len(pool.item)
    keys = pool.item[pool.places].astype(np.int64) * count + pool.places
    nearest = np.searchsorted(keys, np.asarray(items, np.int64) * count + ends) - 1
    place = pool.places[np.maximum(nearest, 0)] if count else np.zeros(len(items), np.int64)
    there = (nearest >= 0) & (pool.item[place] == items) if count else np.zeros(len(items), bool)
    return np.where(there, place, -1)


def known(
    pool: Contemporaries, window: Window, items: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Say which items stand in the window of their time, and which of them once (all [n])."""
    start, end = window.of(pool, times)
    place = last_before(pool, items, end)
    inside = (place >= start) & (place >= 0)
    once = inside & (pool.earlier[np.maximum(place, 0)] < start)
    return inside, once


def cap(counts: np.ndarray, wanted: int) -> int:
    """Return the least number of behaviors per user of which `wanted` can be taken.

    Args:
        counts: Behaviors of each user.
        wanted: Scenes; if there are fewer behaviors, all are taken.
    """
    ordered = np.sort(counts)
    most = int(ordered[-1]) if len(ordered) else 1
    low, high = 1, max(most, 1)
    while low < high:
        middle = (low + high) // 2
        if np.minimum(ordered, middle).sum() >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def mass_of(pool: Contemporaries, counts: np.ndarray, most: int) -> np.ndarray:
    """Return the summed weights [m + 1] when scenes take at most so many behaviors of a user.

    Args:
        pool: The interactions.
        counts: Behaviors that scenes could take of each user, [users].
        most: See `cap`.
    """
    each = np.minimum(1.0, most / np.maximum(counts[pool.user], 1))
    return np.concatenate(([0.0], np.cumsum(each)))


def fit_discount(
    pool: Contemporaries, window: Window, mass: np.ndarray, items: np.ndarray, times: np.ndarray
) -> float:
    """Return the discount that makes drawn items stand once in the window as often as targets do.

    With weights A of interactions whose item stands in the window once, F of first occurrences and
    T of all, drawn items stand once in a share (1 - d) A / (T - d F).

    Args:
        pool: The interactions.
        window: How far back they go.
        mass: Summed weights, see `mass_of`.
        items: Of targets, as often as they are to count, [n].
        times: Of the same targets, [n].
    """
    inside, once = known(pool, window, items, times)
    if not inside.any():
        return 0.0
    share = once.sum() / inside.sum()
    chosen = np.unique(np.linspace(0, len(times) - 1, _SAMPLED).astype(int))
    alone = first = total = 0.0
    for start, end in zip(*window.of(pool, np.sort(times)[chosen]), strict=True):
        weights = np.diff(mass[start : end + 1])
        begins = pool.earlier[start:end] < start
        items_here = pool.item[start:end]
        often = np.bincount(items_here, minlength=1)[items_here] if len(items_here) else items_here
        alone += weights[often == 1].sum()
        first += weights[begins].sum()
        total += weights.sum()
    below = alone - share * first
    return float(np.clip((alone - share * total) / below, 0, _MOST_DISCOUNT)) if below > 0 else 0.0


def draw(
    pool: Contemporaries,
    window: Window,
    split: str,
    seeds: np.ndarray,
    target: np.ndarray,
    times: np.ndarray,
    others: np.ndarray,
    passed_over: PassedOver,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the others of each scene and insert the target anywhere.

    Args:
        pool: What contemporaries took.
        window: How far back they go.
        split: Of the scenes.
        seeds: uint64 [b], the scenes' own.
        target: Item of the real behavior [b].
        times: Seconds [b].
        others: Items beside the target [b].
        passed_over: Which items may not be options.

    Returns:
        As `exposure.mix`: items [b, width], of which the first `others + 1` count, their origin
        (-1: the target, else 0), and whether enough could be drawn [b].
    """
    size, width = len(target), int(others.max(initial=0)) + 1
    items, origin = np.zeros((size, width), np.int64), np.full((size, width), -1)
    enough, pending = np.zeros(size, bool), np.arange(size)
    lists = np.empty((size, 0), np.int64)
    for step in range(_ROUNDS):
        start, end = window.of(pool, times[pending])
        there = start < end
        pending, lists = pending[there], lists[there]
        if not len(pending):
            break
        numbers = random_numbers.uniform(
            seeds[pending], exposure.CANDIDATES, 2 * _DRAWS, 2 * _DRAWS * step
        )
        drawn = _drawn(pool, split, start[there], end[there], numbers)
        drawn[passed_over(pending, drawn)] = -1
        lists = exposure.compact(np.concatenate([lists, drawn], axis=1))
        now = seeds[pending], lists[:, None, :], target[pending], others[pending]
        mixed, of, done = exposure.mix(*now, passed_over.title_of)
        items[pending, : mixed.shape[1]], origin[pending, : of.shape[1]] = mixed, of
        enough[pending] = done
        pending, lists = pending[~done], lists[~done]
    return items, origin, enough


def _drawn(
    pool: Contemporaries, split: str, start: np.ndarray, end: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Return items [b, draws] of interactions in the windows, -1 where one was passed over.

    Args:
        pool: The interactions.
        split: Whose weights and discount count.
        start: First place of each window [b].
        end: Place behind its last [b].
        numbers: Uniform [b, 2 * draws]: which interaction, and whether a first one is kept.
    """
    mass, draws = pool.mass(split), numbers.shape[1] // 2
    low, high = mass[start][:, None], mass[end][:, None]
    place = np.searchsorted(mass, low + numbers[:, :draws] * (high - low), side="right") - 1
    place = np.clip(place, start[:, None], end[:, None] - 1)
    kept = (pool.earlier[place] >= start[:, None]) | (numbers[:, draws:] >= pool.discount(split))
    return np.where(kept, pool.item[place], -1).astype(np.int64)


@dataclass(frozen=True)
class PassedOver:
    """Which items may not be options of a scene beside its target.

    Those that its user had taken before, takes at the same moment, or takes within `seconds` after
    it (they would be right answers counted as wrong), and those not `visible_from` before its time.
    The target is under the same rule but for being taken.
    """

    firsts: FirstTimes
    users: np.ndarray  # [b]
    times: np.ndarray  # [b]
    seconds: int
    visible_from: np.ndarray  # [items]
    title_of: np.ndarray  # [items], equal numbers for equal titles

    def __call__(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Say which items [n, width] (-1: none) are passed over for the scenes `rows` [n]."""
        times = self.times[rows, None]
        users = np.broadcast_to(self.users[rows, None], items.shape)
        taken = self.firsts.when(users, items) <= times + self.seconds
        return taken | (self.visible_from[items] >= times)

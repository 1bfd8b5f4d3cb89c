"""Exposures in which nothing but the person tells the target from the others.

A target is what a user took at a time. The others are drawn by the same rule from what
contemporaries took: train users' first interactions with items, the last `window` of them strictly
before the scene. Three things would still mark the target, and are taken out:

* Items are drawn in proportion to how often they stand in the window, and a drawn item counts its
  own occurrence there, which a target does not: what was taken once would be drawn too often.
* What the person takes soon after the scene is no wrong answer, and that is more often something
  that many take: what is left would be less popular than targets are.

  Both are met by keeping a drawn item with a probability that depends on how often it was taken in
  the window, and how often ever before, fitted so that both are of what is drawn as of targets.
* Scenes take at most `cap` behaviors of a user, so that few people with many behaviors do not make
  up a split; contemporaries' interactions are weighted by the same cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from usermirrorer.builders.scenes import exposure, random_numbers
from usermirrorer.builders.scenes.feedback import FirstTimes, Log

_ROUNDS, _DRAWS = 48, 64  # of draws until a scene is given up, and how many each
#: Most targets that `fit_kept` needs.
SAMPLED = 4_000
#: Classes of how often items stand in a window, the fewest targets of each, and steps of the fit.
_CLASSES, _FEWEST, _STEPS = 16, 50, 60
_LEAST_KEPT = 0.02
DAY = 86_400


@dataclass(frozen=True)
class Contemporaries:
    """First interactions of train users with items, in the order of time.

    Shapes: `user`, `item`, `time` [m]; `keys` [m], `item * m + place`, sorted; `mass_train`,
    `mass_test` [m + 1], summed weights of the interactions before each place, for scenes of a
    split; `edges` [2, 2, classes - 1] and `kept` [2, 2, classes], of train and test: see
    `fit_kept`.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    keys: np.ndarray
    mass_train: np.ndarray
    mass_test: np.ndarray
    edges: np.ndarray
    kept: np.ndarray

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

    def keeps(
        self, split: str, items: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> np.ndarray:
        """Return the probability of keeping items drawn between two places (all of one shape)."""
        row = 0 if split == "train" else 1
        classes = _classes(often(self, items, start, end), self.edges[row])
        return self.kept[row][0][classes[0]] * self.kept[row][1][classes[1]]


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
    mass = np.arange(count + 1, dtype=np.float64)
    return Contemporaries(
        user=log.user[order],
        item=item,
        time=log.time[order],
        keys=np.sort(item.astype(np.int64) * count + np.arange(count)),
        mass_train=mass,
        mass_test=mass,
        edges=np.empty((2, 2, 0), np.int64),
        kept=np.ones((2, 2, 1)),
    )


def often(
    pool: Contemporaries, items: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often items were taken between two places, and ever before the second.

    All of one shape, or of shapes that go together.
    """
    first = np.asarray(items, np.int64) * len(pool.item)
    until = np.searchsorted(pool.keys, first + end)
    since = np.searchsorted(pool.keys, first + start), np.searchsorted(pool.keys, first)
    return until - since[0], until - since[1]


def _classes(taken: tuple[np.ndarray, np.ndarray], edges: np.ndarray) -> list[np.ndarray]:
    """Return the class of each number, of both kinds."""
    return [np.searchsorted(e, n, side="right") for n, e in zip(taken, edges, strict=True)]


def stand(pool: Contemporaries, window: Window, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Say which items were taken in the window of their time (all [n])."""
    if not len(pool.keys):
        return np.zeros(len(items), bool)
    start, end = window.of(pool, times)
    first = np.asarray(items, np.int64) * len(pool.item)
    last = np.searchsorted(pool.keys, first + end) - 1
    return (last >= 0) & (pool.keys[np.maximum(last, 0)] >= first + start)


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


def fit_kept(
    pool: Contemporaries,
    window: Window,
    mass: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
    passed_over: PassedOver,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often items may be kept so that what is drawn was taken as often as targets were.

    How often in the window, and how often ever before it ended: either alone would be seen. The
    classes of each number hold equally many targets. Draws are made for every target, and the
    probabilities raised or lowered in turn until the mean share of each class among what is kept is
    its share among targets (iterative proportional fitting).

    Args:
        pool: The interactions.
        window: How far back they go.
        mass: Summed weights, see `mass_of`.
        items: Of targets, as often as they are to count, [n].
        times: Of the same targets, [n].
        passed_over: Which items may not be options beside these targets.
        rng: Draws.

    Returns:
        Edges of the classes of both numbers [2, `_CLASSES` - 1], and the factors of the probability
        of keeping an item [2, `_CLASSES`].
    """
    edges = np.full((2, _CLASSES - 1), np.iinfo(np.int64).max)
    kept = np.ones((2, _CLASSES))
    start, end = window.of(pool, times)
    if not len(items) or not (start < end).all():
        return edges, kept
    of_targets = often(pool, items, start, end)
    for row, taken in zip(edges, of_targets, strict=True):
        inner = _inner_edges(taken)
        row[: len(inner)] = inner
    drawn = pool.item[_places(mass, start, end, rng.random((len(items), _DRAWS)))]
    allowed = ~passed_over(np.arange(len(items)), drawn)
    some = allowed.any(axis=1)
    drawn_often = often(pool, drawn, start[:, None], end[:, None])
    of_drawn = [of[some] for of in _classes(drawn_often, edges)]
    wanted = [
        np.bincount(of, minlength=_CLASSES) / len(items) for of in _classes(of_targets, edges)
    ]
    return edges, _raked(allowed[some].astype(float), of_drawn, wanted) if some.any() else kept


def _raked(weights: np.ndarray, of_drawn: list[np.ndarray], wanted: list[np.ndarray]) -> np.ndarray:
    """Return factors of the classes of both numbers by which drawn items get the wanted shares.

    Args:
        weights: 1 of what may stand beside the target, else 0, [n, draws].
        of_drawn: Class of what was drawn, for each number, [n, draws].
        wanted: Share of each class, for each number, [`_CLASSES`].
    """
    kept = np.ones((2, _CLASSES))
    for step in range(2 * _STEPS):
        each = weights * kept[0][of_drawn[0]] * kept[1][of_drawn[1]]
        each /= each.sum(axis=1, keepdims=True)
        which = step % 2
        now = np.bincount(of_drawn[which].ravel(), each.ravel(), minlength=_CLASSES) / len(each)
        raised = kept[which] * np.divide(wanted[which], now, out=np.ones(_CLASSES), where=now > 0)
        kept[which] = np.clip(raised / raised[now > 0].max(), _LEAST_KEPT, 1.0)
    return kept


def _inner_edges(taken: np.ndarray) -> np.ndarray:
    """Return where classes of equally many begin, but for the first."""
    parts = min(_CLASSES, max(len(taken) // _FEWEST, 1))
    edges = np.quantile(taken, np.arange(1, parts) / parts, method="higher")
    return np.unique(edges[edges > taken.min()])


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
        split: Whose weights and probabilities count.
        start: First place of each window [b].
        end: Place behind its last [b].
        numbers: Uniform [b, 2 * draws]: which interaction, and whether it is kept.
    """
    draws = numbers.shape[1] // 2
    item = pool.item[_places(pool.mass(split), start, end, numbers[:, :draws])]
    kept = numbers[:, draws:] < pool.keeps(split, item, start[:, None], end[:, None])
    return np.where(kept, item, -1).astype(np.int64)


def _places(
    mass: np.ndarray, start: np.ndarray, end: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Return places of interactions in the windows, drawn by weight by uniform numbers [b, n]."""
    low, high = mass[start][:, None], mass[end][:, None]
    place = np.searchsorted(mass, low + numbers * (high - low), side="right") - 1
    return np.clip(place, start[:, None], end[:, None] - 1)


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

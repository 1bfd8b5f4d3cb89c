"""Exposure lists: candidate rankings and how they are mixed (appendix B.1, Algorithm 1).

All functions work on a batch of scenes, one row each, and no row depends on another.
"""

from __future__ import annotations

import numpy as np

from usermirrorer.builders.scenes import random_numbers

#: Length of each candidate list (section 2.2).
K = 32

#: Streams of `random_numbers`: what a scene's numbers are for.
OTHERS, HISTORY, CANDIDATES, MORE_CANDIDATES, MIXING, POSITION, PLACEBO = range(7)


def top(scores: np.ndarray, allowed: np.ndarray, count: int = K) -> np.ndarray:
    """Return the indices of the best allowed items per row, best first, [b, count], -1 padded.

    Args:
        scores: [b, items]; ties are broken by item index.
        allowed: [b, items] of bool.
        count: Length of each ranking.
    """
    rows, items = scores.shape
    width = min(count, items)
    masked = np.where(allowed, scores, -np.inf)
    # The value of the last place by a partition of values: many times as fast as of indices.
    last = np.partition(masked, items - width, axis=1)[:, items - width]
    floor = np.maximum(last, np.finfo(masked.dtype).min)
    row, column = np.divmod(np.flatnonzero(masked >= floor[:, None]), items)
    order = np.lexsort((column, -masked[row, column], row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    ranked = np.full((rows, count), -1)
    ranked[row[place < width], place[place < width]] = column[place < width]
    return ranked


def random_items(seeds: np.ndarray, allowed: np.ndarray, count: int = K) -> np.ndarray:
    """Return distinct allowed items in random order, [b, count], -1 padded.

    Draws any items and passes over those not allowed or drawn before; where too few are found in
    that way, all allowed items are put in random order instead.
    """
    rows, items = allowed.shape
    drawn = (random_numbers.uniform(seeds, CANDIDATES, 4 * count) * items).astype(np.int64)
    good = np.take_along_axis(allowed, drawn, axis=1) & _first_in_row(drawn)
    place = np.cumsum(good, axis=1) - 1
    row, column = np.nonzero(good & (place < count))
    chosen = np.full((rows, count), -1)
    chosen[row, place[row, column]] = drawn[row, column]
    for short in np.flatnonzero(chosen[:, -1] < 0):
        order = random_numbers.uniform(seeds[[short]], MORE_CANDIDATES, items)
        chosen[short] = top(order, allowed[[short]], count)[0]
    return chosen


def _first_in_row(values: np.ndarray) -> np.ndarray:
    """Say which values [b, n] stand in their row for the first time."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return ~again


def shuffled(seeds: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return each row of items [b, n], -1 padded, in random order, padding last."""
    key = random_numbers.uniform(seeds, CANDIDATES, items.shape[1])
    order = np.argsort(np.where(items >= 0, key, 2.0), axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1)


def compact(items: np.ndarray) -> np.ndarray:
    """Return each row of items [b, n] with its gaps (-1) moved behind what is there, in order."""
    order = np.argsort(items < 0, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1)


def mix(
    seeds: np.ndarray,
    lists: np.ndarray,
    target: np.ndarray,
    others: np.ndarray,
    title_of: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Algorithm 1: draw `others` items from the candidate lists and insert the target anywhere.

    Each draw picks one of the lists with equal probability and pops its best item; an item that is
    there already, or whose title cannot be told from one that is there, is passed over. The target
    then goes to one of the `others + 1` positions, all equally likely. Lists that have run out are
    not picked any more.

    Args:
        seeds: uint64 [b], the scenes' own.
        lists: Item indices [b, lists, length], best first, -1 padded.
        target: Item index of the real behaviour [b].
        others: N of the paper [b].
        title_of: [items], equal numbers for equal titles.

    Returns:
        Items [b, width] and the list each is of (-1: the target), of which the first `others + 1`
        count, and whether the candidates sufficed [b].
    """
    size, width = len(target), int(others.max(initial=0)) + 1
    chosen, origin = np.zeros((size, width), np.int64), np.full((size, width), -1)
    taken = np.full((size, width), -1, np.int64)
    taken[:, 0] = title_of[target]
    popped, lengths = np.zeros(lists.shape[:2], np.int64), (lists >= 0).sum(axis=2)
    count, active, step = np.zeros(size, np.int64), np.flatnonzero(others > 0), 0
    while len(active):
        alive = popped[active] < lengths[active]
        some = alive.any(axis=1)
        active, alive = active[some], alive[some]
        nth = random_numbers.integers(seeds[active], MIXING, 1, alive.sum(axis=1), step)
        of = np.argmax(np.cumsum(alive, axis=1) == nth[:, None], axis=1)
        item = lists[active, of, popped[active, of]]
        popped[active, of] += 1
        title = title_of[item]
        fresh = ~(taken[active] == title[:, None]).any(axis=1)
        row = active[fresh]
        chosen[row, count[row]], origin[row, count[row]] = item[fresh], of[fresh]
        count[row] += 1
        taken[row, np.minimum(count[row], width - 1)] = title[fresh]
        active, step = active[count[active] < others[active]], step + 1
    return *inserted(seeds, chosen, origin, target, others), count == others


def inserted(
    seeds: np.ndarray,
    chosen: np.ndarray,
    origin: np.ndarray,
    target: np.ndarray,
    others: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Put the target at a random position of each row, moving what follows by one."""
    position = random_numbers.integers(seeds, POSITION, 0, others)[:, None]
    column = np.arange(chosen.shape[1])[None, :]
    source = column - (column > position)
    items = np.where(column == position, target[:, None], np.take_along_axis(chosen, source, 1))
    return items, np.where(column == position, -1, np.take_along_axis(origin, source, 1))

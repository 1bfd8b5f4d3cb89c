"""Exposure lists: three candidate rankings and their mixture (appendix B.1, Algorithm 1).

Everything is as of the scene's time: collaborative scores and popularity see interactions of train
users before that time only, items must have been available, and items the user had interacted with
are left out. Indices are int32, times int64 seconds, scores float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

#: Length of each candidate list (section 2.2).
K = 32
#: GF-CF: weight and rank of the ideal low-pass filter beside the linear one.
LOW_PASS_WEIGHT, LOW_PASS_RANK = 0.3, 256
#: Above this many items the item-item filter is kept sparse.
_DENSE_ITEMS = 16_384
_NEIGHBOURS = 256
#: Times at which the collaborative filter is refreshed, at quantiles of the scenes' times.
_SNAPSHOTS = 8

Score = Callable[[sparse.csr_matrix], np.ndarray]


@dataclass(frozen=True)
class Log:
    """Interactions as arrays sorted by user, then time, then item.

    Shapes: `user`, `item`, `time` [n]; `offsets` [users + 1] delimits each user's rows.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    offsets: np.ndarray
    items: int

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1


def make_log(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, *, users: int, items: int
) -> Log:
    """Sort interactions (arrays of n) into a `Log`."""
    order = np.lexsort((item, time, user))
    user, item, time = user[order].astype(np.int32), item[order].astype(np.int32), time[order]
    offsets = np.searchsorted(user, np.arange(users + 1))
    return Log(user, item, time.astype(np.int64), offsets, items)


@dataclass(frozen=True)
class Popularity:
    """Counts interactions of train users per item before any time."""

    starts: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, log: Log, train_user: np.ndarray) -> Popularity:
        """Index the interactions of users whose `train_user` [users] is true."""
        keep = train_user[log.user]
        item, time = log.item[keep], log.time[keep]
        order = np.lexsort((time, item))
        return cls(np.searchsorted(item[order], np.arange(log.items + 1)), time[order])

    def first(self) -> np.ndarray:
        """Return each item's first interaction time [items], the largest int64 if it has none."""
        first = np.full(len(self.starts) - 1, np.iinfo(np.int64).max)
        some = self.starts[:-1] < self.starts[1:]
        first[some] = self.times[self.starts[:-1][some]]
        return first

    def before(self, items: Sequence[int], time: int) -> list[int]:
        """Return how many interactions each of `items` had strictly before `time`."""
        return [
            int(np.searchsorted(self.times[self.starts[i] : self.starts[i + 1]], time))
            for i in items
        ]


def collaborative_scores(log: Log, train_user: np.ndarray, before: int) -> Score:
    """Fit GF-CF on the train users' interactions before a time.

    GF-CF (Shen et al., 2021) scores a user's history vector r with the normalised adjacency R~ =
    D_u^-1/2 R D_i^-1/2 as `r R~'R~ + w r D_i^-1/2 V V' D_i^1/2`, V being the top right singular
    vectors of R~: a linear plus an ideal low-pass filter.

    Returns:
        A function from histories, CSR [b, items], to scores [b, items].
    """
    keep = train_user[log.user] & (log.time < before)
    rows, columns = log.user[keep], log.item[keep]
    seen = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, columns)), shape=(log.users, log.items)
    )
    seen.data[:] = 1.0
    item_degree = np.asarray(seen.sum(axis=0)).ravel()
    user_degree = np.asarray(seen.sum(axis=1)).ravel()
    item_scale = _inverse_root(item_degree)
    normal = sparse.diags(_inverse_root(user_degree)) @ seen @ sparse.diags(item_scale)
    normal = normal[user_degree > 0].astype(np.float32).tocsr()
    if log.items <= _DENSE_ITEMS:
        return _dense_filter(normal, item_scale, np.sqrt(item_degree))
    return _sparse_filter(normal, item_scale, np.sqrt(item_degree))


def _inverse_root(degree: np.ndarray) -> np.ndarray:
    return np.divide(1.0, np.sqrt(degree), out=np.zeros(len(degree), np.float32), where=degree > 0)


def _dense_filter(normal: sparse.csr_matrix, scale: np.ndarray, unscale: np.ndarray) -> Score:
    items = normal.shape[1]
    linear = np.zeros((items, items), np.float32)
    for start in range(0, normal.shape[0], 2048):
        block = normal[start : start + 2048].toarray()
        linear += block.T @ block
    basis = _leading(lambda x: linear @ x, items)
    linear += LOW_PASS_WEIGHT * ((scale[:, None] * basis) @ (basis.T * unscale[None, :]))
    return lambda history: np.asarray(history @ linear, np.float32)


def _sparse_filter(normal: sparse.csr_matrix, scale: np.ndarray, unscale: np.ndarray) -> Score:
    transposed = normal.T.tocsr()
    basis = _leading(lambda x: transposed @ (normal @ x), normal.shape[1], rank=64)
    blocks = []
    for start in range(0, normal.shape[1], 1024):
        blocks.append(_strongest((transposed[start : start + 1024] @ normal).tocsr(), _NEIGHBOURS))
    linear = sparse.vstack(blocks).tocsr()
    into, back = (scale[:, None] * basis), LOW_PASS_WEIGHT * (basis.T * unscale[None, :])

    def score(history: sparse.csr_matrix) -> np.ndarray:
        return np.asarray((history @ linear).todense(), np.float32) + (history @ into) @ back

    return score


def _leading(
    apply: Callable[[np.ndarray], np.ndarray], size: int, rank: int = LOW_PASS_RANK
) -> np.ndarray:
    """Leading eigenvectors [size, rank] of a symmetric operator by block power iteration."""
    rank = min(rank, max(1, size // 4))
    block = np.random.default_rng(0).standard_normal((size, rank + 8)).astype(np.float32)
    for _ in range(6):
        block, _ = np.linalg.qr(apply(block))
    small = block.T @ apply(block)
    _, rotation = np.linalg.eigh((small + small.T) / 2)
    return (block @ rotation[:, ::-1])[:, :rank].astype(np.float32)


def _strongest(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Keep the `count` largest entries of each row."""
    lengths = np.diff(matrix.indptr)
    row = np.repeat(np.arange(matrix.shape[0]), lengths)
    order = np.lexsort((-matrix.data, row))
    rank = np.arange(len(row)) - np.repeat(matrix.indptr[:-1], lengths)
    kept = order[rank < count]
    return sparse.csr_matrix((matrix.data[kept], (row[kept], matrix.indices[kept])), matrix.shape)


def snapshots(times: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Group scenes (their `times` [n]) by the collaborative snapshot they may see.

    Yields:
        `(before, rows)`: fit on interactions before `before`, which is not later than the time of
        any scene in `rows`. Boundaries are quantiles, so that groups have similar sizes.
    """
    order = np.argsort(times, kind="stable")
    for rows in np.array_split(order, min(_SNAPSHOTS, max(1, len(times)))):
        if len(rows):
            yield int(times[rows[0]]), rows


def histories(log: Log, users: np.ndarray, ends: np.ndarray) -> sparse.csr_matrix:
    """Return CSR [len(users), items]: what each user had interacted with in rows before `ends`."""
    starts = log.offsets[users]
    lengths = ends - starts
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    position = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - starts, lengths)
    ones = np.ones(len(position), np.float32)
    matrix = sparse.csr_matrix((ones, log.item[position], indptr), (len(users), log.items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def top(scores: np.ndarray, allowed: np.ndarray, count: int = K) -> np.ndarray:
    """Return the indices of the best allowed items per row, best first, [b, count], -1 padded.

    Args:
        scores: [b, items]; ties are broken by item index.
        allowed: [b, items] of bool.
        count: Length of each ranking.
    """
    masked = np.where(allowed, scores, -np.inf)
    count = min(count, masked.shape[1])
    best = np.sort(np.argpartition(-masked, count - 1, axis=1)[:, :count], axis=1)
    values = np.take_along_axis(masked, best, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(best, order, axis=1)
    return np.where(np.isfinite(np.take_along_axis(values, order, axis=1)), ranked, -1)


def random_items(rng: random.Random, allowed: np.ndarray, count: int = K) -> list[int]:
    """Return up to `count` distinct allowed items in random order (`allowed`: [items] of bool)."""
    pool = np.flatnonzero(allowed)
    if len(pool) <= count:
        return rng.sample(pool.tolist(), len(pool))
    return pool[rng.sample(range(len(pool)), count)].tolist()


def mix(
    rng: random.Random,
    lists: dict[str, list[int]],
    target: int,
    others: int,
    title_of: np.ndarray,
) -> tuple[list[int], list[str]] | None:
    """Algorithm 1: draw `others` items from the candidate lists and insert the target anywhere.

    Each draw picks one of the lists with equal probability and pops its best item; an item that is
    there already, or whose title cannot be told from one that is there, is passed over. The target
    then goes to one of the `others + 1` positions, all equally likely.

    Args:
        rng: The scene's own generator.
        lists: Origin name -> ranked item indices.
        target: Item index of the real behaviour.
        others: N of the paper.
        title_of: [items], equal numbers for equal titles.

    Returns:
        Item indices and their origins, or None if the candidates do not suffice.
    """
    queues = {origin: list(reversed(items)) for origin, items in lists.items()}
    taken = {int(title_of[target])}
    chosen: list[tuple[int, str]] = []
    while len(chosen) < others:
        alive = [origin for origin, queue in queues.items() if queue]
        if not alive:
            return None
        origin = alive[rng.randrange(len(alive))]
        item = queues[origin].pop()
        title = int(title_of[item])
        if title not in taken:
            taken.add(title)
            chosen.append((item, origin))
    chosen.insert(rng.randrange(others + 1), (target, "target"))
    return [item for item, _ in chosen], [origin for _, origin in chosen]

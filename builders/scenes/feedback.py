"""The feedback of a source as arrays that scenes look things up in.

Everything is as of a time: what lies at or after it is not seen, and interactions at the same
moment are neither before nor after each other. Indices are integers, times int64 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

#: The collaborative filter is fitted anew when these shares of the interactions have passed; until
#: the first of them there is none.
_REFRESHED = (1 / 64, 1 / 16, 1 / 4, 1 / 2, 3 / 4)
_TIME_BITS, _TIME_ZERO = 34, 1 << 32  # seconds from 1833 to 2378
NEVER = np.iinfo(np.int64).max
#: Collaborative scores and likeness look at so many of a user's newest events: what a user costs
#: there grows with their square. What a user has taken, and is shown, is known of all of them.
MOST_EVENTS = 5_000


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

    def ends(self, users: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return the log row behind each user's last interaction strictly before a time, [b]."""
        return np.searchsorted(_keys(self.user, self.time), _keys(users, times))


def make_log(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, *, users: int, items: int
) -> Log:
    """Sort interactions (arrays of n) into a `Log`."""
    order = np.lexsort((item, time, user))
    return sorted_log(user[order], item[order], time[order], users=users, items=items)


def sorted_log(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, *, users: int, items: int
) -> Log:
    """Make a `Log` of interactions that are in its order already."""
    offsets = np.searchsorted(user, np.arange(users + 1))
    return Log(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64), offsets, items)


def _keys(number: np.ndarray, time: np.ndarray) -> np.ndarray:
    """One integer that sorts by a number, then by time."""
    return (np.asarray(number, np.int64) << _TIME_BITS) + (time + _TIME_ZERO)


@dataclass(frozen=True)
class Popularity:
    """Counts interactions of train users per item before any time.

    Shapes: `keys` [interactions], ascending by item, then time; `starts` [items + 1].
    """

    keys: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, log: Log, train_user: np.ndarray) -> Popularity:
        """Index the interactions of users whose `train_user` [users] is true."""
        keep = train_user[log.user]
        keys = np.sort(_keys(log.item[keep], log.time[keep]))
        starts = np.searchsorted(keys, np.arange(log.items + 1) << _TIME_BITS)
        return cls(keys, starts)

    def first(self) -> np.ndarray:
        """Return each item's first interaction time [items], the largest int64 if it has none."""
        first = np.full(len(self.starts) - 1, NEVER)
        some = self.starts[:-1] < self.starts[1:]
        moments = self.keys[self.starts[:-1][some]] & ((1 << _TIME_BITS) - 1)
        first[some] = moments - _TIME_ZERO
        return first

    def before(self, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return how many interactions each item had strictly before its time (both [n])."""
        return np.searchsorted(self.keys, _keys(items, times)) - self.starts[items]


def refresh_times(log: Log, train_user: np.ndarray) -> np.ndarray:
    """Return the times, ascending, at which the collaborative filter is fitted anew.

    They are quantiles of the train users' interactions, so they depend on no scene. A scene sees
    the last filter fitted at or before its time, on interactions strictly before that.
    """
    times = np.sort(log.time[train_user[log.user]])
    return np.unique(times[[int(len(times) * share) for share in _REFRESHED]])


def newest(log: Log, users: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the first of each user's `MOST_EVENTS` rows before an end, [len(users)]."""
    return np.maximum(log.offsets[users], ends - MOST_EVENTS)


def histories(
    log: Log, users: np.ndarray, ends: np.ndarray, starts: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Return CSR [len(users), items]: what each user had interacted with in rows before `ends`.

    With `starts`, only in rows from there on.
    """
    position, lengths = ranges(log.offsets[users] if starts is None else starts, ends)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    ones = np.ones(len(position), np.float32)
    matrix = sparse.csr_matrix((ones, log.item[position], indptr), (len(users), log.items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers from each start up to its end, all in one array, and how many each has."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths), lengths


@dataclass(frozen=True)
class FirstTimes:
    """When each user first took each item.

    Shapes: `keys` [pairs], ascending user * items + item; `rows` [pairs], the log row of each.
    """

    log: Log
    keys: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, log: Log) -> FirstTimes:
        """Index a log, in which a user's earlier rows come first."""
        keys = log.user.astype(np.int64) * log.items + log.item
        return cls(log, *np.unique(keys, return_index=True))

    def when(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the first time of each pair (arrays of one shape), `NEVER` where there is none."""
        wanted = np.asarray(users, np.int64) * self.log.items + items
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        there = self.keys[place] == wanted
        return np.where(there, self.log.time[self.rows[place]], NEVER)

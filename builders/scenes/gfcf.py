"""Collaborative scores of items for histories: GF-CF (Shen et al., 2021; section 2.2).

With the normalised adjacency R~ = D_u^-1/2 R D_i^-1/2, a history vector r scores `r R~'R~ + w r
D_i^-1/2 V V' D_i^1/2`, V being the leading right singular vectors of R~: a linear plus an ideal
low-pass filter. Both are brought together once into an item x item filter, so that the scores of a
scene cost only the rows of its history.

The largest singular value is 1, once for each connected component of users and items: its vector
is popularity inside the component. These vectors are known in closed form and all kept; together
they count as one of the rank. The others come from block iteration to a proven residual.

Which item ranks above which must not depend on the number of threads or processes. The linear
filter is therefore summed in whole numbers, which is exact in any order, and the low-pass one in
float64, of which float32 remains. Of singular vectors with equal values, which are up to rounding,
the filter takes all or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import sparse

from usermirrorer.builders.scenes.feedback import Log, newest

#: Weight and rank of the low-pass filter beside the linear one; the paper names neither. The rank
#: is that of its published code, the weight that of GF-CF's authors.
LOW_PASS_WEIGHT, LOW_PASS_RANK = 0.3, 64
#: Above this many items the filter keeps each item's strongest neighbours only.
_DENSE_ITEMS = 16_384
_NEIGHBOURS = 256
_USERS, _ROWS = 2048, 1024  # rows of a matrix worked on at once
_COLUMNS = 256  # of the filter, so that they stay in a core's cache while histories add them up

_TIE = 1e-7  # eigenvalues (of 0 to 1) closer than this cannot be told apart
_PROVEN = 1e-6  # error of the low-pass filter at which iteration ends
_ENOUGH = 1e-4  # and the largest that is accepted when the rounds have run out
_MOST_ROUNDS = 60
_GROWTH = 1e8  # of the largest eigenvalue over the smallest within a round; float64 has 16 digits
_MOST_DEGREE = 12  # of a round's polynomial

#: Arrays by name: `dense` [items, items], or those of a sparse matrix and of the low-pass filter;
#: none if nothing was seen yet. Plain arrays, so that processes can share them.
Filter = Mapping[str, np.ndarray]

#: A symmetric operator applied to the columns of a block [size, k].
Operator = Callable[[np.ndarray], np.ndarray]


class _LowPass(NamedTuple):
    """The low-pass filter without its weight: `into @ back`, and popularity in each component."""

    into: np.ndarray  # [items, k]
    back: np.ndarray  # [k, items]
    component: np.ndarray  # [items] number of the connected component
    share: np.ndarray  # [items] of the component's interactions


def fit(log: Log, train_user: np.ndarray, before: int) -> Filter:
    """Return the filter of the train users' interactions before a time, the newest of each.

    Args:
        log: All interactions.
        train_user: [users] of bool.
        before: Seconds.
    """
    keep = train_user[log.user] & (log.time < before)
    everyone = np.arange(log.users)
    first = newest(log, everyone, log.ends(everyone, np.full(log.users, before)))
    keep &= np.arange(len(log.user)) >= first[log.user]
    rows, columns = log.user[keep], log.item[keep]
    if not len(rows):
        return {}
    seen = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, columns)), shape=(log.users, log.items)
    )
    seen.data[:] = 1.0
    seen = seen[np.diff(seen.indptr) > 0]
    degree = np.bincount(seen.indices, minlength=log.items).astype(np.float64)
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros(log.items), where=degree > 0)
    root = sparse.diags(1.0 / np.sqrt(np.diff(seen.indptr)))
    normal = (root @ seen.astype(np.float64) @ sparse.diags(scale)).tocsr()
    low = _low_pass(normal, degree)
    if log.items <= _DENSE_ITEMS:
        return {"dense": _dense(seen, scale, low)}
    return _sparse(normal, low)


def scores(fitted: Filter, history: sparse.csr_matrix) -> np.ndarray:
    """Return scores [b, items] of histories, CSR [b, items]; a history's do not depend on others.

    Items that no user had met, and those that no chain of users and items joins to the history,
    have a score of exactly 0.
    """
    if not fitted:
        return np.zeros(history.shape, np.float32)
    if "dense" in fitted:
        dense = fitted["dense"]
        summed = np.empty(history.shape, np.float32)
        for start in range(0, dense.shape[1], _COLUMNS):
            columns = np.ascontiguousarray(dense[:, start : start + _COLUMNS])
            summed[:, start : start + _COLUMNS] = history @ columns
        return summed
    size = history.shape[1]
    linear = sparse.csr_matrix(
        (fitted["data"], fitted["indices"], fitted["indptr"]), (size, size), copy=False
    )
    low = (history @ fitted["into"]) @ fitted["back"]
    component = fitted["component"]
    member = sparse.csr_matrix((np.ones(size), component, np.arange(size + 1)))
    met = (history @ member).toarray()[:, component]  # how many of the history are beside an item
    low = LOW_PASS_WEIGHT * (low + met * fitted["share"]) * (met > 0)
    return np.asarray((history @ linear).toarray() + low, np.float32)


def _dense(seen: sparse.csr_matrix, scale: np.ndarray, low: _LowPass) -> np.ndarray:
    unit, weights = _whole_weights(seen)
    linear = _gram(seen, weights).astype(np.float32)
    linear *= (scale / unit).astype(np.float32)[:, None]
    linear *= scale.astype(np.float32)[None, :]
    for start in range(0, len(linear), _ROWS):
        rows = slice(start, start + _ROWS)
        together = low.component[rows, None] == low.component[None, :]
        linear[rows] += LOW_PASS_WEIGHT * together * (low.into[rows] @ low.back + low.share)
    return linear


def _whole_weights(seen: sparse.csr_matrix) -> tuple[float, np.ndarray]:
    """Return 1 / D_u of each user in units of a power of two, as whole numbers, and that unit.

    No sum over `_USERS` users exceeds 2**24, up to which float32 holds whole numbers exactly.
    """
    weights = 1.0 / np.diff(seen.indptr)
    most = max(
        (seen[a : a + _USERS].T @ weights[a : a + _USERS]).max()
        for a in range(0, seen.shape[0], _USERS)
    )
    unit = 2.0 ** np.floor(np.log2(2**23 / most))
    return unit, np.maximum(np.round(weights * unit), 1).astype(np.float32)


def _gram(seen: sparse.csr_matrix, weights: np.ndarray) -> np.ndarray:
    """Return R' W R as int32 [items, items], the upper half computed and mirrored."""
    items = seen.shape[1]
    total = np.zeros((items, items), np.int32)
    for user in range(0, seen.shape[0], _USERS):
        block = seen[user : user + _USERS].toarray()
        weighted = block * weights[user : user + _USERS, None]
        for start in range(0, items, _ROWS):
            upper = total[start : start + _ROWS, start:]
            part = block[:, start : start + _ROWS].T @ weighted[:, start:]
            np.add(upper, part, out=upper, casting="unsafe")
    for start in range(0, items, _ROWS):
        end = start + _ROWS
        total[end:, start:end] = total[start:end, end:].T
    return total


def _sparse(normal: sparse.csr_matrix, low: _LowPass) -> dict[str, np.ndarray]:
    transposed = normal.T.tocsr()
    rows = range(0, normal.shape[1], _ROWS)
    linear = sparse.vstack(
        [_strongest((transposed[a : a + _ROWS] @ normal).tocsr(), _NEIGHBOURS) for a in rows]
    ).tocsr()
    matrix = {"data": linear.data, "indices": linear.indices, "indptr": linear.indptr}
    return matrix | low._asdict()


def _low_pass(normal: sparse.csr_matrix, degree: np.ndarray) -> _LowPass:
    """Return the ideal low-pass filter of R~, `normal` [users, items] without empty rows."""
    users, items = normal.shape
    joined = sparse.block_array([[None, normal], [normal.T, None]])
    count, label = sparse.csgraph.connected_components(joined, directed=False)
    component = label[users:]
    volume = np.bincount(component, degree, count)[component]
    share = np.divide(degree, volume, out=np.zeros(items), where=volume > 0)
    popular = sparse.csr_matrix((np.sqrt(share), component, np.arange(items + 1)), (items, count))
    # A component of one user or one item has no other vector.
    more = (np.bincount(label[:users], minlength=count) > 1) & (np.bincount(component) > 1)
    people, things = np.flatnonzero(more[label[:users]]), np.flatnonzero(more[component])
    basis = np.zeros((items, min(LOW_PASS_RANK, max(1, items // 4)) - 1))
    if len(things):
        inner = normal[people][:, things].tocsr()
        basis[things] = _beyond(inner, popular[things], basis.shape[1])
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros(items), where=degree > 0)
    return _LowPass(scale[:, None] * basis, basis.T * np.sqrt(degree), component, share)


def _beyond(normal: sparse.csr_matrix, popular: sparse.csr_matrix, rank: int) -> np.ndarray:
    """Return leading right singular vectors [items, rank] beside those of `popular`, whose are 1.

    Found on the side of which there are fewer, users or items.
    """
    by_user = normal.shape[0] < normal.shape[1]
    side = normal if by_user else normal.T.tocsr()
    own = (normal @ popular if by_user else popular).tocsr()
    other, back = side.T.tocsr(), own.T.tocsr()
    basis = _leading(
        lambda block: side @ (other @ block) - own @ (back @ block), side.shape[0], rank
    )
    if not by_user:
        return basis
    basis = other @ basis
    norms = np.linalg.norm(basis, axis=0)
    return np.divide(basis, norms, out=np.zeros_like(basis), where=norms > 0)


def _leading(apply: Operator, size: int, rank: int) -> np.ndarray:
    """Leading eigenvectors [size, rank] of an operator without negative eigenvalues.

    Block iteration with Chebyshev polynomials (Zhou et al., 2006) from a fixed start. It ends when
    the bound of Davis and Kahan (1970) proves the span of the vectors right to `_PROVEN`, at the
    latest after `_MOST_ROUNDS`. Zeros stand in place of vectors that are not determined: those
    whose eigenvalue is 0, or equal to that of a vector beyond the rank.
    """
    width = min(size, rank + max(8, rank // 2))
    start = np.random.default_rng(0).standard_normal((size, width))
    block = np.linalg.qr(apply(start))[0]
    for _ in range(_MOST_ROUNDS):
        values, block, image = _rotated(block, apply(block))
        apart, error = _cuts(values, block, image, rank)
        kept = int(apart.max(initial=0))
        if not kept or error[kept] <= _PROVEN:
            break
        block = np.linalg.qr(_amplified(apply, block, image, values))[0]
    kept = int(apart[error[apart] <= _ENOUGH].max(initial=0))
    return np.pad(block[:, :kept], ((0, 0), (0, rank - kept)))


def _rotated(block: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotate an orthonormal block, and what the operator makes of it, to eigenvectors in its span.

    Returns:
        Their values in descending order, the block and its image.
    """
    small = block.T @ image
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    rotation = rotation[:, ::-1]
    return values[::-1], block @ rotation, image @ rotation


def _cuts(
    values: np.ndarray, block: np.ndarray, image: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many vectors (1 to rank) the values fall, and errors [rank + 1] of the span.

    The error of the first n is at most their residual by the distance to the next value.
    """
    residual = np.sqrt(np.cumsum(((image - block * values) ** 2).sum(axis=0)))[:rank]
    distance = -np.diff(values, append=0.0)[:rank]
    error = np.divide(residual, distance, out=np.full(len(residual), np.inf), where=distance > 0)
    return 1 + np.flatnonzero(distance > _TIE), np.append(0.0, error)


def _amplified(
    apply: Operator, block: np.ndarray, image: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Apply the Chebyshev polynomial that is small from 0 to the block's smallest value."""
    half = max(values[-1], _TIE) / 2
    steepness = np.arccosh(max(values[0] / half - 1, 1.01))
    degree = int(np.clip(np.log(2 * _GROWTH) / steepness, 1, _MOST_DEGREE))
    before, now = block, image / half - block
    for _ in range(degree - 1):
        before, now = now, 2 * (apply(now) / half - now) - before
    return now


def _strongest(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Keep the `count` largest entries of each row as float32; of equal ones those first stored."""
    matrix.sort_indices()
    data, starts = matrix.data.astype(np.float32), matrix.indptr
    lengths = np.diff(starts)
    edge = np.full(len(lengths), -np.inf, np.float32)
    for row in np.flatnonzero(lengths > count):
        values = data[starts[row] : starts[row + 1]]
        edge[row] = np.partition(values, len(values) - count)[len(values) - count]
    of_row = np.repeat(edge, lengths)
    above, equal = data > of_row, data == of_row
    room = count - _sums(above, starts)
    before = np.concatenate(([0], np.cumsum(equal)))[starts[:-1]]
    nth = np.cumsum(equal) - np.repeat(before, lengths)
    kept = above | (equal & (nth <= np.repeat(room, lengths)))
    ends = np.concatenate(([0], np.cumsum(_sums(kept, starts))))
    return sparse.csr_matrix((data[kept], matrix.indices[kept], ends), matrix.shape)


def _sums(flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return how many flags are set between each start and the next."""
    total = np.concatenate(([0], np.cumsum(flags)))
    return total[starts[1:]] - total[starts[:-1]]

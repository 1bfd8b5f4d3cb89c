"""Collaborative scores of items for histories: GF-CF (Shen et al., 2021; section 2.2).

With the normalised adjacency R~ = D_u^-1/2 R D_i^-1/2, a history vector r scores `r R~'R~ + w r
D_i^-1/2 V V' D_i^1/2`, V being the top right singular vectors of R~: a linear plus an ideal
low-pass filter. Both are brought together once into an item x item filter, so that a scene costs
only the rows of its history.

Which item ranks above which must not depend on the number of threads or processes. The linear
filter is therefore summed in whole numbers, which is exact in any order, and the low-pass one in
float64, of which float32 remains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from usermirrorer.builders.scenes.exposure import Log

#: Weight and rank of the low-pass filter beside the linear one; the paper names neither. The rank
#: is that of its published code, the weight that of GF-CF's authors.
LOW_PASS_WEIGHT, LOW_PASS_RANK = 0.3, 64
#: Above this many items the filter keeps each item's strongest neighbours only.
_DENSE_ITEMS = 16_384
_WIDE_ITEMS = 4096  # up to this many, the filter is converted to float64 once and not by parts
_NEIGHBOURS = 256
_NOTHING = 1e-6  # an eigenvalue, as a share of the largest, that two iterations cannot resolve
_USERS, _ROWS = 2048, 1024  # rows of a matrix worked on at once
_COLUMNS = 256  # of the filter, so that they stay in a core's cache while histories add them up

#: Arrays by name: `dense` [items, items], or those of a sparse matrix and of the low-pass filter;
#: none if nothing was seen yet. Plain arrays, so that processes can share them.
Filter = Mapping[str, np.ndarray]


def fit(log: Log, train_user: np.ndarray, before: int) -> Filter:
    """Return the filter of the train users' interactions before a time.

    Args:
        log: All interactions.
        train_user: [users] of bool.
        before: Seconds.
    """
    keep = train_user[log.user] & (log.time < before)
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
    if log.items <= _DENSE_ITEMS:
        return {"dense": _dense(seen, scale, np.sqrt(degree))}
    return _sparse(seen, scale, np.sqrt(degree))


def scores(fitted: Filter, history: sparse.csr_matrix) -> np.ndarray:
    """Return scores [b, items] of histories, CSR [b, items]; a history's do not depend on others.

    Items that no user had met have a score of 0.
    """
    if not fitted:
        return np.zeros(history.shape, np.float32)
    if "dense" in fitted:
        dense = fitted["dense"]
        found = np.empty(history.shape, np.float32)
        for start in range(0, dense.shape[1], _COLUMNS):
            columns = np.ascontiguousarray(dense[:, start : start + _COLUMNS])
            found[:, start : start + _COLUMNS] = history @ columns
        return found
    size = history.shape[1]
    linear = sparse.csr_matrix(
        (fitted["data"], fitted["indices"], fitted["indptr"]), (size, size), copy=False
    )
    low = (history @ fitted["into"]) @ fitted["back"]
    return np.asarray((history @ linear).toarray() + low, np.float32)


def _dense(seen: sparse.csr_matrix, scale: np.ndarray, unscale: np.ndarray) -> np.ndarray:
    unit, weights = _whole_weights(seen)
    linear = _gram(seen, weights).astype(np.float32)
    linear *= (scale / unit).astype(np.float32)[:, None]
    linear *= scale.astype(np.float32)[None, :]
    items = len(linear)

    wide = linear.astype(np.float64) if items <= _WIDE_ITEMS else linear

    def apply(block: np.ndarray) -> np.ndarray:
        rows = (wide[a : a + _ROWS] for a in range(0, items, _ROWS))
        return np.concatenate([part.astype(np.float64, copy=False) @ block for part in rows])

    basis = _leading(apply, items, LOW_PASS_RANK)
    into, back = LOW_PASS_WEIGHT * scale[:, None] * basis, basis.T * unscale[None, :]
    for start in range(0, items, _ROWS):
        linear[start : start + _ROWS] += into[start : start + _ROWS] @ back
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


def _sparse(seen: sparse.csr_matrix, scale: np.ndarray, unscale: np.ndarray) -> dict[str, Any]:
    root = sparse.diags(1.0 / np.sqrt(np.diff(seen.indptr)))
    normal = (root @ seen.astype(np.float64) @ sparse.diags(scale)).tocsr()
    transposed = normal.T.tocsr()
    rows = range(0, normal.shape[1], _ROWS)
    linear = sparse.vstack(
        [_strongest((transposed[a : a + _ROWS] @ normal).tocsr(), _NEIGHBOURS) for a in rows]
    ).tocsr()
    basis = _leading(lambda x: transposed @ (normal @ x), normal.shape[1], LOW_PASS_RANK)
    return {
        "data": linear.data,
        "indices": linear.indices,
        "indptr": linear.indptr,
        "into": LOW_PASS_WEIGHT * scale[:, None] * basis,
        "back": basis.T * unscale[None, :],
    }


def _leading(apply: Callable[[np.ndarray], np.ndarray], size: int, rank: int) -> np.ndarray:
    """Leading eigenvectors [size, rank] of a symmetric operator by block power iteration.

    Where the operator has a smaller rank, zeros stand in place of the vectors that it sends to
    nothing: which ones those are would be up to rounding.
    """
    rank = min(rank, max(1, size // 4))
    block = np.random.default_rng(0).standard_normal((size, rank + 8))
    for _ in range(2):
        block, _ = np.linalg.qr(apply(apply(block)))
    small = block.T @ apply(block)
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    rotation[:, values < _NOTHING * values[-1]] = 0.0
    return (block @ rotation[:, ::-1])[:, :rank]


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

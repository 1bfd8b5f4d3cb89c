"""What people took next: how often one item followed another within a few steps.

A baseline beside every score: people often act on page after page of a site, so that part of what
a history predicts is the site's order of pages, not taste.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from usermirrorer.builders.scenes.feedback import Log

#: Steps between two items that count, and the newest items of a history that are looked at.
STEPS = 3
_MOST = 2_000_000  # newest interactions that are counted, so that memory stays bounded


def fit(log: Log, train_user: np.ndarray, before: int) -> dict[str, np.ndarray]:
    """Count followers among train users' interactions before a time.

    Args:
        log: All interactions.
        train_user: [users] of bool.
        before: Seconds.

    Returns:
        `next_data`, `next_indices`, `next_indptr`: CSR [items, items], counts of the column's item
        within `STEPS` after the row's, over the root of how often the column's item was taken.
    """
    rows = np.flatnonzero(train_user[log.user] & (log.time < before))
    if len(rows) > _MOST:
        newest = np.partition(log.time[rows], len(rows) - _MOST)[len(rows) - _MOST]
        rows = rows[log.time[rows] >= newest]
    user, item = log.user[rows], log.item[rows]
    pairs = []
    for step in range(1, STEPS + 1):
        same = user[:-step] == user[step:]
        pairs.append((item[:-step][same], item[step:][same]))
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    ones = np.ones(len(first), np.float32)
    counts = sparse.csr_matrix((ones, (first, second)), shape=(log.items, log.items))
    counts.sum_duplicates()
    often = np.maximum(np.bincount(item, minlength=log.items), 1)
    data = counts.data / np.sqrt(often[counts.indices]).astype(np.float32)
    return {"next_data": data, "next_indices": counts.indices, "next_indptr": counts.indptr}


def scores(fitted: Mapping[str, np.ndarray], newest: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return scores, CSR [b, items], of what follows the `newest` items of histories [b, items]."""
    size = newest.shape[1]
    if "next_data" not in fitted:
        return sparse.csr_matrix(newest.shape, dtype=np.float32)
    follows = sparse.csr_matrix(
        (fitted["next_data"], fitted["next_indices"], fitted["next_indptr"]), (size, size)
    )
    return (newest @ follows).tocsr()

"""Item-item neighbours, learned from the scenes themselves: no raw files are needed.

Two items are alike as far as the same people took both (cosine over users). An option is as likely
as it is alike to the lines of the history: the oldest collaborative filter (Sarwar et al., "Item-
based collaborative filtering recommendation algorithms", 2001), and one that is hard to beat.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import sparse

from usermirrorer.builders.audit.lists import Lists

#: Scenes whose similarities are held at once.
_BATCH = 1024


def scores(train: Lists | None, test: Lists) -> np.ndarray:
    """Return how alike each option of the test scenes is to its history, [options].

    Args:
        train: Scenes to learn from: their targets and the lines of their histories. Without them
            the test scenes are learned from, and what a scene's own user took is left out.
        test: Scenes to score.
    """
    source = test if train is None else train
    taken = _taken(source.table)
    shown = _per_line(test.table)
    options = pl.Series(test.table["exposure_item_ids"].combine_chunks().flatten())
    users = taken["user"].unique(maintain_order=True)
    items = pl.concat([taken["item"], shown["item"], options]).unique(maintain_order=True)
    matrix = _matrix(_index(taken["user"], users), _index(taken["item"], items), users, items)
    weight = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
    weight = np.divide(1, weight, out=weight, where=weight > 0)
    lines = sparse.csr_array(
        (np.ones(shown.height), (shown["scene"].to_numpy(), _index(shown["item"], items))),
        shape=(len(test), len(items)),
    )
    option = _index(options, items)
    own = _index(pl.Series(test.table["user_id"]), users)
    similar = _similar(lines, (matrix @ sparse.diags_array(weight)).T.tocsr(), option, test)
    return similar - _of_the_user(lines, matrix, weight, option, test, own)


def _similar(
    lines: sparse.csr_array, by_item: sparse.csr_array, option: np.ndarray, test: Lists
) -> np.ndarray:
    """Return the sum of cosines of each option to the lines of its history, [options]."""
    similar = np.zeros(len(option))
    for start in range(0, len(test), _BATCH):
        end = min(start + _BATCH, len(test))
        of_users = lines[start:end] @ by_item
        here = np.flatnonzero((test.scene >= start) & (test.scene < end))
        ours = of_users[test.scene[here] - start]
        similar[here] = np.asarray(ours.multiply(by_item[option[here]]).sum(axis=1)).ravel()
    return similar


def _of_the_user(
    lines: sparse.csr_array,
    matrix: sparse.csr_array,
    weight: np.ndarray,
    option: np.ndarray,
    test: Lists,
    own: np.ndarray,
) -> np.ndarray:
    """Return what of these sums comes from the user who is asked, [options]: it tells nothing."""
    known = own >= 0
    if not known.any():
        return np.zeros(len(option))
    taken = matrix[np.where(known, own, 0)]
    of_lines = np.asarray(lines.multiply(taken) @ weight).ravel() * known
    took = np.asarray(taken[test.scene, option]).ravel()
    return took * weight[option] * of_lines[test.scene]


def _taken(table: pa.Table) -> pl.DataFrame:
    """Return who took what, once each: targets, and the lines of histories."""
    frame = pl.DataFrame(table.select(["user_id", "item_id", "history_item_ids"]))
    lines = frame.select(user="user_id", item="history_item_ids").explode("item").drop_nulls()
    targets = frame.select(user="user_id", item="item_id")
    return pl.concat([targets, lines]).unique(maintain_order=True)


def _per_line(table: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(table.select(["history_item_ids"])).with_row_index("scene")
    return frame.select("scene", item="history_item_ids").explode("item").drop_nulls()


def _index(values: pl.Series, known: pl.Series) -> np.ndarray:
    """Return the place of each value among the known ones, -1 of others."""
    places = pl.DataFrame({"value": known}).with_row_index("place")
    placed = pl.DataFrame({"value": values}).join(places, "value", "left", maintain_order="left")
    # A copy, since scipy sets flags of the arrays it indexes by, which memory of polars refuses.
    return placed["place"].cast(pl.Int64).fill_null(-1).to_numpy().copy()


def _matrix(
    user: np.ndarray, item: np.ndarray, users: pl.Series, items: pl.Series
) -> sparse.csr_array:
    ones = np.ones(len(user))
    return sparse.csr_array((ones, (user, item)), shape=(len(users), len(items)))

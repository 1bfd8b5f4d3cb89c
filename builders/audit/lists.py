"""Scenes as flat arrays of options, one scene behind the other, and comparisons within a list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from usermirrorer.builders.common.choice import TIE
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import OPTION_FEATURES

#: What an audit reads of a scene.
COLUMNS = (
    "scene_id",
    "source",
    "user_id",
    "item_id",
    "timestamp",
    "history_item_ids",
    "history_timestamps",
    "history_gap",
    "exposure",
    "exposure_item_ids",
    "exposure_mode",
    "answer",
    "real_exposure",
    *OPTION_FEATURES,
)


@dataclass(frozen=True)
class Lists:
    """The options of n scenes in flat arrays; `table` is what they were read from.

    Shapes: `sizes`, `starts`, `target`, `user`, `item`, `gap` [n], where `target` counts in the
    flat arrays, `user` and `item` (the target's) are numbers; `scene`, `text` and each of `numbers`
    [options].
    """

    table: pa.Table
    sizes: np.ndarray
    starts: np.ndarray
    target: np.ndarray
    user: np.ndarray
    item: np.ndarray
    gap: np.ndarray
    scene: np.ndarray
    text: pa.Array
    numbers: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def position(self) -> np.ndarray:
        """Return each option's place in its list, from 0, [options]."""
        return np.arange(len(self.scene)) - self.starts[self.scene]

    @property
    def chance(self) -> np.ndarray:
        """Return the accuracy of a blind guess [n]."""
        return 1 / self.sizes

    def hits(self, scores: np.ndarray) -> np.ndarray:
        """Return how right the best-scored option is [n]: ties count in parts.

        Args:
            scores: [options]; what has none (NaN) is guessed last.
        """
        scores = np.where(np.isnan(scores), -np.inf, scores)
        most = np.maximum.reduceat(scores, self.starts)[self.scene]
        best = (scores == most) | (scores >= most - TIE)
        return best[self.target] / np.add.reduceat(best.astype(np.int64), self.starts)

    def standardised(self, values: np.ndarray) -> np.ndarray:
        """Return values less their list's mean, in its standard deviations, [options]."""
        known = np.isfinite(values)
        count = np.maximum(np.add.reduceat(known.astype(np.int64), self.starts), 1)
        mean = np.add.reduceat(np.where(known, values, 0.0), self.starts) / count
        apart = np.where(known, values - mean[self.scene], 0.0)
        deviation = np.sqrt(np.add.reduceat(apart**2, self.starts) / count)[self.scene]
        scaled = np.divide(apart, deviation, out=np.zeros_like(apart), where=deviation > 1e-9)
        return np.where(known, scaled, np.nan)

    def ranks(self, values: np.ndarray) -> np.ndarray:
        """Return ranks within the list from 0, the smallest, to 1; ties share their mean rank."""
        order = np.lexsort((values, self.scene))
        ordered, scene = values[order], self.scene[order]
        new = np.ones(len(order), bool)
        new[1:] = (scene[1:] != scene[:-1]) | (ordered[1:] != ordered[:-1])
        run = np.cumsum(new) - 1
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(order)) - 1
        ranks = np.empty(len(order))
        ranks[order] = (first[run] + last[run]) / 2 - self.starts[scene]
        ranks /= self.sizes[self.scene] - 1
        return np.where(np.isnan(values), np.nan, ranks)

    def take(self, rows: np.ndarray) -> Lists:
        """Return the scenes with these numbers, in order."""
        return make_lists(self.table.take(pa.array(rows)))


def make_lists(table: pa.Table) -> Lists:
    """Flatten scenes; those whose lists do not fit each other are left out (`validate` tells).

    Raises:
        UserError: if a column that the audit reads is missing.
    """
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise UserError(
            f"column {missing[0]!r} is missing: the audit reads scenes of schema version 2",
            fix="Build the scenes again.",
        )
    table = _well_formed(table.select(list(COLUMNS))).combine_chunks()
    sizes = pc.list_value_length(table["exposure"]).to_numpy().astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    return Lists(
        table=table,
        sizes=sizes,
        starts=starts,
        target=starts + table["answer"].to_numpy().astype(np.int64),
        user=_numbered(table["user_id"]),
        item=_numbered(table["item_id"]),
        gap=_floats(table["history_gap"]),
        scene=np.repeat(np.arange(len(sizes)), sizes),
        text=_flat(table["exposure"]),
        numbers={name: _floats(_flat(table[name])) for name in OPTION_FEATURES},
    )


def _well_formed(table: pa.Table) -> pa.Table:
    size = pc.list_value_length(table["exposure"])
    good = pc.and_(pc.greater_equal(size, 2), pc.greater_equal(table["answer"], 0))
    good = pc.and_(good, pc.less(table["answer"], size))
    for name in ("exposure_item_ids", *OPTION_FEATURES):
        good = pc.and_(good, pc.equal(pc.list_value_length(table[name]), size))
    return table if pc.all(good, min_count=0).as_py() else table.filter(good)


def _numbered(column: pa.ChunkedArray) -> np.ndarray:
    return np.unique(column.to_numpy(), return_inverse=True)[1]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)

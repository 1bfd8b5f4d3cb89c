"""Made-up scenes with and without tells, drawn as arrays: thousands in well under a second.

People have a taste, items a place in the same space, a popularity and an age. All options of a
scene are drawn alike, in proportion to popularity; the person takes one by taste, the placebo's
person any of them. Plant a tell by changing a table, see `tests/builders/test_audit.py`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from usermirrorer.builders.common.schema import OPTION_FEATURES, SCENE

ITEMS, WIDTH, DAY = 600, 8, 86_400
HISTORY = 4
_SHARP = 9.0  # how much taste decides


def scenes(
    count: int,
    *,
    users: int,
    split: str = "test",
    options: tuple[int, int] = (5, 5),
    placebo: bool = False,
    source: str = "movielens",
    seed: int = 0,
) -> pa.Table:
    """Return scenes of schema `SCENE`; those of the placebo have the same ids."""
    rng = np.random.default_rng([seed, split == "train"])
    space = _unit(np.random.default_rng([seed, 7]).standard_normal((ITEMS, WIDTH)))
    popularity = 2 + np.random.default_rng([seed, 8]).geometric(0.02, ITEMS)
    user = np.sort(rng.integers(0, users, count))
    taste = _unit(rng.standard_normal((users, WIDTH)))[user]
    sizes = rng.integers(options[0], options[1] + 1, count)
    time = 1_000_000_000 + rng.integers(0, 1000 * DAY, count)
    width = int(sizes.max())
    ranked = np.argsort(rng.exponential(size=(count, ITEMS)) / popularity, axis=1)
    before, rest = ranked[:, :12], ranked[:, 12:]
    items = rest[:, width : 2 * width] if placebo else rest[:, :width]
    near = np.einsum("nkd,nd->nk", space[before], taste)
    history = np.take_along_axis(before, np.argsort(-near, axis=1)[:, :HISTORY], axis=1)
    noise = np.random.default_rng([seed, 9, placebo]).gumbel(size=(count, width))
    liking = np.einsum("nkd,nd->nk", space[items], taste) * (0 if placebo else _SHARP) + noise
    there = np.arange(width) < sizes[:, None]
    answer = np.argmax(np.where(there, liking, -np.inf), axis=1)
    numbers = _numbers(space, popularity, items, history, there)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    flat = items[there]
    texts = [f"Film {i} - {'Drama' if i % 3 else 'Comedy'}, Ratings: 4.1 ({i})" for i in flat]
    origin = np.where(np.arange(width) == answer[:, None], "target", "contemporary")[there]
    ids = np.array([f"{i}" for i in range(ITEMS)])
    lines = np.arange(count + 1) * HISTORY
    moments = (time[:, None] - 60 * np.arange(HISTORY, 0, -1)).ravel() * 1000
    columns = {
        "scene_id": [f"{split}{source}{n:06d}" for n in range(count)],
        "domain": [source] * count,
        "source": [source] * count,
        "user_id": [f"{split}{u}" for u in user],
        "item_id": ids[items[np.arange(count), answer]],
        "timestamp": pa.array(time * 1000).cast(SCENE.field("timestamp").type),
        "profile": ["A person"] * count,
        "history": _lists(lines, [f"Film {i}" for i in history.ravel()]),
        "history_item_ids": _lists(lines, ids[history.ravel()]),
        "history_timestamps": _lists(
            lines, pa.array(moments).cast(SCENE.field("history_timestamps").type.value_type)
        ),
        "exposure": _lists(offsets, texts),
        "exposure_item_ids": _lists(offsets, ids[flat]),
        "exposure_origin": _lists(offsets, origin),
        "answer": answer.astype(np.int8),
        "history_gap": np.full(count, 60),
        "exposure_mode": ["exchangeable"] * count,
        "real_exposure": [False] * count,
    }
    columns |= {name: _lists(offsets, numbers[name][there]) for name in OPTION_FEATURES}
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in SCENE}, schema=SCENE)


def splits(train: int = 1000, test: int = 600, *, placebo: bool = False, **how) -> dict:
    """Return train and test scenes of different users."""
    sizes = {"train": (train, 2, 12), "test": (test, 4, 4)}
    return {
        split: scenes(
            count,
            users=max(5, count // 10),
            split=split,
            options=(fewest + 1, most + 1),
            placebo=placebo,
            **how,
        )
        for split, (count, fewest, most) in sizes.items()
    }


def changed(table: pa.Table, **columns) -> pa.Table:
    """Return the table with other columns."""
    for name, values in columns.items():
        number = table.schema.get_field_index(name)
        table = table.set_column(
            number, SCENE.field(name), pa.array(values, SCENE.field(name).type)
        )
    return table


def _numbers(space, popularity, items, history, there) -> dict[str, np.ndarray]:
    vectors = space[items] * there[:, :, None]
    cosines = np.einsum("nkd,nmd->nkm", vectors, vectors)
    centroid = _unit(space[history].sum(axis=1))
    others = np.maximum(there.sum(axis=1) - 1, 1)[:, None]
    before = np.where(np.tril(np.ones(cosines.shape[1:], bool), -1), cosines, -np.inf).max(axis=2)
    before[:, 0] = 0
    near = np.einsum("nkd,nd->nk", vectors, centroid)
    return {
        "exposure_popularity": popularity[items],
        "exposure_collaborative": np.maximum(near, 0) * popularity[items],
        "exposure_sequential": np.einsum("nkd,nd->nk", vectors, space[history[:, -1]]),
        "exposure_hub": (cosines.sum(axis=2) - 1) / others,
        "exposure_before": before,
        "exposure_age": 10.0 + items,
        "history_similarity": near,
    }


def _lists(offsets: np.ndarray, values) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

"""What can be said of each option without reading it: cues and baselines travel with the scenes.

So a downloaded release can be audited, and every score shown beside what popularity, nearness,
collaborative filtering and sequence alone would reach, without the raw files.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from usermirrorer.builders.scenes import gfcf, sequence
from usermirrorer.builders.scenes.contemporaries import DAY
from usermirrorer.builders.scenes.feedback import NEVER, histories
from usermirrorer.builders.scenes.targets import Targets
from usermirrorer.builders.scenes.world import World

_DIGITS = 6


def of_options(
    world: World,
    fitted: gfcf.Filter,
    batch: Targets,
    past: sparse.csr_matrix,
    score: np.ndarray,
    items: np.ndarray,
    options: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the features of all options, one scene's after the other's.

    Args:
        world: See `make_world`.
        fitted: Holds the followers as of the scenes.
        batch: The scenes.
        past: What each user had taken, CSR [b, items].
        score: Collaborative scores of all items for it, [b, items].
        items: Item of each option [n].
        options: How many options each scene has [b].

    Returns:
        Arrays [n] by column of schema `SCENE`.
    """
    times, row = np.repeat(batch.time, options), np.repeat(np.arange(len(batch)), options)
    taste = _unit(past @ world.embeddings)
    newest = histories(
        world.log,
        batch.user,
        batch.end,
        np.maximum(world.log.offsets[batch.user], batch.end - sequence.STEPS),
    )
    near = np.einsum("nd,nd->n", world.embeddings[items], taste[row])
    hub, before = _among(world.embeddings, items, options)
    known = world.known_from[items]
    age = np.where(known < NEVER, (times - known) / DAY, np.nan)
    columns = {
        "history_similarity": near,
        "exposure_collaborative": score[row, items],
        "exposure_sequential": _at(sequence.scores(fitted, newest), row, items),
        "exposure_hub": hub,
        "exposure_before": before,
        "exposure_age": age,
    }
    rounded = {name: _rounded(values) for name, values in columns.items()}
    return {"exposure_popularity": world.popularity.before(items, times), **rounded}


def _among(
    embeddings: np.ndarray, items: np.ndarray, options: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each option's mean cosine to the others of its list, and its largest to one before.

    Both [n]; the first option of a list has none before it, which counts as 0.
    """
    there = np.arange(int(options.max(initial=0)))[None, :] < options[:, None]
    padded = np.zeros(there.shape, np.int64)
    padded[there] = items
    vectors = embeddings[padded] * there[:, :, None]
    cosines = np.einsum("bnd,bmd->bnm", vectors, vectors)
    own = np.einsum("bnn->bn", cosines)
    mean = (cosines.sum(axis=2) - own) / np.maximum(options - 1, 1)[:, None]
    earlier = np.tril(np.ones(cosines.shape[1:], bool), -1)[None]
    nearest = np.where(earlier, cosines, -np.inf).max(axis=2, initial=-np.inf)
    nearest[:, :1] = 0.0
    return mean[there], nearest[there]


def _at(matrix: sparse.csr_matrix, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return entries [n]; indexing a sparse matrix with nothing gives a matrix, not an array."""
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.empty(0)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Six digits: how BLAS sums, which depends on the batch and the threads, decides nothing."""
    return np.asarray(values, np.float64).round(_DIGITS).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)

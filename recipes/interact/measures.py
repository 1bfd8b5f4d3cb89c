"""What is measured: accuracy on the test part, its intervals, order of recommenders, popularity."""

from __future__ import annotations

import numpy as np
import polars as pl

METRICS = ("R@5", "R@10", "N@5", "N@10", "M@5", "M@10")
_CUTS = (5, 10)
_DRAWS = 2000


def per_user(top: pl.DataFrame, test: pl.DataFrame, users: int) -> np.ndarray:
    """Return Recall, NDCG and MRR at 5 and 10 of each user, [users, METRICS].

    As RecBole has them: Recall is the share of a person's test items that the list holds, NDCG has
    gain 1 per such item against the best list of that length, MRR is 1 over the first one's rank.

    Args:
        top: Columns `user`, `rank` (from 0), `item`.
        test: Columns `user`, `item`.
        users: Number of users.
    """
    wanted = {int(u): set(i) for u, i in test.group_by("user").agg("item").iter_rows()}
    hits = np.zeros((users, max(_CUTS)), bool)
    for user, rank, item in top.select("user", "rank", "item").iter_rows():
        if rank < hits.shape[1]:
            hits[user, rank] = item in wanted.get(user, ())
    sizes = np.array([len(wanted.get(user, ())) for user in range(users)])
    gains = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    columns = []
    for cut in _CUTS:
        own = hits[:, :cut]
        best = np.concatenate(([0.0], np.cumsum(gains[:cut])))[np.minimum(sizes, cut)]
        some = own.any(axis=1)
        columns.append(
            (
                own.sum(axis=1) / np.maximum(sizes, 1),
                own @ gains[:cut] / np.maximum(best, 1e-12),
                np.where(some, 1 / (own.argmax(axis=1) + 1), 0.0),
            )
        )
    return np.stack([columns[c][m] for m in range(3) for c in range(2)], axis=1)


def difference(values: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean paired difference and its 95 % bootstrap interval over users (both [n])."""
    own = values - others
    draws = np.random.default_rng(seed).integers(len(own), size=(_DRAWS, len(own)))
    low, high = np.quantile(own[draws].mean(axis=1), [0.025, 0.975])
    return float(own.mean()), float(low), float(high)


def order_agreement(
    simulated: np.ndarray, real: np.ndarray, seed: int = 0
) -> dict[str, float] | None:
    """Return Kendall's tau between two orders of recommenders and its bootstrap interval.

    Args:
        simulated: [users, recommenders] what a simulator thinks of each.
        real: The same by what these people took later.
        seed: Of the draws of users.

    Returns:
        `tau`, `low`, `high`; None with fewer than three recommenders.
    """
    from scipy.stats import kendalltau

    if simulated.shape[1] < 3:
        return None
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(real), size=len(real)) for _ in range(_DRAWS // 4)]
    taus = [kendalltau(simulated[d].mean(0), real[d].mean(0)).statistic for d in draws]
    tau = kendalltau(simulated.mean(0), real.mean(0)).statistic
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return {"tau": float(np.nan_to_num(tau)), "low": float(low), "high": float(high)}


def log_facts(items: np.ndarray, popularity: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Return what a log does to popularity.

    Args:
        items: One item per person.
        popularity: [items] how many people took each before.
        real: What the same people really took next.

    Returns:
        `lift`: mean popularity over that of the real log; `coverage`: share of the catalogue that
        somebody got; `diversity`: how often two people's items differ.
    """
    if not len(items):
        return {"lift": float("nan"), "coverage": 0.0, "diversity": float("nan")}
    counts = np.bincount(items, minlength=len(popularity))
    pairs = len(items) * (len(items) - 1)
    same = float((counts * (counts - 1)).sum()) / pairs if pairs else 0.0
    return {
        "lift": float(popularity[items].mean() / max(popularity[real].mean(), 1e-12)),
        "coverage": float((counts > 0).mean()),
        "diversity": 1 - same,
    }


def improvement(value: float, before: float) -> float | None:
    """Return the paper's Improve: how much larger, as a share; None where there was nothing."""
    return value / before - 1 if before else None

"""Collaborative scores: what GF-CF's formula says, for few and for many items."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import build, feedback, gfcf, plan, world


def log_of(seen: np.ndarray) -> feedback.Log:
    """Return interactions, all at time 0, of a matrix [users, items] of 0 and 1."""
    user, item = np.nonzero(seen)
    users, items = seen.shape
    return feedback.make_log(user, item, np.zeros(len(user), int), users=users, items=items)


def fit(seen: np.ndarray) -> gfcf.Filter:
    return gfcf.fit(log_of(seen), np.ones(len(seen), bool), 1)


def drawn(users: int, items: int, share: float = 0.1, tastes: int = 6) -> np.ndarray:
    """Return a matrix of users who prefer items of their own group; every user has one item."""
    rng = np.random.default_rng(3)
    group, own = rng.integers(0, tastes, (2, max(users, items)))
    liked = share * np.where(group[:users, None] == own[None, :items], 3, 0.6)
    seen = (rng.random((users, items)) < liked).astype(float)
    seen[np.arange(users), rng.integers(0, items, users)] = 1
    return seen


def formula(seen: np.ndarray, rank: int) -> np.ndarray:
    """Return scores of all users by numpy's dense singular value decomposition."""
    d_user, d_item = seen.sum(1, keepdims=True), seen.sum(0, keepdims=True)
    normal = seen / np.sqrt(d_user) / np.sqrt(np.maximum(d_item, 1))
    basis = np.linalg.svd(normal, full_matrices=False)[2][:rank].T
    low = (basis / np.sqrt(np.maximum(d_item, 1)).T) @ (basis.T * np.sqrt(d_item))
    return seen @ (normal.T @ normal + gfcf.LOW_PASS_WEIGHT * low)


@pytest.mark.parametrize("shape", [(300, 200), (150, 400)], ids=["more users", "more items"])
@pytest.mark.parametrize("most", [16_384, 0], ids=["dense", "sparse"])
def test_scores_equal_the_formula_to_four_digits(shape, most, monkeypatch):
    """The low-pass filter has converged: its error does not show beside a dense decomposition."""
    monkeypatch.setattr(gfcf, "_DENSE_ITEMS", most)
    monkeypatch.setattr(gfcf, "_NEIGHBOURS", shape[1])
    seen = drawn(*shape)
    scores = gfcf.scores(fit(seen), sparse.csr_matrix(seen, dtype=np.float32))
    expected = formula(seen, min(gfcf.LOW_PASS_RANK, shape[1] // 4))
    assert np.abs(scores - expected).max() < 1e-4 * expected.max()


def test_few_and_many_items_agree_where_all_neighbours_are_kept(monkeypatch):
    seen = drawn(120, 90)
    dense = gfcf.scores(fit(seen), sparse.csr_matrix(seen, dtype=np.float32))
    monkeypatch.setattr(gfcf, "_DENSE_ITEMS", 89)
    monkeypatch.setattr(gfcf, "_NEIGHBOURS", 90)
    fitted = fit(seen)
    assert "dense" not in fitted
    for array in fitted.values():  # as processes get them: mapped from files
        array.flags.writeable = False
    many = gfcf.scores(fitted, sparse.csr_matrix(seen, dtype=np.float32))
    np.testing.assert_allclose(many, dense, atol=1e-4 * dense.max())


def test_of_many_items_the_strongest_neighbours_are_kept():
    """Beyond 16,384 items: of 400 neighbours of item 0, those met most often together with it."""
    items, neighbours = 16_400, 400
    user = np.repeat(np.arange(neighbours), 2 + np.arange(neighbours) % 7)
    user = np.arange(len(user)), user  # who: each a pair of item 0 and the neighbour
    pairs = [(u, i) for u, n in zip(*user, strict=True) for i in (0, 1 + n)]
    who, what = np.array(pairs).T
    log = feedback.make_log(
        who, what, np.zeros(len(who), int), users=int(who.max()) + 1, items=items
    )
    fitted = gfcf.fit(log, np.ones(log.users, bool), 1)
    row = slice(*fitted["indptr"][:2])
    kept = dict(zip(fitted["indices"][row].tolist(), fitted["data"][row].tolist(), strict=True))
    together = np.bincount(what[1::2], minlength=items)  # neighbour i was met n times, all with 0
    weight = together / 2 / np.sqrt(together.sum() * np.maximum(together, 1))
    assert len(kept) == 256 and kept.pop(0) == pytest.approx(0.5)
    edge = np.sort(weight[1:])[-255]
    assert set(np.flatnonzero(weight > edge)) <= set(kept)
    for item, value in kept.items():
        assert value >= edge * (1 - 1e-6) and value == pytest.approx(weight[item], rel=1e-5)


def test_the_strongest_of_a_row_are_kept_and_of_equal_ones_the_first():
    dense = np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 5.0, 0.0]])
    kept = gfcf._strongest(sparse.csr_matrix(dense), 2).toarray()
    assert kept.tolist() == [[3, 0, 2, 0], [1, 1, 0, 0], [0, 0, 5, 0]]


@pytest.mark.parametrize("most", [16_384, 0], ids=["dense", "sparse"])
def test_what_shares_no_user_with_a_history_scores_nothing(most, monkeypatch):
    """Three groups that never met: each is scored as if it were alone, however they are mixed."""
    monkeypatch.setattr(gfcf, "_DENSE_ITEMS", most)
    parts = [drawn(30, 20, 0.3), drawn(12, 24, 0.3), drawn(1, 8, 0.5)]
    whole = sparse.block_diag(parts).toarray()
    scores = gfcf.scores(fit(whole), sparse.csr_matrix(whole, dtype=np.float32))
    apart = sparse.block_diag([np.ones(part.shape) for part in parts]).toarray() > 0
    assert not scores[~apart].any() and (scores[whole > 0] > 0).all()


def test_vectors_of_equal_value_are_taken_together_or_not_at_all():
    """Twelve groups alike have every value twelve times: a part of them would be up to rounding."""
    whole = sparse.block_diag([drawn(10, 8, 0.5)] * 12).toarray()
    history = sparse.csr_matrix(whole, dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(whole))
    plain = gfcf.scores(fit(whole), history)
    np.testing.assert_allclose(gfcf.scores(fit(whole[order]), history), plain, atol=1e-5)
    blocks = plain.reshape(12, 10, 12, 8)
    for n in range(1, 12):
        np.testing.assert_allclose(blocks[n, :, n], blocks[0, :, 0], atol=1e-5)


RANKS = """
import sys
import numpy as np
from scipy import sparse
from tests.builders.scenes.test_gfcf import drawn, fit
from usermirrorer.builders.scenes import gfcf
seen = drawn(400, 300)
scores = gfcf.scores(fit(seen), sparse.csr_matrix(seen, dtype=np.float32))
sys.stdout.buffer.write(np.argsort(-scores, axis=1, kind="stable").astype(np.int32).tobytes())
"""


def test_rankings_do_not_depend_on_the_number_of_threads():
    ranks = [
        subprocess.run(
            [sys.executable, "-c", RANKS],
            env={"OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert len(ranks[0]) == 400 * 300 * 4 and ranks[0] == ranks[1]


def test_nothing_at_or_after_the_time_and_no_test_user_is_seen():
    seen = drawn(60, 40)
    log = log_of(seen)
    train = np.arange(60) % 2 == 0
    history = sparse.csr_matrix(seen, dtype=np.float32)
    alone = gfcf.scores(gfcf.fit(log_of(seen[train]), np.ones(30, bool), 1), history)
    assert np.array_equal(gfcf.scores(gfcf.fit(log, train, 1), history), alone) and alone.any()
    assert gfcf.fit(log, train, 0) == {} and not gfcf.scores({}, history).any()


def test_processes_share_the_filter_of_many_items(tables, vectors, monkeypatch):
    """Fitted once and mapped from files, it gives two processes the scores that one has."""
    monkeypatch.setattr(gfcf, "_DENSE_ITEMS", 0)
    monkeypatch.setattr(gfcf, "_NEIGHBOURS", 20)
    monkeypatch.setattr(plan, "PART_SCENES", 50)
    source = get_source("movielens")
    config = world.SceneConfig(train=150, test=30, seed=5, history=(1, 4))
    alone = build.make_scenes(source, tables, vectors, config)
    assert build.make_scenes(source, tables, vectors, config, workers=2) == alone
    scores = np.concatenate(alone[0]["train"]["exposure_collaborative"].to_numpy())
    assert len(np.unique(scores)) > 100


def test_of_a_user_the_newest_events_alone_count_in_the_filter(monkeypatch):
    """What one user costs is bounded, however many events they have: 50,000 took minutes."""
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(20), [400] + [15] * 19)
    item = np.concatenate([rng.permutation(500)[: np.sum(user == u)] for u in range(20)])
    time = rng.permutation(len(user))
    newest = np.ones(len(user), bool)
    newest[np.flatnonzero(user == 0)[np.argsort(time[user == 0])[:-30]]] = False
    whole, part = (
        feedback.make_log(user[kept], item[kept], time[kept], users=20, items=500)
        for kept in (np.ones(len(user), bool), newest)
    )
    everyone = np.ones(20, bool)
    monkeypatch.setattr(feedback, "MOST_EVENTS", 30)
    fitted, expected = (gfcf.fit(log, everyone, len(user))["dense"] for log in (whole, part))
    np.testing.assert_array_equal(fitted, expected)
    monkeypatch.setattr(feedback, "MOST_EVENTS", 10_000)
    assert not np.array_equal(gfcf.fit(whole, everyone, len(user))["dense"], expected)
    # Before an earlier time, the newest are those before it.
    monkeypatch.setattr(feedback, "MOST_EVENTS", 30)
    early = gfcf.fit(whole, everyone, len(user) // 4)["dense"]
    assert early.any() and not np.array_equal(early, fitted)


def test_what_a_user_took_long_ago_is_no_option_all_the_same(tables, vectors, monkeypatch):
    monkeypatch.setattr(feedback, "MOST_EVENTS", 2)
    config = world.SceneConfig(train=300, test=60, seed=3, history=(1, 4))
    made = build.make_scenes(get_source("movielens"), tables, vectors, config)[0]
    taken = {}
    for user, item, time in tables.interactions.select("user_id", "item_id", "timestamp").rows():
        taken.setdefault(user, []).append((item, time))
    for row in made["train"].to_pylist():
        before = {item for item, time in taken[row["user_id"]] if time < row["timestamp"]}
        assert not before & {*row["exposure_item_ids"]} - {row["item_id"]}

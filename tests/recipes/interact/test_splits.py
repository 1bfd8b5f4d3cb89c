"""Who trained a simulator is nowhere in the log, and each person's parts are in order of time."""

from __future__ import annotations

import numpy as np
import polars as pl

from usermirrorer.builders.raw.source import Tables
from usermirrorer.recipes.interact import arms, splits


def test_trained_users_are_left_out(tables: Tables) -> None:
    split = splits.split(tables, {"u00", "u39"}, users=0, seed=0)
    assert len(split.users) == 38
    assert not {"u00", "u39"} & set(split.users)
    assert split.removed == 2


def test_each_person_is_cut_8_to_1_to_1_with_the_oldest_first(tables: Tables) -> None:
    log = splits.split(tables, [], users=0, seed=0).log
    order = {"train": 0, "valid": 1, "test": 2}
    for _, own in log.group_by("user"):
        parts = [order[part] for part in own.sort("seconds")["part"].to_list()]
        assert parts == [0] * 10 + [1, 2]


def test_the_same_seed_draws_the_same_people(tables: Tables) -> None:
    first, again, other = (
        splits.split(tables, [], users=25, seed=seed).users for seed in (1, 1, 2)
    )
    assert first == again != other


def test_an_event_points_to_its_row_of_the_interactions(tables: Tables) -> None:
    split = splits.split(tables, ["u05"], users=0, seed=0)
    rows = tables.interactions[split.log["event"].to_numpy()]
    users = [split.users[number] for number in split.log["user"].to_list()]
    items = tables.items["item_id"].gather(split.items[split.log["item"].to_numpy()])
    assert rows["user_id"].to_list() == users
    assert rows["item_id"].to_list() == items.to_list()


def test_controls_pick_by_their_rule(tables: Tables) -> None:
    split = splits.split(tables, [], users=0, seed=0)
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(30)[:10] for _ in split.users])
    later = split.log.filter(pl.col("part") != "train")
    wanted = {(user, item) for user, item in later.select("user", "item").iter_rows()}
    assert (arms.ranks_of("none", ranked, split, [0]) == arms.NOTHING).all()
    assert (arms.ranks_of("own first", ranked, split, [0]) == 0).all()
    assert len(set(arms.ranks_of("random", ranked, split, [0]).tolist())) > 3
    taken = arms.popularity(split)[ranked]
    popular = arms.ranks_of("most popular", ranked, split, [0])
    assert (taken[np.arange(len(ranked)), popular] == taken.max(axis=1)).all()
    for user, rank in enumerate(arms.ranks_of("ceiling", ranked, split, [0]).tolist()):
        own = {item for who, item in wanted if who == user}
        holds = bool(own & set(ranked[user].tolist()))
        assert holds == (rank != arms.NOTHING)
        assert not holds or ranked[user, rank] in own


def test_what_is_added_stands_between_train_and_valid(tables: Tables) -> None:
    split = splits.split(tables, [], users=0, seed=0)
    ranks = np.full(len(split.users), 2)
    ranks[3] = arms.NOTHING
    ranked = np.tile(np.arange(10), (len(ranks), 1))
    added = arms.additions(ranks, ranked, split)
    assert 3 not in added["user"].to_list()
    assert set(added["item"].to_list()) == {2}
    assert set(added["place"].to_list()) == {9.5}

"""Lists of recommenders as scenes, in the source's own templates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import OPTION_FEATURES
from usermirrorer.builders.common.text import numbered_by_looks
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.builders.scenes.render import Drafts, Texts
from usermirrorer.recipes.interact.splits import Split

#: Length of an exposure (appendix C.3).
OPTIONS = 10
#: So many are asked for, as two films of one title cannot stand in one list.
ASKED = 2 * OPTIONS
_HISTORY = 20


@dataclass(frozen=True)
class Shown:
    """What one recommender shows to everyone.

    Args:
        ranked: [users, OPTIONS] item numbers, best first.
        order: [users, OPTIONS] rank of the item under each label: lists are shown shuffled, so that
            who likes the first label does not thereby like what the recommender put first.
    """

    ranked: np.ndarray
    order: np.ndarray


def shown(top: pl.DataFrame, split: Split, tables: Tables, seed: Sequence[int]) -> Shown:
    """Return the lists of a recommender, titles that look alike left out.

    Args:
        top: Columns `user`, `rank`, `item`: at least `ASKED` per user.
        split: Numbers users and items.
        tables: Has the titles.
        seed: Of the order in which options are shown.

    Raises:
        UserError: if a list would be shorter than `OPTIONS`.
    """
    looks = numbered_by_looks(tables.items["title"].fill_null("").to_list())[split.items]
    listed: list[np.ndarray] = [np.zeros(0, np.int64)] * len(split.users)
    for (user,), rows in top.sort("user", "rank").group_by("user", maintain_order=True):
        items = rows["item"].to_numpy()
        _, first = np.unique(looks[items], return_index=True)
        listed[int(user)] = items[np.sort(first)][:OPTIONS]  # type: ignore[call-overload]
    if (fewest := min(map(len, listed))) < OPTIONS:
        raise UserError(
            f"a list shows {OPTIONS} items, but for somebody {fewest} are left that this person "
            "has not taken and whose titles can be told apart",
            fix="Take a source with more items.",
        )
    ranked = np.stack(listed)
    rng = np.random.default_rng([*seed, 11])
    order = rng.permuted(np.tile(np.arange(OPTIONS), (len(ranked), 1)), axis=1)
    return Shown(ranked, order)


def scenes(lists: Shown, name: str, split: Split, source: Source, tables: Tables) -> pa.Table:
    """Return one scene per user: their train part as history, the list as exposure.

    The scene's time is right behind the user's last train event. Columns of `SCENE` that speak of a
    target mean nothing here: nobody knows what these people would have taken.
    """
    people = len(split.users)
    own = split.log.filter(pl.col("part") == "train").sort("user", "place")
    ends = np.searchsorted(own["user"].to_numpy(), np.arange(people), side="right")
    starts = np.searchsorted(own["user"].to_numpy(), np.arange(people))
    starts = np.maximum(starts, ends - _HISTORY)
    rows = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    flat = split.items[np.take_along_axis(lists.ranked, lists.order, axis=1)].ravel()
    events = own["event"].to_numpy()[rows]
    drafts = Drafts(
        scene_id=[_scene_id(source.name, user, name) for user in split.users],
        user=np.arange(people),
        item=flat[::OPTIONS],
        time=own["seconds"].to_numpy()[ends - 1] + 1,
        shown=ends - starts,
        events=events,
        event_items=split.items[own["item"].to_numpy()[rows]],
        options=np.full(people, OPTIONS),
        items=flat,
        origins=pl.Series(["collaborative"] * len(flat)),
        features={feature: np.zeros(len(flat)) for feature in OPTION_FEATURES},
        answer=np.zeros(people, np.int64),
        mode="retrieved",
    )
    visible = replace(
        tables, interactions=tables.interactions.filter(pl.col("user_id").is_in(split.users))
    )
    return Texts(source, tables, visible, pl.Series(split.users)).complete(drafts)


def by_rank(lists: Shown, labels: np.ndarray, likely: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what was said of labels as said of ranks: lists are shown in another order.

    Args:
        lists: Which were asked about.
        labels: [users] place of the chosen option.
        likely: [users, OPTIONS] probabilities in the order of the labels.

    Returns:
        Rank of the chosen item [users], and probabilities by rank [users, OPTIONS].
    """
    ranked = np.zeros_like(likely)
    np.put_along_axis(ranked, lists.order, likely, axis=1)
    return lists.order[np.arange(len(lists.order)), labels], ranked


def _scene_id(source: str, user: str, name: str) -> str:
    return hashlib.blake2b(f"{source}|{user}|{name}".encode(), digest_size=8).hexdigest()

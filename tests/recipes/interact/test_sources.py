"""Lists of recommenders become scenes of any source, not only of films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from usermirrorer.builders.raw import made_up
from usermirrorer.builders.raw import tables as raw_tables
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.recipes.interact import exposures, splits
from usermirrorer.recipes.simulator.questions import from_scene

SIZE = made_up.Size(users=40, items=90, interactions=1400)


@pytest.mark.parametrize("name", sorted(made_up.PUBLISHED))
def test_what_is_listed_can_be_asked_about_in_the_source_s_own_words(
    name: str, tmp_path: Path
) -> None:
    source = get_source(name)
    raw_tables.write(source, made_up.write(name, tmp_path / "raw", SIZE), tmp_path / "tables")
    tables = raw_tables.read(tmp_path / "tables")
    split = splits.split(tables, [], users=20, seed=0)
    rng = np.random.default_rng(0)
    asked = min(exposures.ASKED, len(split.items))
    items = np.concatenate([rng.permutation(len(split.items))[:asked] for _ in split.users])
    users = np.repeat(np.arange(len(split.users)), asked)
    ranks = np.tile(np.arange(asked), len(split.users))
    top = pl.DataFrame({"user": users, "rank": ranks, "item": items})
    shown = exposures.shown(top, split, tables, [0])
    rows = exposures.scenes(shown, "BPR|0", split, source, tables).to_pylist()
    for row in rows:
        question = from_scene(row)
        assert len(question.exposure) == exposures.OPTIONS
        assert question.history
    assert len({row["scene_id"] for row in rows}) == len(rows)

"""What each arm adds is what it says: of a run with a small model on real films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from usermirrorer.builders.common.assets import fetch_asset
from usermirrorer.builders.raw import tables as raw_tables
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.recipes.interact import arms, pipeline, splits
from usermirrorer.recipes.interact.hyperparameters import Schedule

pytestmark = pytest.mark.recsys
TRAINED = [str(number) for number in range(1, 301)]


def test_arms_add_what_they_say_and_nobody_who_trained_the_simulator(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    stated = tmp_path / "trained.parquet"
    own = {"user_id": TRAINED, "source": ["movielens"] * len(TRAINED)}
    pq.write_table(pa.table(own), stated)
    plan = pipeline.Plan(
        ("BPR",), {"tuned": str(tiny_chat_model)}, users=20, seeds=1,
        schedule=Schedule(0.02), stated={"tuned": str(stated)},
    )  # fmt: skip
    out = tmp_path / "run"
    results = pipeline.run(get_source("movielens"), fetch_asset("ml-100k"), out, plan)
    assert results["people"]["removed"] == len(TRAINED)
    assert results["cost"]["tuned"]["seconds"] > 0

    tables = raw_tables.read(out / "tables")
    split = splits.split(tables, TRAINED, users=20, seed=0)
    titles = tables.items["title"].to_numpy()[split.items]
    added = {
        arm: pl.read_parquet(out / "added" / f"BPR-0-{arm.replace(' ', '-')}.parquet")
        for arm in (*arms.CONTROLS, "tuned")
    }
    assert added["none"].is_empty()
    said = pq.read_table(out / "choices" / "tuned.parquet")["text"].to_pylist()
    for title, text in zip(titles[added["tuned"]["item"].to_numpy()], said, strict=True):
        assert title in text
    (folder,) = {path.parent for path in (out / "trained").glob("*/exposures.parquet")
                 if "own" not in path.name and _is_first(path, added["own first"])}  # fmt: skip
    top = pl.read_parquet(folder / "exposures.parquet")
    listed = set(top.select("user", "item").iter_rows())
    picks = {arm: set(rows.select("user", "item").iter_rows()) for arm, rows in added.items()}
    assert all(pairs <= listed for pairs in picks.values())
    assert len({frozenset(pairs) for pairs in picks.values()}) == len(picks)  # no two are the same
    later = split.log.filter(pl.col("part") != "train").select("user", "item")
    assert picks["ceiling"] <= set(later.iter_rows())
    assert np.isfinite(results["scores"]["BPR"]["tuned"]["mean"]["N@10"])


def _is_first(path: Path, first: pl.DataFrame) -> bool:
    """Whether a recommender's lists begin with these items."""
    top = pl.read_parquet(path).filter(pl.col("rank") == 0).sort("user")
    return top["item"].to_list() == first.sort("user")["item"].to_list()

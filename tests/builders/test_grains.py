"""`validate` is green on scenes of every source, however coarse or fine its stamps are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from usermirrorer.builders import validate
from usermirrorer.builders.raw.made_up import PUBLISHED, Size, write
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import build
from usermirrorer.builders.scenes.world import SceneConfig

SIZE = Size(users=60, items=90, interactions=1200)
GRAINS = ("month", "day", "second", "millisecond", "mixed")


def of_grain(frame: pl.DataFrame, grain: str) -> pl.DataFrame:
    """Coarsen the stamps of a log, or spread them within their second.

    Mixed is what Last.fm has: nearly all are the first of a month, some are of the millisecond.
    """
    time = pl.col("timestamp")
    rng = np.random.default_rng(frame.height)
    within = pl.Series(rng.integers(0, 1000, frame.height)) * pl.duration(milliseconds=1)
    fine = time.dt.truncate("1s") + within
    made = {
        "month": time.dt.truncate("1mo"),
        "day": time.dt.truncate("1d"),
        "second": time.dt.truncate("1s"),
        "millisecond": fine,
        "mixed": pl.when(pl.Series(rng.random(frame.height) < 0.1))
        .then(fine)
        .otherwise(time.dt.truncate("1mo")),
    }[grain]
    return frame.with_columns(made.cast(pl.Datetime("ms", "UTC")).alias("timestamp"))


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_scenes_of_a_log_of_any_grain_keep_every_promise(name, grain, tmp_path):
    source = get_source(name)
    tables = source.read(write(name, tmp_path, SIZE), Report())
    undated = pl.lit(None, pl.Datetime("ms", "UTC")).alias("available_from")
    tables = replace(
        tables,
        interactions=of_grain(tables.interactions, grain),
        impressions=None if tables.impressions is None else of_grain(tables.impressions, grain),
        items=tables.items.with_columns(undated),
    )
    drawn = np.random.default_rng(0).standard_normal((tables.items.height, 8), dtype=np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    config = SceneConfig(train=60, test=30, time_cut=0.0, history=(1, 5))
    made = build.make_scenes(source, tables, vectors, config)[0]
    findings = validate.validate(made)
    assert [finding for finding in findings if finding.ok is False] == []
    assert made["train"].num_rows and made["test"].num_rows

"""Scenes of a made-up MovieLens, built once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.source import Tables
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import build, world


@pytest.fixture(scope="session")
def tables(raw_movielens: Path) -> Tables:
    return get_source("movielens").read(raw_movielens, Report())


@pytest.fixture(scope="session")
def vectors(tables: Tables) -> np.ndarray:
    """Random unit vectors in place of a language model's: the geometry is not under test."""
    drawn = np.random.default_rng(0).standard_normal((tables.items.height, 8))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def built(tables: Tables, vectors: np.ndarray) -> dict:
    config = world.SceneConfig(train=600, test=120, seed=3, history=(1, 4))
    return build.make_scenes(get_source("movielens"), tables, vectors, config)[0]

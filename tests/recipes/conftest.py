"""A tiny chat model for training, and small files of scenes and preference pairs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import tiny_parts
from recipe_rows import pair, scene

from usermirrorer.builders.common.schema import PREFERENCE, SCENE
from usermirrorer.builders.common.storage import write_table


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.parquet"
    rows = [pair(i, "movielens" if i % 3 else "steam") for i in range(24)]
    write_table(path, pa.Table.from_pylist(rows, schema=PREFERENCE))
    return path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes.parquet"
    rows = [scene(i, 3 + i % 5, "movielens" if i % 3 else "steam") for i in range(24)]
    write_table(path, pa.Table.from_pylist(rows, schema=SCENE))
    return path


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_parts.tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random model as training begins with, of a short context."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return tiny_parts.chat_model(folder, initializer_range=0.02, max_position_embeddings=2048)

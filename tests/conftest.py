"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny_parts


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random chat model."""
    return tiny_parts.chat_model(tmp_path_factory.mktemp("parts") / "tiny-chat")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random encoder."""
    return tiny_parts.encoder(tmp_path_factory.mktemp("parts") / "tiny-encoder")


@pytest.fixture(scope="session")
def raw_movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in MovieLens-100K's original layout."""
    return tiny_parts.movielens(tmp_path_factory.mktemp("parts") / "ml")

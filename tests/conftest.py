"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# Workers share the cores: as many threads each, in what they start as well, as make one a core.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("OMP_NUM_THREADS", f"{threads}")

sys.path.insert(0, str(Path(__file__).parent))

import tiny_parts

# The same cases in each run: a red run speaks of the commit, not of its seed. New cases are
# sought with `--hypothesis-profile=search`, as often as one likes.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", derandomize=False, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that none of them is left to one core."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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

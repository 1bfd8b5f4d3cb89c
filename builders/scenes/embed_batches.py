"""Batches of texts that do not depend on what else is embedded, and their vectors kept on disk.

The vector of a text differs in its last bits with the batch that it is computed in. So that the
same texts have the same vectors whether they were kept or not, batches are kept, not texts; and so
that one text more does not change all batches, a batch ends where the hash of its last text says.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError

#: Most tokens of a batch, padding included. MiniLM took 13 % less of a CPU's time than with 8,192.
MOST_TOKENS = 4096
#: Texts of a batch differ by fewer tokens than this: so much is padding at most.
STEP = 4


def batches(texts: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """Group distinct texts of nearly one width.

    Args:
        texts: Distinct texts, in any order.
        widths: Tokens of each, at least 1.

    Returns:
        The batches, short and long ones mixed: how fast the first go says how fast the rest will.
    """
    alike: dict[int, list[tuple[int, str]]] = {}
    for text, width in zip(texts, widths, strict=True):
        alike.setdefault(-(-width // STEP) * STEP, []).append((_number(text), text))
    made: list[list[str]] = []
    for width, group in alike.items():
        most = max(1, MOST_TOKENS // width)
        batch: list[str] = []
        for number, text in sorted(group):
            batch.append(text)
            if len(batch) == most or number % max(1, most // 2) == 0:
                made.append(batch)
                batch = []
        made += [batch] if batch else []
    return sorted(made, key=_name)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _name(batch: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(batch).encode(), digest_size=16).hexdigest()


class Kept:
    """Vectors of batches in a folder; where it cannot be written, nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def get(self, batch: Sequence[str]) -> np.ndarray | None:
        """Return float32 [len(batch), d] as it was put, None if it was not or is damaged."""
        try:
            vectors: np.ndarray = np.load(self._path(batch), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == len(batch)
        return vectors if whole else None

    def put(self, batch: Sequence[str], vectors: np.ndarray) -> None:
        """Keep the vectors of a batch."""
        with contextlib.suppress(UserError, OSError), storage.atomic(self._path(batch)) as target:
            np.save(target, vectors, allow_pickle=False)

    def _path(self, batch: Sequence[str]) -> Path:
        return self._folder / f"{_name(batch)}.npy"

"""Factors and styles in the words of decisions -> their names, merged by stated rules."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Merging(NamedTuple):
    """By which rules terms are merged."""

    synonyms: Path | None
    embedder: str
    threshold: float

    @classmethod
    def of(cls, synonyms: Path | None, embedder: str, threshold: float) -> Merging:
        """Return the rules that were asked for."""
        return cls(synonyms, embedder, threshold)

"""Plots of the analyses: tables of a `Result` -> PNG files and what they show, in words."""

from __future__ import annotations

from pathlib import Path

from usermirrorer.eval_harness.analysis.result import Result


def draw(name: str, result: Result, folder: Path) -> dict[str, str]:
    """Draw the plots of an analysis.

    Args:
        name: Of the analysis.
        result: What it says.
        folder: Where the PNG files go.

    Returns:
        File name -> alt text.
    """
    return {}

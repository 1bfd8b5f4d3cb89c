"""Every analysis, once: command line, pages and `reproduce` read this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Analysis:
    """One analysis.

    Args:
        name: On the command line.
        title: On pages.
        paper: What of the paper it is.
    """

    name: str
    title: str
    paper: str


ANALYSES = {
    analysis.name: analysis
    for analysis in (
        Analysis("factors", "Factors and styles of decisions", "Figures 6 and 7, section D.2"),
        Analysis("ablation", "What each feature is worth", "Tables 10 and 11, section D.3"),
        Analysis("calibration", "Entropy and calibration", "Table 12, section D.4"),
        Analysis("style", "Likeness to the teacher's decisions", "Table 13, section D.5"),
        Analysis("learning-curve", "Accuracy by size of training data", "Figure 5, section 4.2.1"),
        Analysis("transfer", "Transfer to unseen domains", "Table 14, section D.6"),
    )
}

"""Models trained on one group of domains and tested on the other.

Table 14 and section D.6 of the paper. Tables:

    sources  source, group, base, full, cross (the model trained on the other group),
             cross_minus_base and its p, p_holm, cross_minus_full and its full_p, full_p_holm, kept
             (share of the full
             model's gain), scenes, users
    groups   group (tested), trained_on, the same columns
    beside   result, source, accuracy, scenes: every run on every source, trained on it or not
"""

from __future__ import annotations

from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis.result import Result


def analyse(*given: Any) -> Result:
    """Raise UserError: it is being built."""
    raise UserError("this analysis is being built")


def groups(trained: tuple[str, ...]) -> Any:
    """Return the two groups."""
    return None

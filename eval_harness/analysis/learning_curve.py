"""Accuracy against the number of training pairs, with a fitted curve.

Figure 5 of the paper. Runs are named by the number of pairs, `CURVE@PAIRS` if there are several
curves. Tables:

    points   curve, pairs, accuracy, scenes, users, gain (to the next smaller size, on common
             scenes), gain_p, gain_p_holm, fitted
    curves   curve, form (`power` or `logarithm`), a, b, c (of a - b * pairs^-c, or
             a + b * log2(pairs)), at_double (expected gain of twice the largest size), sizes
"""

from __future__ import annotations

from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis.result import Result


def analyse(*given: Any) -> Result:
    """Raise UserError: it is being built."""
    raise UserError("this analysis is being built")

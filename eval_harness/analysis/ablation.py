"""What each feature is worth: accuracy with it alone, and without it.

Tables 10 and 11 and section D.3 of the paper. Runs are named by what was shown: the base (`full`),
`only-FEATURE`, `without-FEATURE`. Tables:

    features   feature, retained (accuracy with it alone), removed (accuracy without it), loss (what
               removing it costs, paired by scene), loss_p, loss_p_holm, gain (what it alone gives
               over chance), gain_p, gain_p_holm, scenes (compared)
    base       result, accuracy, chance, scenes, users
    by_source  the same as `features`, with `source` first, where there are several
"""

from __future__ import annotations

from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis.result import Result


def analyse(*given: Any) -> Result:
    """Raise UserError: it is being built."""
    raise UserError("this analysis is being built")

"""Factors and styles of decisions: how often each is named, and whether it goes with being right.

Figures 6 and 7 and section D.2 of the paper. Tables, one row per result and ...

    frequencies   (Figure 7) stage (`stimulus`, `knowledge`, `evaluation`: the style), factor,
                  mentions, share (of the stage's mentions; adds up to 1), decisions (share of
                  well-formed decisions that name it), users
    accuracy      (Figure 6a) stage, factor, decisions, users, accuracy (of decisions that name
                  it), without (of those that do not), difference (within sources), p, p_holm
    amount        (Figure 6b) quantity (`stimulus_words`, `knowledge_words`, `evaluation_words`,
                  `stimulus_factors`, `knowledge_factors`, `words`), mean, slope (change of accuracy
                  per standard deviation), p, p_holm
    amount_bins   quantity, bin (1 to 5), low, high, decisions, accuracy
    terms         stage, term (as written, cleaned), mentions, factor, rule (`name`, `synonym`,
                  `embedding`, `none`), nearest, similarity

All tables begin with `result`, the name of the RESULTS. `p_holm` is corrected for all tests of one
result. Malformed decisions are left out and counted.
"""

from __future__ import annotations

from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis.result import Result


def analyse(*given: Any) -> Result:
    """Raise UserError: it is being built."""
    raise UserError("this analysis is being built")

"""Entropies by stage, calibration curves and calibration errors.

Table 12 and section D.4 of the paper. Confidence is the largest probability of the mean
distribution over a scene's decisions. Tables:

    entropy   result, model, scenes, users, entropy (bits, mean over decisions of H(P(Y | X + D))),
              spread (standard deviation over scenes), normalised (0 to 1), total (bits, of the mean
              distribution), accuracy, difference (of entropy to the first result's on common
              scenes), difference_p
    errors    result, confidence, accuracy (of the likeliest option), ece (with the interval of a
              bootstrap of users), ece_if_calibrated (what so many scenes show of a model without
              any error), log_loss, brier
    curve     result, low, high (of the bin), scenes, users, confidence, accuracy
    sources   result, source, scenes, entropy, ece
"""

from __future__ import annotations

from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.analysis.result import Result


def analyse(*given: Any) -> Result:
    """Raise UserError: it is being built."""
    raise UserError("this analysis is being built")

"""When a difference between two systems may be called one, in words (decision 0024)."""

from __future__ import annotations

from typing import Literal

SIGNIFICANT = 0.05
"""P-value, corrected for all comparisons that are judged together, below which two systems differ."""
_RELEVANT = {"BLEU": 1.0, "KL (nats)": 0.05}
_RELEVANT_COSINE, _RELEVANT_POINTS = 0.02, 1.0

Verdict = Literal["better", "worse", "a difference too small to matter", "no clear difference"]

HOW = (
    "better or worse needs p below 0.05 after Holm's correction for all of these comparisons, and a difference that "
    "matters: at least 1 point of WER, BLEU or a percentage, 0.05 nats of KL, 0.02 of a cosine"
)
"""The same for readers."""


def relevant_difference(metric: str) -> float:
    """Smallest difference of a metric that would matter to somebody: a user, or who chooses between two systems."""
    if metric.startswith("cosine"):
        return _RELEVANT_COSINE
    return _RELEVANT.get(metric, _RELEVANT_POINTS)


def verdict(metric: str, difference: float, corrected_p_value: float, *, higher_is_better: bool) -> Verdict:
    """What may be said of a system.

    Args:
        metric: Name of the metric.
        difference: Score of the system minus that of the other.
        corrected_p_value: P-value, corrected for the number of comparisons.
        higher_is_better: False for error rates.
    """
    if not corrected_p_value < SIGNIFICANT:
        return "no clear difference"
    if abs(difference) < relevant_difference(metric):
        return "a difference too small to matter"
    return "better" if (difference > 0) == higher_is_better else "worse"


def is_equal_enough(metric: str, low: float | None, high: float | None) -> bool:
    """Whether the 95 % interval of a difference leaves room for none that matters."""
    limit = relevant_difference(metric)
    return low is not None and high is not None and -limit < low and high < limit

"""How sure a median is, without a word about the distribution that its values come from."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95
"""With which probability a stated interval holds the true median."""

LEAST = 0.01
"""Relative difference below which two times count as equal whatever their spread: where a network happens to lie in
memory changes its time by as much."""


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return an interval that holds the median of what the values are drawn from.

    It is between two of the sorted values, chosen by the binomial distribution of how many fall below the median
    (Conover, Practical Nonparametric Statistics, 3rd ed. 1999, section 3.2). It holds for any distribution, and the
    probability is at least ``confidence``.

    Args:
        values: independent, all positive.
        confidence: in (0, 1).

    Returns:
        Low and high; 0 and infinity where there are too few values to say anything (fewer than 6, for 95 %).
    """
    from scipy.stats import quantile_test

    if not values:
        return 0.0, math.inf
    found = quantile_test(list(values), q=0, p=0.5).confidence_interval(confidence)
    low, high = float(found.low), float(found.high)
    return (0.0 if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def differs(ratio: float, low: float, high: float) -> bool:
    """Say whether a ratio of two times is a difference, or inside the noise."""
    return not low <= 1.0 <= high and abs(math.log(ratio)) >= math.log1p(LEAST)

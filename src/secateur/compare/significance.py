"""Which differences are more than noise: Welch's test, corrected for the number of comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secateur.report.numbers import NONE
from secateur.tasks import Metric

LEVEL = 0.05
"""A difference that chance makes less often than this is called a difference."""
ONE_SEED = "one seed: nothing can be said"
NO_SPREAD = "no spread between seeds: nothing can be said"
SAME_NETWORKS = "the same networks"
NOISE, TOO_FEW = "within noise", "too few seeds to tell"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds.

    Attributes:
        values: one per seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation; None for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Verdict:
    """How one line compares with another.

    Attributes:
        difference: of the mean test qualities, in points where they are shares; positive is better.
        p: probability that chance makes a difference of this size, by Welch's test, after Holm's correction for the
            number of lines; None where nothing can be said.
        text: in words.
        larger: whether the difference is larger than either spread, so that more seeds might tell it from chance.
    """

    difference: float
    p: float | None
    text: str
    larger: bool = False

    @property
    def short(self) -> str:
        """Return the same in a few words; a dash where nothing can be said."""
        if self.p is None:
            return "the same" if self.text == SAME_NETWORKS else NONE
        unsure = "too few seeds" if self.larger else "noise"
        word = unsure if self.p >= LEVEL else "better" if self.difference > 0 else "worse"
        return f"{word}, p {self.p:.1g}"


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p of Welch's test; None where either has one value or both have no spread."""
    if min(len(first), len(second)) < 2 or (len(set(first)) == 1 and len(set(second)) == 1):
        return None
    from scipy import stats

    facts = [fact for one in (first, second) for fact in (statistics.fmean(one), statistics.stdev(one), len(one))]
    found: Any = stats.ttest_ind_from_stats(*facts, equal_var=False)
    return float(found.pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p values after Holm's correction for their number; None stays None and does not count."""
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    out: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, place) in enumerate(order):
        highest = max(highest, min(1.0, value * (len(order) - rank)))
        out[place] = highest
    return out


def verdict(mine: Spread, other: Spread, p: float | None, metric: Metric, *, same: bool) -> Verdict:
    """Return how two means compare.

    Args:
        mine: test qualities, one per seed.
        other: those to compare with.
        p: of the difference, corrected; None where there is none.
        metric: what they are.
        same: whether both are of the same networks, which leaves nothing to test.
    """
    difference = -metric.scale * metric.lost(other.mean, mine.mean)
    if same:
        return Verdict(difference, None, SAME_NETWORKS)
    if p is None or math.isnan(p):
        few = min(len(mine.values), len(other.values)) < 2
        return Verdict(difference, None, ONE_SEED if few else NO_SPREAD)
    if p >= LEVEL:
        larger = abs(mine.mean - other.mean) > max(mine.std or 0.0, other.std or 0.0)
        return Verdict(difference, p, f"{TOO_FEW if larger else NOISE} (p = {p:.2g})", larger)
    word = "better" if difference > 0 else "worse"
    return Verdict(difference, p, f"{word} by {metric.change(0.0, abs(difference) / metric.scale)[1:]} (p = {p:.2g})")

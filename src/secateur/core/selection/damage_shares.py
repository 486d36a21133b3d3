"""How many kernels, rows or weights go from each layer when every layer is to do the same damage alone."""

from __future__ import annotations

import bisect
from collections.abc import Mapping

from secateur.core.selection.sensitivity_curves import Curve
from secateur.core.selection.uniform_shares import between, most


def counts(
    goal: int, curves: Mapping[str, Curve], totals: Mapping[str, int], window: Mapping[str, int]
) -> dict[str, int]:
    """Return how many things go from each layer, by the smallest common damage that zeroes enough weights.

    Among layers that could lose more for the same damage, those for instance that lose some for none, the share is
    common.

    Args:
        goal: how many weights become zero at least; all but one thing of every layer are enough for that.
        curves: how the network suffers as each layer alone loses its things; a layer without one loses its share.
        totals: for each layer, how many things it has.
        window: and of how many single weights one of them consists.
    """
    all_but_one = most(totals)

    def within(damage: float) -> dict[str, int]:
        return {
            name: min(curves[name].most_gone(damage), top) if name in curves else top
            for name, top in all_but_one.items()
        }

    def zeros(found: Mapping[str, int]) -> int:
        return sum(count * window[name] for name, count in found.items())

    nothing = dict.fromkeys(totals, 0)
    if zeros(within(0.0)) >= goal:
        return between(goal, nothing, within(0.0), totals, window)
    knots = sorted({0.0, *(rise for curve in curves.values() for rise in curve.highest())})
    place = bisect.bisect_left(knots, True, key=lambda damage: zeros(within(damage)) >= goal)
    low, high = knots[place - 1], knots[place]  # the highest may be beyond all numbers, so these are halved apart
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if zeros(within(middle)) >= goal else (middle, high)
    return between(goal, {**nothing, **within(low)}, within(high), totals, window)

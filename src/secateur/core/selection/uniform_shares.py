"""How many maps, kernels or weights go from each layer when every layer gives the same share."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping

import torch

from secateur.core.graph import Graph, Group
from secateur.core.plan import Plan
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, ruler, size
from secateur.core.zeros import patterns
from secateur.errors import TargetError


def number(ratio: float, total: int) -> int:
    """Return the ratio of a total, rounded; a hair more, since the product may fall below the half that was meant."""
    return math.floor(ratio * total + 0.5 + 1e-9)


def refuse_empty(ratio: float, count: int, total: int, what: str, layer: str) -> None:
    """Refuse to take everything from a layer.

    Raises:
        TargetError: naming the layer.
    """
    if count >= total:
        raise TargetError(
            f"a ratio of {ratio:.3g} removes all {total} {what} of '{layer}'; ask for less, or leave that layer alone"
        )


def within(limits: Limits, group: Group, count: int, *, near: bool = False) -> int:
    """Return how many may go when so many should: fewer where floors and multiples want it.

    Args:
        limits: floors and multiples.
        group: from which they go.
        count: how many.
        near: whether that is what somebody asked for, see ``Limits.multiple_near``.
    """
    left = max(group.size - count, min(limits.min_units, group.size))
    multiple = limits.multiple_near(group, left) if near else limits.multiple_of(group)
    return max(0, group.size - -(-left // multiple) * multiple)


def by_weights(graph: Graph, groups: list[Group], ratio: float) -> dict[str, int]:
    """Return how many maps go from each group so that the share of removed weights comes closest to the ratio.

    The weights are those of the convolutions that the groups make or that read them, the first one excepted.

    Raises:
        TargetError: if so many cannot go.
    """
    first, rule = patterns.stem_of(graph), ruler(graph)
    names = {m.tensor for group in groups for m in group.members if m.role in ("makes", "reads") and m.tensor != first}
    names = {name for name in names if len(graph.tensors[name][0]) > 2}
    whole = sum(math.prod(graph.tensors[name][0]) for name in names)

    def counts(share: float) -> dict[str, int]:
        return {group.name: min(number(share, group.size), group.size - 1) for group in groups}

    def removed(share: float) -> float:
        keep = torch.ones(graph.units, dtype=torch.bool)
        for name, count in counts(share).items():
            keep[graph.offsets[name] : graph.offsets[name] + count] = False
        return 1.0 - sum(math.prod(rule.shape(name, keep)) for name in names) / max(1, whole)

    shares = sorted({(k - 0.5) / group.size for group in groups for k in range(1, group.size)} | {0.0})
    most = removed(shares[-1])
    if most < ratio:
        raise TargetError(
            f"a ratio of {ratio:.3g} of the weights cannot go: with one map left in each layer {most:.3g} have gone",
            1.0 - most,
        )
    place = bisect.bisect_left(shares, ratio, key=removed)
    near = shares[max(0, place - 1) : place + 1]
    return counts(min(near, key=lambda share: abs(removed(share) - ratio)))


def enough(graph: Graph, target: Target, totals: Mapping[str, int], window: Mapping[str, int]) -> dict[str, int]:
    """Return how many things go from each layer, by the smallest common share that meets a target of nonzero.

    Args:
        graph: the network.
        target: in nonzero.
        totals: for each weight, how many things it has.
        window: and of how many single weights one of them consists.

    Raises:
        TargetError: if even all but one of each layer are not enough.
    """
    goal = zeros_for(graph, target, totals, window)
    return between(goal, dict.fromkeys(totals, 0), most(totals), totals, window)


def most(totals: Mapping[str, int]) -> dict[str, int]:
    """Return how many things may go from each layer: all but one."""
    return {name: total - 1 for name, total in totals.items()}


def zeros_for(graph: Graph, target: Target, totals: Mapping[str, int], window: Mapping[str, int]) -> int:
    """Return how many weights must become zero for a target of nonzero; arguments as for ``enough``.

    Raises:
        TargetError: if even all but one thing of each layer are not enough.
    """
    whole = size(graph).nonzero
    goal = whole - target.most(whole)
    zeros = _zeros(most(totals), window)
    if zeros < goal:
        reachable = (whole - zeros) / whole
        raise TargetError(
            f"cannot keep only {target.keep:.3g} of the nonzero: with all but one zeroed in every prunable layer "
            f"{reachable:.3g} remain; ask for at least that, or allow more layers",
            reachable,
        )
    return goal


def between(
    goal: int, low: Mapping[str, int], high: Mapping[str, int], totals: Mapping[str, int], window: Mapping[str, int]
) -> dict[str, int]:
    """Return the smallest common share of all layers, as far as bounds allow, that zeroes enough weights.

    Args:
        goal: how many weights become zero at least; ``high`` does that.
        low: how many things go from each layer at least.
        high: and at most.
        totals: see ``enough``.
        window: see ``enough``.
    """

    def counts(share: float) -> dict[str, int]:
        return {name: min(max(number(share, total), low[name]), high[name]) for name, total in totals.items()}

    start, end = 0.0, 1.0
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (start, middle) if _zeros(counts(middle), window) >= goal else (middle, end)
    return counts(end)


def _zeros(counts: Mapping[str, int], window: Mapping[str, int]) -> int:
    return sum(count * window[name] for name, count in counts.items())


def check_left(graph: Graph, plan: Plan, target: Target | None) -> None:
    """Refuse a regular pattern that zeroes less than the target asks for.

    Raises:
        TargetError: with what it does leave.
    """
    if target is None:
        return
    whole, left = size(graph).nonzero, size(graph, plan).nonzero
    if left > target.keep * whole * (1 + 1e-12) + 1e-9:
        raise TargetError(
            f"cannot keep only {target.keep:.3g} of the nonzero: this pattern leaves {left / whole:.3g}; ask for at "
            "least that, or choose a sparser one",
            left / whole,
        )

"""How much stays of each layer, as few numbers: what a search over pruning parameters turns its screws on.

A point has one number for each stage, which is a layer or some layers tied together. It is either the fraction of
weights, or of units, that stays (``keep``), or c in the threshold ``mean + c * standard deviation`` of their absolute
values (``deviation``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.core.graph import Graph, unit_rows
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.selection.uniform_shares import number, within
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Measure, ruler
from secateur.core.zeros import patterns, splicing
from secateur.errors import TargetError

Granularity = Literal["units", "weights"]
Per = Literal["auto", "layer", "stage"]
By = Literal["keep", "deviation"]
Point = tuple[float, ...]

MOST_STAGES = 20
"""More layers than these are tied together, since a Gaussian process is lost in many dimensions."""
BOXES: Mapping[By, tuple[float, float]] = {"keep": (0.02, 1.0), "deviation": (-1.5, 3.5)}


@dataclass(frozen=True, eq=False)
class Allocation:
    """What can be chosen in a network.

    Attributes:
        graph: the network.
        granularity: whether units go or single weights.
        by: what the numbers of a point mean.
        stages: by name, the groups or weights that share a number.
        limits: floors and multiples of units.
    """

    graph: Graph
    granularity: Granularity
    by: By
    stages: Mapping[str, tuple[str, ...]]
    limits: Limits

    @staticmethod
    def of(graph: Graph, granularity: Granularity, per: Per, by: By, limits: Limits) -> Allocation:
        """Find the stages of a network: consecutive layers of equal width are one, if they are tied at all.

        Raises:
            TargetError: if nothing can go.
        """
        if granularity == "units":
            widths = {group.name: group.size for group in graph.free}
        else:
            names = patterns.maskable(graph, stem=True, linear=True)
            widths = {name: graph.tensors[name][0][graph.roles[name].index("makes")] for name in names}
        if not widths:
            raise TargetError(f"no {granularity} of this network can go; `secateur explain` says why", 1.0)
        tied = per == "stage" or (per == "auto" and len(widths) > MOST_STAGES)
        stages: dict[str, tuple[str, ...]] = {}
        last, width = "", 0
        for part, size in widths.items():
            if tied and last and size == width:
                stages[last] = (*stages[last], part)
            else:
                last, width = part, size
                stages[part] = (part,)
        return Allocation(graph, granularity, by, stages, limits)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all groups or weights."""
        return tuple(part for stage in self.stages.values() for part in stage)

    def total(self, part: str) -> int:
        """Return how many units or weights a part has."""
        if self.granularity == "weights":
            return math.prod(self.graph.tensors[part][0])
        return self.graph.group(part).size

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the weights in which something becomes zero."""
        if self.granularity == "weights":
            return self.parts
        chosen = [self.graph.group(part) for part in self.parts]
        return tuple(dict.fromkeys(m.tensor for group in chosen for m in group.members if m.role == "reads"))

    @property
    def box(self) -> tuple[tuple[float, float], ...]:
        """Range of each number of a point."""
        return (BOXES[self.by],) * len(self.stages)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The sizes that a choice changes."""
        return ("nonzero",) if self.granularity == "weights" else get_args(Measure)

    def values(self, part: str, weight: Callable[[str], Tensor]) -> Tensor:
        """Return how much each unit or weight matters, flat.

        That is the absolute value of a weight. For a unit it is the mean of them over the weights that make it and
        over those that read it, as multiples of the layer's average, added up over layers.

        Args:
            part: a group or a weight.
            weight: gives a tensor of the network by name.
        """
        if self.granularity == "weights":
            return weight(part).detach().abs().flatten()
        group = self.graph.group(part)
        total = torch.zeros(group.size)
        for member in group.members:
            if member.role in ("makes", "reads"):
                means = unit_rows(weight(member.tensor), member, group.size).abs().float().mean(1).cpu()
                total += means / means.mean().clamp_min(1e-12)
        return total

    def rank(self, weight: Callable[[str], Tensor]) -> Ranking:
        """Put the units or weights of each part in order, the most important first."""
        return Ranking(self, {part: self.values(part, weight) for part in self.parts})


class Ranking:
    """The units or weights of a network in the order in which they stay.

    Args:
        allocation: what can be chosen.
        values: of each part, see ``Allocation.values``.
    """

    def __init__(self, allocation: Allocation, values: Mapping[str, Tensor]) -> None:
        self.allocation, self.values = allocation, dict(values)
        self._order = {part: torch.argsort(v, descending=True, stable=True).cpu() for part, v in self.values.items()}
        self._present = {part: int((v > 0).sum()) for part, v in self.values.items()}
        graph = allocation.graph
        self._rule = ruler(graph)
        self._rank = torch.zeros(graph.units, dtype=torch.long)
        if allocation.granularity == "units":
            for part, order in self._order.items():
                self._rank[graph.offsets[part] + order] = torch.arange(len(order))

    def whole(self, of: Measure) -> int:
        """Return the size of the whole network."""
        return self._rule.measure(of, torch.ones(self.allocation.graph.units, dtype=torch.bool))

    def counts(self, point: Sequence[float]) -> dict[str, int]:
        """Return how many of each part stay."""
        out: dict[str, int] = {}
        for number_, (_, parts) in zip(point, self.allocation.stages.items(), strict=True):
            for part in parts:
                values = self.values[part]
                if self.allocation.by == "keep":
                    left = number(number_, len(values))
                else:
                    left = int((values > splicing.by_deviation(values, values > 0, number_)).sum())
                out[part] = self._allowed(part, left)
        return out

    def _allowed(self, part: str, left: int) -> int:
        total = len(self.values[part])
        left = max(1, min(total, left))
        if self.allocation.granularity == "weights":
            return left
        return total - within(self.allocation.limits, self.allocation.graph.group(part), total - left)

    def size(self, counts: Mapping[str, int], of: Measure) -> int:
        """Return the exact size that is left."""
        if self.allocation.granularity == "units":
            return self._rule.measure(of, self._kept(counts))
        if of != "nonzero":
            return self.whole(of)
        gone = sum(len(self.values[part]) - min(count, self._present[part]) for part, count in counts.items())
        return self.whole(of) - gone

    def _kept(self, counts: Mapping[str, int]) -> Tensor:
        graph = self.allocation.graph
        keep = torch.ones(graph.units, dtype=torch.bool)
        for part, count in counts.items():
            first = graph.offsets[part]
            place = slice(first, first + len(self.values[part]))
            keep[place] = self._rank[place] < count
        return keep

    def keep(self, counts: Mapping[str, int]) -> dict[str, Tensor]:
        """Return for each part who stays, flat and boolean."""
        out: dict[str, Tensor] = {}
        for part, count in counts.items():
            out[part] = torch.zeros(len(self._order[part]), dtype=torch.bool)
            out[part][self._order[part][:count]] = True
        return out

    def plan(self, counts: Mapping[str, int]) -> Plan:
        """Return the plan that leaves so many of each part; weights that are zero already stay zero."""
        present = {part: min(count, self._present[part]) for part, count in counts.items()}
        return plan_of(self.allocation, self.keep(counts if self.allocation.granularity == "units" else present))

    def within(self, point: Point, of: Measure, limit: float | None) -> Point:
        """Return a point scaled to just the share that may be left of a size; the same without a limit."""
        if limit is None:
            return point
        # sizes are whole numbers; the product of two decimals may fall a hair below the one that was meant
        return self.fitted(point, of, limit * self.whole(of) * (1 + 1e-12) + 1e-9)

    def fitted(self, point: Sequence[float], of: Measure, goal: float) -> Point:
        """Move all numbers of a point together until the size is as close below the goal as it gets.

        Fractions are multiplied by one factor, deviations shifted by one amount.

        Raises:
            TargetError: if the smallest that is allowed is above the goal.
        """
        keep = self.allocation.by == "keep"

        def moved(by: float) -> Point:
            return tuple(min(1.0, x * by) if keep else x - by for x in point)

        def fits(by: float) -> bool:
            return self.size(self.counts(moved(by)), of) <= goal

        low, high = (0.0, 1.0 / max(1e-9, min(point))) if keep else (-1e4, 1e4)
        if not fits(low):
            whole = self.whole(of)
            reachable = self.size(self.counts(moved(low)), of) / whole
            shown = math.ceil(reachable * 1000) / 1000
            raise TargetError(
                f"cannot keep only {goal / whole:.3g} of the {of}: with the fewest {self.allocation.granularity} that "
                f"may stay in each layer {shown:.3g} remain; ask for at least that, or allow more layers",
                reachable,
            )
        if fits(high):
            return moved(high)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return moved(low)


def plan_of(allocation: Allocation, keep: Mapping[str, Tensor]) -> Plan:
    """Return the plan that leaves exactly these units or weights of each part."""
    edits: list[DropUnits | ZeroWeights] = []
    for part, left in keep.items():
        if bool(left.all()):
            continue
        if allocation.granularity == "units":
            edits.append(DropUnits(part, tuple(torch.nonzero(~left).flatten().tolist())))
        else:
            edits.append(ZeroWeights.of(part, left.reshape(allocation.graph.tensors[part][0])))
    return Plan(tuple(edits))


def present(allocation: Allocation, weight: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return what is there in a network, for each part flat and boolean: weights, or units that something reads.

    Args:
        allocation: what can be chosen in it.
        weight: gives a tensor of the network by name.
    """
    out: dict[str, Tensor] = {}
    for part in allocation.parts:
        if allocation.granularity == "weights":
            out[part] = (weight(part).detach() != 0).flatten().cpu()
            continue
        group = allocation.graph.group(part)
        readers = [m for m in group.members if m.role == "reads"]
        read = torch.zeros(group.size, dtype=torch.bool)
        for member in readers:
            read |= (unit_rows(weight(member.tensor), member, group.size) != 0).any(1).cpu()
        out[part] = read if readers else torch.ones(group.size, dtype=torch.bool)
    return out

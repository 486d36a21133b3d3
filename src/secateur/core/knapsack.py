"""Which widths keep the most importance for the time that they take: a multiple-choice knapsack.

Every group chooses one of its widths; what it loses in importance and what the network saves in time are added up. The
Lagrangian relaxation of that problem is solved by going down the convex hull of each group, always where the least
importance is lost for each millisecond saved, so that widths between which no time is saved are jumped over. As the
time of a layer depends on what makes its units and on what it reads, what a step saves is looked up again when its turn
comes.

The problem was put as a knapsack of groups of units by Shen et al. (Structural Pruning via Latency-Saliency Knapsack,
NeurIPS 2022), who solve it by dynamic programming for one limit of time; here all limits are solved by one order.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from secateur.core.graph import Graph, Group
from secateur.core.limits import Limits
from secateur.core.plan import Plan
from secateur.core.select import Scope, Step, steps

RUNGS = 16
"""Most widths of a group of which the time is looked up; a finer grid is walked between them without looking."""

_NOTHING = 1e-9
"""A share of the network's time below which nothing is saved."""


@dataclass(frozen=True, eq=False)
class TimeTerm:
    """A part of a network's time that the widths of few groups decide, such as the time of a layer.

    Attributes:
        groups: names of the groups that it depends on.
        milliseconds: takes which units of the graph are kept, ``(graph.units,)`` bool.
    """

    groups: frozenset[str]
    milliseconds: Callable[[Tensor], float]


@dataclass(frozen=True, eq=False)
class Times:
    """How long the networks take that a graph can be thinned to, as a sum of terms."""

    terms: tuple[TimeTerm, ...]
    _orders: dict[tuple[object, ...], list[Step]] = field(default_factory=dict[tuple[object, ...], list[Step]])

    def milliseconds(self, keep: Tensor) -> float:
        """Return the time of the network that keeps these units, ``(graph.units,)`` bool."""
        return sum(term.milliseconds(keep) for term in self.terms)


def by_latency(graph: Graph, scores: Mapping[str, Tensor], scope: Scope, limits: Limits, times: Times) -> list[Step]:
    """Order the steps of all groups by the importance that is lost for each millisecond saved.

    Any prefix of the result is a plan. Where times add up over groups, each prefix loses the least importance of all
    plans that are as fast. Steps that save no time come last.

    Args:
        graph: the network.
        scores: for each group to prune, ``(size,)``; comparable between groups if the scope is global.
        scope: what importance is, see ``Importance``.
        limits: floors and multiples.
        times: how long networks take; remembers the orders that it was asked for.
    """
    about = (scope, limits, *((name, values.double().numpy().tobytes()) for name, values in scores.items()))
    if about not in times._orders:  # pyright: ignore[reportPrivateUsage]
        times._orders[about] = _Descent(graph, scores, scope, limits, times).steps()  # pyright: ignore[reportPrivateUsage]
    return list(times._orders[about])  # pyright: ignore[reportPrivateUsage]


def kept_importance(graph: Graph, scores: Mapping[str, Tensor], scope: Scope, plan: Plan) -> float:
    """Return the share of importance that a plan keeps, in [0, 1].

    For the scope ``global`` that is the share of all scores; for ``uniform`` the geometric mean over layers of the
    share of the scores that stays there. In both a unit counts once for each layer that makes it.

    Args:
        graph: the network.
        scores: for each group, ``(size,)``.
        scope: how scores compare, see ``Importance``.
        plan: units to drop.
    """
    gone, lost, everything, layers = plan.dropped(), 0.0, 0.0, 0
    for group in graph.free:
        if group.name in scores:
            measure = Importance(graph, group, scores[group.name], scope)
            units = torch.tensor(gone.get(group.name, ()), dtype=torch.long)
            lost += measure.lost(float(measure.values[units].sum()))
            everything += measure.layers * measure.total
            layers += measure.layers
    return 1.0 - lost / max(everything, 1e-300) if scope == "global" else math.exp(-lost / max(1, layers))


class Importance:
    """What is lost with the units of a group; losses of several groups are added up.

    With the scope ``global`` scores can be compared between groups, and the loss is the sum of those that go. With the
    scope ``uniform`` they cannot; the loss is then minus the logarithm of the share of the group's scores that stays,
    so that the product of the shares is kept as large as possible and no group is emptied before the others. Either
    counts once for each layer that makes the units: a channel of a residual stream is a channel of all its layers.

    Args:
        graph: tells which layers have groups; depthwise ones make no units of their own.
        group: the group.
        scores: ``(group.size,)``; ``inf`` counts as the largest of the others.
        scope: how groups compete.
    """

    def __init__(self, graph: Graph, group: Group, scores: Tensor, scope: Scope) -> None:
        finite = scores[torch.isfinite(scores)].double()
        values = scores.double().clamp(max=float(finite.max()) if len(finite) else 1.0)
        if scope == "uniform":
            values = values - values.min().clamp(max=0.0)
            if not bool(values.any()):
                values = torch.ones_like(values)
        self.values, self.scope = values, scope
        self.total = float(values.sum())
        self.layers = max(1, sum(layer not in graph.convolutions for layer in group.layers))

    def lost(self, gone: float) -> float:
        """Return what is lost with units whose ``values`` add up to ``gone``."""
        if self.scope == "global":
            return self.layers * gone
        return -self.layers * math.log(max(1.0 - gone / self.total, 1e-300))

    def of(self, rungs: Sequence[Sequence[Step]]) -> list[float]:
        """Return what is lost at each of the widths that some steps lead to, the whole group first."""
        taken = (float(self.values[list(step.units)].sum()) for rung in rungs for step in [_joined(rung)])
        return [self.lost(gone) for gone in accumulate(taken, initial=0.0)]


@dataclass(eq=False)
class _Ladder:
    """The widths of a group.

    Attributes:
        rungs: the steps that lead from each width to the next.
        lost: importance lost at each width, the whole group first.
        terms: numbers of the terms that the group has a part in.
        place: where it stands, 0 is the whole group.
    """

    rungs: list[list[Step]]
    lost: list[float]
    terms: list[int]
    place: int = 0


class _Descent:
    """Goes down the ladders of all groups, always where the least is lost for the time saved."""

    def __init__(self, graph: Graph, scores: Mapping[str, Tensor], scope: Scope, limits: Limits, times: Times) -> None:
        self.graph, self.terms = graph, times.terms
        self.keep = torch.ones(graph.units, dtype=torch.bool)
        self.known: dict[tuple[int, tuple[int, ...]], float] = {}
        self.ladders: dict[str, _Ladder] = {}
        for group in graph.free:
            if group.name in scores:
                rungs = _rungs(group, steps(group, scores[group.name], limits), limits.multiple_of(group))
                lost = Importance(graph, group, scores[group.name], scope).of(rungs)
                terms = [number for number, term in enumerate(self.terms) if group.name in term.groups]
                self.ladders[group.name] = _Ladder(rungs, lost, terms)
        self.varying = [[name for name in self.ladders if name in term.groups] for term in self.terms]
        self.least = _NOTHING * times.milliseconds(self.keep)

    def steps(self) -> list[Step]:
        """Return all steps in their order."""
        names = list(self.ladders)
        heap = [(self.best(name)[0], number) for number, name in enumerate(names)]
        heapq.heapify(heap)
        done: list[Step] = []
        while heap:
            _, number = heapq.heappop(heap)
            # its neighbours have become thinner since, so that it may save less than when it was put there
            ratio, to = self.best(names[number])
            if heap and ratio > heap[0][0]:
                heapq.heappush(heap, (ratio, number))
            elif ratio < math.inf:
                done += self.move(names[number], to)
                heapq.heappush(heap, (self.best(names[number])[0], number))
        return done + self.rest()

    def best(self, name: str) -> tuple[float, int]:
        """Return the importance lost for each millisecond by the best jump from here, and where it leads."""
        ladder = self.ladders[name]
        before, best, to = self.time(ladder, name, ladder.place), math.inf, ladder.place
        changed: list[int] = []
        for place in range(ladder.place + 1, len(ladder.rungs) + 1):
            units = self.units(name, ladder.rungs[place - 1])
            self.keep[units] = False
            changed += units
            saved = before - self.time(ladder, name, place)
            if saved > self.least:
                ratio = (ladder.lost[place] - ladder.lost[ladder.place]) / saved
                if ratio < best:
                    best, to = ratio, place
        self.keep[changed] = True
        return best, to

    def time(self, ladder: _Ladder, name: str, place: int) -> float:
        """Return the time of all terms with a part of a group that stands at ``place``, as ``keep`` has it."""
        total = 0.0
        for number in ladder.terms:
            at = tuple(place if other == name else self.ladders[other].place for other in self.varying[number])
            if (number, at) not in self.known:
                self.known[number, at] = self.terms[number].milliseconds(self.keep)
            total += self.known[number, at]
        return total

    def move(self, name: str, to: int) -> list[Step]:
        """Go down to a place; widths that were jumped over are no stops on the way."""
        ladder = self.ladders[name]
        passed = ladder.rungs[ladder.place : to]
        for rung in passed:
            self.keep[self.units(name, rung)] = False
        ladder.place = to
        if len(passed) == 1:
            return passed[0]
        return [_joined([step for rung in passed for step in rung])]

    def rest(self) -> list[Step]:
        """Return what saves no time, the least important first."""
        keyed: list[tuple[float, int, int, list[Step]]] = []
        for number, ladder in enumerate(self.ladders.values()):
            for place in range(ladder.place, len(ladder.rungs)):
                keyed.append((ladder.lost[place + 1] - ladder.lost[ladder.place], number, place, ladder.rungs[place]))
        return [step for *_, rung in sorted(keyed, key=lambda each: each[:3]) for step in rung]

    def units(self, name: str, rung: Sequence[Step]) -> list[int]:
        """Return the graph-wide numbers of the units that go with a rung."""
        return [self.graph.offsets[name] + unit for step in rung for unit in step.units]


def _joined(rung: Sequence[Step]) -> Step:
    return Step(rung[0].group, tuple(unit for step in rung for unit in step.units))


def _rungs(group: Group, found: Sequence[Step], multiple: int) -> list[list[Step]]:
    """Put steps together so that at most ``RUNGS`` widths are left, on a grid of round multiples, and the last."""
    widths = [group.size - gone for gone in accumulate(len(step.units) for step in found)]
    grain = multiple
    while sum(width % grain == 0 for width in widths[:-1]) >= RUNGS:
        grain *= 2
    rungs: list[list[Step]] = [[]]
    for step, width in zip(found, widths, strict=True):
        rungs[-1].append(step)
        if width % grain == 0:
            rungs.append([])
    return [rung for rung in rungs if rung]

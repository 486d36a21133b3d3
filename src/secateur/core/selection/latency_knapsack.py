"""Which widths keep the most importance for the time that they take: a multiple-choice knapsack.

Every group chooses one of its widths; what it loses in importance and what the network saves in time are added up, see
``secateur.core.selection.descent``.

The problem was put as a knapsack of groups of units by Shen et al. (Structural Pruning via Latency-Saliency Knapsack,
NeurIPS 2022), who solve it by dynamic programming for one limit of time; here all limits are solved by one order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from secateur.core.graph import Graph, Group
from secateur.core.plan import Plan
from secateur.core.selection.costs import Times
from secateur.core.selection.descent import Descent, rungs_of
from secateur.core.selection.target_selection import Scope, Step, steps
from secateur.core.selection.width_ladders import Ladder, Standing
from secateur.core.sizes.limits import Limits

RUNGS = 16
"""Most widths of a group of which the time is looked up; a finer grid is walked between them without looking."""


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
    if about not in times.orders:
        ladders: dict[str, Ladder] = {}
        for group in graph.free:
            if group.name in scores:
                found = steps(group, scores[group.name], limits)
                rungs = rungs_of(group, found, limits.multiple_of(group), RUNGS)
                lost = Importance(graph, group, scores[group.name], scope).of(rungs)
                ladders[group.name] = Ladder(rungs, np.array(lost))
        everything = torch.ones(graph.units, dtype=torch.bool)
        times.orders[about] = Descent(Standing(graph, ladders, times, everything)).steps()
    return list(times.orders[about])


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
        taken = (float(self.values[[unit for step in rung for unit in step.units]].sum()) for rung in rungs)
        return [self.lost(gone) for gone in accumulate(taken, initial=0.0)]

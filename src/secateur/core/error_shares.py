"""Which widths leave the least error that no refit can bring back, within a size or for the time that they take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.core.costs import Costs, Sizes
from secateur.core.descent import Descent, rungs_of
from secateur.core.error_curves import ErrorCurve
from secateur.core.exchange import least_lost
from secateur.core.graph import Graph, Group
from secateur.core.limits import Limits
from secateur.core.plan import EMPTY, Plan
from secateur.core.select import Step, steps
from secateur.core.standing import Ladder, Standing

RUNGS = 64
"""Most widths of a group on the way down, where costs are counted; those of the goal are chosen among all."""
_LOOKS = 16
"""Most widths where they are measured."""
_UNKNOWN = 1e6
"""An error beyond all that is known, for the whole group."""


def by_error(
    graph: Graph,
    curves: Sequence[ErrorCurve],
    limits: Limits,
    costs: Costs,
    *,
    goal: int | None = None,
    start: Plan = EMPTY,
) -> list[Step]:
    """Order the steps of all groups by the error that each leaves for what it saves.

    Any prefix of the result is a plan. With a goal the order leads through the widths that leave the least error, added
    up over groups, of all networks within it.

    Args:
        graph: the network.
        curves: of the groups to prune; their units go in the order of the curve.
        limits: floors and multiples, the only widths that are considered.
        costs: what is saved.
        goal: size, in what ``costs`` counts, for which the widths are to be the best; None for no single one, and with
            times for costs.
        start: units that have gone before, from groups without a curve here.
    """
    known = {curve.group: curve for curve in curves}
    full = {group.name: _ladder(group, known[group.name], limits) for group in graph.free if group.name in known}
    full = {name: ladder for name, ladder in full.items() if ladder.rungs}
    keep = graph.kept(start)
    best = None
    if goal is not None and isinstance(costs, Sizes) and full:
        best = least_lost(Standing(graph, full, costs, keep), goal)
    most = RUNGS if isinstance(costs, Sizes) else _LOOKS
    places = {
        name: _stops(graph.group(name), ladder, limits, most, None if best is None else best[name])
        for name, ladder in full.items()
    }
    ladders = {name: ladder.thinned(places[name]) for name, ladder in full.items()}
    way = None if best is None else {name: places[name].index(place) for name, place in best.items()}
    return Descent(Standing(graph, ladders, costs, keep)).steps(by_way_of=way)


def predicted(curves: Sequence[ErrorCurve], plan: Plan) -> dict[str, float]:
    """Return the error that a plan leaves in each group with a curve, where the units are those that the curve drops.

    Args:
        curves: of some groups.
        plan: how many units go.
    """
    gone = plan.dropped()
    return {curve.group: curve.damage(len(gone.get(curve.group, ()))) for curve in curves}


def _ladder(group: Group, curve: ErrorCurve, limits: Limits) -> Ladder:
    """Return all widths that a group may have."""
    scores = torch.full((group.size,), torch.inf, dtype=torch.float64)
    scores[list(curve.order)] = torch.arange(len(curve.order), dtype=torch.float64)
    rungs = tuple((step,) for step in steps(group, scores, limits))
    gone = np.cumsum([0, *(len(step.units) for (step,) in rungs)])
    lost = [min(curve.damage(int(count)), _UNKNOWN * (1 + count / group.size)) for count in gone]
    return Ladder(rungs, np.array(lost))


def _stops(group: Group, ladder: Ladder, limits: Limits, most: int, by_way_of: int | None) -> list[int]:
    """Return some places of a ladder, evenly spaced, and the one that is led through."""
    found = [step for rung in ladder.rungs for step in rung]
    counts = np.cumsum([0, *(len(rung) for rung in rungs_of(group, found, limits.multiple_of(group), most))])
    return sorted({*counts.tolist(), *(() if by_way_of is None else (by_way_of,))})

"""Which widths leave the least error that no refit can bring back, within a size or for the time that they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from secateur.core.graph import Graph, Group
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.core.selection.costs import Costs, Sizes
from secateur.core.selection.descent import Descent, rungs_of
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.selection.exchange import least_lost
from secateur.core.selection.target_selection import Step, steps
from secateur.core.selection.width_ladders import Ladder, Standing
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target

RUNGS = 64
"""Most widths of a group on the way down, where costs are counted; those of the goal are chosen among all."""
_LOOKS = 16
"""Most widths where they are measured."""
NO_IMAGES_NOTE = (
    "there are no images, so what layers lose is estimated from weights alone; a few hundred, labelled or not, tell "
    "better"
)
"""What is said of error curves that no images were looked at for."""
_COMPARABLE = 64
"""Images from which on a predicted error can be compared with others."""
_UNKNOWN = 1e6
"""Beyond what is known of a curve an error rises by so much, more than any that is known, over the whole group."""


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


def toward(
    graph: Graph, curves: Sequence[ErrorCurve], target: Target, start: Plan = EMPTY
) -> Callable[[Limits], list[Step]]:
    """Return ``by_error`` with a target for a goal, as ``meet`` asks for an order.

    Args:
        graph: the network.
        curves: of the groups to prune.
        target: for which the widths are to be the best.
        start: units that have gone before.
    """
    costs = Sizes.of(graph, target.of)
    goal = target.most(costs.measure(torch.ones(graph.units, dtype=torch.bool)))
    return partial(by_error, graph, curves, costs=costs, goal=goal, start=start)


def predicted(curves: Sequence[ErrorCurve], plan: Plan) -> dict[str, float]:
    """Return the error that a plan leaves in each group with a curve, where the units are those that the curve drops.

    Args:
        curves: of some groups.
        plan: how many units go.
    """
    gone = plan.dropped()
    return {curve.group: curve.damage(len(gone.get(curve.group, ()))) for curve in curves}


def chosen(curves: Sequence[ErrorCurve], plan: Plan) -> Plan:
    """Return a plan of the same widths with the units that are the best for them.

    Args:
        curves: whose units the plan drops, in their order.
        plan: how many units go.
    """
    known, gone = {curve.group: curve for curve in curves}, plan.dropped()
    drops = [
        DropUnits(name, known[name].chosen(len(units)) if name in known else units) for name, units in gone.items()
    ]
    return replace(plan, edits=(*drops, *(edit for edit in plan.edits if not isinstance(edit, DropUnits))))


def note(curves: Sequence[ErrorCurve], plan: Plan, images: int | None = None) -> str:
    """Say what error a plan is predicted to leave, and where the most of it.

    Args:
        curves: whose units the plan drops, in their order.
        plan: how many units go.
        images: by which the curves were measured: of few of them hardly anything seems lost, for a few can be fitted
            whatever goes; None where nobody knows.
    """
    errors = predicted(curves, plan)
    known = {name: error for name, error in errors.items() if math.isfinite(error)}
    worst = sorted(known, key=lambda name: -known[name])[:3]
    most = ", ".join(f"{known[name]:.3g} in {name}" for name in worst if known[name] > 0)
    text = f"layers are predicted to lose {sum(known.values()):.3g} of the variance of what they put out"
    text += " once they are fitted anew, and more without a fit"
    if images is not None:
        few = images < _COMPARABLE
        short = f", too few to go by: it looks the better the fewer they are below {_COMPARABLE}" if few else ""
        text += f" (from {images:,} image{'' if images == 1 else 's'}{short})"
    text += f", added up over {len(known)} groups{': ' + most if most else ''}"
    beyond = len(errors) - len(known)
    return f"{text}; {beyond} more are cut further than was measured" if beyond else text


def ranks(group: Group, curve: ErrorCurve) -> Tensor:
    """Return scores with which the units of a group go in the order of its curve, ``(group.size,)``."""
    scores = torch.full((group.size,), torch.inf, dtype=torch.float64)
    scores[list(curve.order)] = torch.arange(len(curve.order), dtype=torch.float64)
    return scores


def _ladder(group: Group, curve: ErrorCurve, limits: Limits) -> Ladder:
    """Return all widths that a group may have."""
    rungs = tuple((step,) for step in steps(group, ranks(group, curve), limits))
    gone = np.cumsum([0, *(len(step.units) for (step,) in rungs)])
    lost = curve.weight * np.array([curve.damage(int(count)) for count in gone])
    known = int(np.isfinite(lost).sum())
    beyond = (gone[known:] - gone[known - 1]) / group.size
    # ever steeper, so that no group goes all the way before the others
    lost[known:] = lost[known - 1] + _UNKNOWN * beyond * (1 + beyond)
    return Ladder(rungs, lost)


def _stops(group: Group, ladder: Ladder, limits: Limits, most: int, by_way_of: int | None) -> list[int]:
    """Return some places of a ladder, evenly spaced, and the one that is led through."""
    found = [step for rung in ladder.rungs for step in rung]
    counts = np.cumsum([0, *(len(rung) for rung in rungs_of(group, found, limits.multiple_of(group), most))])
    return sorted({*counts.tolist(), *(() if by_way_of is None else (by_way_of,))})

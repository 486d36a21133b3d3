"""Plans to try a network with: equal widths come apart in them, so that one does not pass for another by chance.

Two groups fit in each other's place where the same share of both is kept, however many units that is: half of 128
channels is one head of two. Of groups that the same code has at hand, no two keep the same share in all plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, DropUnits, Plan

MOST = 2  # plans; the second is for groups of so few units that one does not tell them apart

Gone = Mapping[tuple[str, int], Tensor]  # which positions of a tensor's dimension go


def uneven(graph: Graph, together: Sequence[Collection[str]]) -> list[Plan]:
    """Return plans that drop about a third, one unit more from each group to the next.

    The first unit always goes, where any does: it is what a size taken from the first of several parts would speak of.

    Args:
        graph: the network.
        together: groups that the same code has at hand.
    """
    alike: dict[str, set[str]] = {group.name: set() for group in graph.groups}
    for names in together:
        for name in names:
            alike[name].update(other for other in names if other != name)
    plans: list[Plan] = []
    for turn in range(MOST):
        shares = _shares(graph, alike, turn)
        plans.append(_plan(graph, shares, turn))
        alike = {name: {other for other in alike[name] if shares[other] == share} for name, share in shares.items()}
        if not any(alike.values()):
            break
    return plans


def _shares(graph: Graph, alike: Mapping[str, Collection[str]], turn: int) -> dict[str, Fraction]:
    """Choose for each group how much of it is kept, another share than those that it is to be told apart from."""
    shares: dict[str, Fraction] = {}
    for number, group in enumerate(graph.groups):
        wanted = group.size - 1 - (group.size // 3 + number + 7 * turn) % (group.size - 1)
        taken = Counter(shares[other] for other in alike[group.name] if other in shares)
        # from the second plan on a group may also stay whole: of two units there is no other choice
        most = group.size if turn and alike[group.name] else group.size - 1
        near = sorted(range(1, most + 1), key=lambda kept: (abs(kept - wanted), kept)) if taken else [wanted]
        kept = min(near, key=lambda kept: taken[Fraction(kept, group.size)])
        shares[group.name] = Fraction(kept, group.size)
    return shares


def _plan(graph: Graph, shares: Mapping[str, Fraction], turn: int) -> Plan:
    rng = torch.Generator().manual_seed(turn)
    edits: list[DropUnits] = []
    for group in graph.groups:
        others = 1 + torch.randperm(group.size - 1, generator=rng)
        gone = group.size - int(shares[group.name] * group.size)
        if gone:
            edits.append(DropUnits(group.name, (0, *sorted(others[: gone - 1].tolist()))))
    return Plan(tuple(edits))


def gone_in(graph: Graph, plan: Plan) -> Gone:
    """Return which positions go under a plan, which says the same whatever the groups are.

    Raises:
        PlanError: if the plan belongs to another network.
    """
    keep = graph.kept(plan)
    found: dict[tuple[str, int], Tensor] = {}
    for name, (_, dims) in graph.tensors.items():
        for dim, units in enumerate(dims):
            if units is not None:
                found[name, dim] = (units >= 0) & ~keep[units.clamp(min=0)]
    return found


def plan_for(graph: Graph, gone: Gone) -> Plan:
    """Return the plan that drops these positions, as far as they may go; each group keeps one unit at least."""
    keep = torch.ones(graph.units, dtype=torch.bool)
    for (name, dim), positions in gone.items():
        units = graph.tensors[name][1][dim]
        if units is not None:
            keep[units[positions & (units >= 0)]] = False
    edits: list[DropUnits] = []
    for group in graph.groups:
        first = graph.offsets[group.name]
        units = torch.nonzero(~keep[first : first + group.size]).flatten().tolist()[: group.size - 1]
        if units:
            edits.append(DropUnits(group.name, tuple(units)))
    return Plan(tuple(edits)) if edits else EMPTY

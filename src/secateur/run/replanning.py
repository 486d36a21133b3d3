"""Deciding again where a plan cannot be carried out: the network was not read rightly, and the plan shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.errors import CutError, PlanError, TargetError, TraceError

T = TypeVar("T")

DECISIONS = 4
"""How often is decided at most, where what was decided first cannot be carried out."""


def carried_out(
    graph: Graph, work: Callable[[Graph], T], read: Callable[[Sequence[Plan]], Graph], decisions: int = DECISIONS
) -> tuple[Graph, T]:
    """Do what decides on plans and cuts by them; where a cut fails, read the network anew and do it again.

    Args:
        graph: read from the network, perhaps with plans that were tried before.
        work: decides on a plan for the network as it was read, and carries it out.
        read: reads the network once more, with these plans for further trials, and the usual ones if it left them out.
        decisions: how often work is done at most.

    Returns:
        The network as it was read last, and what the work came to on it.

    Raises:
        CutError: if a cut fails in the end, or nothing could be pruned if it were to succeed.
        TargetError: if the usual trials, which were left out before, leave nothing that can be pruned.
    """
    for left in reversed(range(decisions)):
        try:
            return graph, work(graph)
        except CutError as error:
            if not left or not isinstance(error.plan, Plan) or not error.plan.edits:
                raise
            drops = Plan(tuple(edit for edit in error.plan.edits if isinstance(edit, DropUnits)))
            try:
                graph = read((*graph.tried, drops))
            except PlanError:  # trials that had been left out up to now have pinned what it removes
                graph = read(graph.tried)
            except (TargetError, TraceError):
                raise error from None
    raise AssertionError("the last decision returns or raises")

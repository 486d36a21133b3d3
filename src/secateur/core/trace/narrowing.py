"""Which groups must stay whole, where nobody can say what code does with their widths: those whose cut breaks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.core.plan import DropUnits, Edit, Plan

_MOST = 40  # trials, each a cut and some runs


class _TooMany(Exception):
    pass


def culprits(plan: Plan, breaks: Callable[[Plan], bool]) -> frozenset[str]:
    """Return the groups of a plan whose cut breaks a network; none where all do, or it takes too long to find them.

    Where parts of a plan break nothing, and the whole does, they break it together.

    Args:
        plan: breaks the network.
        breaks: tells the same of a part of it.
    """
    left = _MOST

    def among(edits: Sequence[Edit]) -> Sequence[Edit]:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooMany
        return inside(edits) if breaks(Plan(tuple(edits))) else ()

    def inside(edits: Sequence[Edit]) -> Sequence[Edit]:
        if len(edits) == 1:
            return edits
        middle = len(edits) // 2
        return [*among(edits[:middle]), *among(edits[middle:])] or edits

    try:
        found = inside(plan.edits)
    except _TooMany:
        return frozenset()
    names = frozenset(edit.group for edit in found if isinstance(edit, DropUnits))
    return names if len(found) < len(plan.edits) else frozenset()

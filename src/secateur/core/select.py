"""From scores to a plan: which units go first, and how many until the target is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.core.graph import Graph, Group, within
from secateur.core.limits import Limits
from secateur.core.plan import DropUnits, Plan
from secateur.core.size import Target, ruler, size
from secateur.errors import SettingError, TargetError

Scope = Literal["uniform", "global"]

CLOSE = 0.98
"""A plan that leaves this share of what it may needs no widths between its multiples."""
_HALVINGS = 4  # of multiples, where it leaves less
_FINEST = 4  # multiple below which depthwise convolutions fall off a cliff; narrower groups do not matter


@dataclass(frozen=True)
class Step:
    """Units of one group that go together, in the order in which a family removes them."""

    group: str
    units: tuple[int, ...]


def steps(group: Group, scores: Tensor, limits: Limits) -> list[Step]:
    """Cut a group's units, lowest score first, into the steps by which it may shrink.

    Args:
        group: the group.
        scores: ``(group.size,)``; low goes first, ``inf`` never goes; ties go in the order of their numbers.
        limits: floors and multiples.
    """
    order = torch.argsort(scores.double(), stable=True).tolist()
    removable = int(torch.isfinite(scores).sum())
    removable = min(removable, group.size - min(limits.min_units, group.size))
    done: list[Step] = []
    start, multiple = 0, limits.multiple_of(group)
    while start < removable:
        left = group.size - start
        step = left % multiple or multiple
        if start + step > removable or left - step < 1:
            break
        done.append(Step(group.name, tuple(order[start : start + step])))
        start += step
    return done


def family(graph: Graph, scores: Mapping[str, Tensor], scope: Scope, limits: Limits) -> list[Step]:
    """Order the steps of all groups: ``uniform`` takes the same share of every group, ``global`` the lowest score.

    Any prefix of the result is a plan, and a longer prefix removes more: sizes fall unit by unit. Where widths are
    multiples, many steps take the same share; then groups that few layers touch come first, since half of a residual
    stream is missed in every layer that reads it.

    Args:
        graph: the network.
        scores: for each group to prune, ``(size,)``; comparable between groups if the scope is global.
        scope: how groups compete.
        limits: floors and multiples.
    """
    keyed: list[tuple[float, int, int, int, Step]] = []
    for place, group in enumerate(graph.free):
        if group.name not in scores:
            continue
        touched = len(group.members) if limits.multiple_of(group) > 1 else 0
        gone = 0
        values: list[float] = scores[group.name].tolist()
        for step in steps(group, scores[group.name], limits):
            gone += len(step.units)
            highest = max(values[unit] for unit in step.units)
            keyed.append((gone / group.size if scope == "uniform" else highest, touched, place, gone, step))
    keyed.sort(key=lambda item: item[:4])
    if scope == "global":  # a step may not overtake an earlier one of its group whose score ties
        keyed = _in_group_order(keyed)
    return [step for *_, step in keyed]


def _in_group_order(keyed: list[tuple[float, int, int, int, Step]]) -> list[tuple[float, int, int, int, Step]]:
    running: dict[int, float] = {}
    out: list[tuple[float, int, int, int, Step]] = []
    for key, touched, place, gone, step in sorted(keyed, key=lambda item: item[2:4]):
        running[place] = max(key, running.get(place, float("-inf")))
        out.append((running[place], touched, place, gone, step))
    return sorted(out, key=lambda item: item[:4])


def fit(
    graph: Graph,
    ordered: Sequence[Step],
    target: Target,
    start: Plan | None = None,
    *,
    limits: Limits | None = None,
) -> Plan:
    """Return the plan that takes just as many steps as the target needs, and no more.

    Where steps are of several units, the last one takes more than is needed: then those steps that still fit under the
    target are given back, the last first, and on finer widths parts of steps, until the target is met closely.

    Args:
        graph: the network.
        ordered: steps in the order of removal, from ``family``.
        target: what may be kept.
        start: units that go in any case.
        limits: those that the steps were made for, where finer widths than theirs may be taken; None: they may not.

    Raises:
        TargetError: if even all steps leave too much; says the smallest fraction that can be reached.
    """
    rule = ruler(graph)
    base = graph.kept(start or Plan())
    whole = rule.measure(target.of, torch.ones(graph.units, dtype=torch.bool))
    goal = target.most(whole)

    places = [graph.offsets[step.group] + unit for step in ordered for unit in step.units]
    turns = [turn for turn, step in enumerate(ordered) for _ in step.units]
    leaves = torch.full((graph.units,), len(ordered))  # at which step each unit goes
    leaves[torch.tensor(places, dtype=torch.long)] = torch.tensor(turns, dtype=torch.long)

    def kept(count: int) -> Tensor:
        return base & (leaves >= count)

    low, high = 0, len(ordered)
    if rule.measure(target.of, kept(high)) > goal:
        reachable = rule.measure(target.of, kept(high)) / whole
        raise TargetError(
            f"cannot keep only {target.keep:.3g} of the {target.of}: with everything prunable removed "
            f"{_rounded_up(reachable)} remain; ask for at least that, or allow more layers"
            f"{_not_counted(graph, target)}",
            reachable,
        )
    while low < high:
        middle = (low + high) // 2
        if rule.measure(target.of, kept(middle)) <= goal:
            high = middle
        else:
            low = middle + 1
    keep = kept(low)
    if any(len(step.units) > 1 for step in ordered):
        _give_back(graph, ordered[:low], keep, lambda: rule.measure(target.of, keep), goal, limits)
    return plan_of(graph, keep)


def _not_counted(graph: Graph, target: Target) -> str:
    return f" ({size(graph).missing})" if target.of == "macs" and graph.uncounted else ""


def _give_back(
    graph: Graph, taken: Sequence[Step], keep: Tensor, measure: Callable[[], int], goal: int, limits: Limits | None
) -> None:
    """Take back, in place, what still fits under a goal: first whole steps, then as much as leads to finer widths.

    In each group the last that went comes back first; the last step of all begins.
    """

    def back(name: str, units: Sequence[int]) -> bool:
        places = graph.offsets[name] + torch.tensor(units)
        keep[places] = True
        if measure() <= goal:
            return True
        keep[places] = False
        return False

    gone: dict[str, list[int]] = {}  # the group that was cut last comes first
    for step in reversed(taken):
        if step.group in gone or not back(step.group, step.units):
            gone[step.group] = [*step.units, *gone.get(step.group, ())]
    for halvings in range(1, _HALVINGS + 1 if limits else 1):
        assert limits is not None
        for name, left in gone.items():
            group = graph.group(name)
            multiple = limits.multiple_of(group)
            fine = max(multiple >> halvings, min(multiple, _FINEST if multiple > _FINEST else 1))
            while left and fine < multiple and measure() < CLOSE * goal:
                more = fine - (group.size - len(left)) % fine
                if not back(name, left[-more:]):
                    break
                del left[-more:]


def meet(
    graph: Graph, order: Callable[[Limits], Sequence[Step]], target: Target, limits: Limits, start: Plan | None = None
) -> Plan:
    """Return ``fit`` of an order on the widths that the limits ask for, or on finer ones where these cannot reach.

    Args:
        graph: the network.
        order: steps in the order of removal under limits, from ``family``.
        target: what may be kept.
        limits: floors and multiples; only ``multiple="auto"`` is refined.
        start: units that go in any case.

    Raises:
        TargetError: if no widths reach the target.
    """
    while True:
        try:
            return fit(graph, order(limits), target, start, limits=limits if limits.auto else None)
        except TargetError:
            finer = limits.finer(graph.free)
            if finer is None:
                raise
            limits = finer


def _rounded_up(fraction: float) -> str:
    """Write three digits of a positive fraction, never less than it is: who asks for that much gets it."""
    scale = 10.0 ** (2 - math.floor(math.log10(fraction)))
    return f"{math.ceil(fraction * scale - 1e-9) / scale:.3g}"


def plan_of(graph: Graph, keep: Tensor) -> Plan:
    """Return the plan that drops exactly the units with ``keep`` False; groups in graph order."""
    edits: list[DropUnits] = []
    for group in graph.groups:
        first = graph.offsets[group.name]
        gone = torch.nonzero(~keep[first : first + group.size]).flatten().tolist()
        if gone:
            edits.append(DropUnits(group.name, tuple(gone)))
    return Plan(tuple(edits))


def by_share(
    graph: Graph, scores: Mapping[str, Tensor], keeps: Sequence[tuple[str, float]], limits: Limits
) -> tuple[Plan, frozenset[str]]:
    """Drop a fixed share of the groups that patterns name; the last pattern that matches a group decides.

    The number that stays is ``int(size * keep)``, at least ``limits.min_units``, as in Li et al. (2017); more where a
    multiple wants it (``Limits.multiple_near``).

    Args:
        graph: the network.
        scores: ``(size,)`` for each group.
        keeps: (pattern of the names of layers or of modules around them, see ``within``; fraction that stays).
        limits: floors and multiples.

    Returns:
        The plan, and the names of the groups that it has settled.

    Raises:
        SettingError: if a pattern matches no group.
    """
    shares: dict[str, float] = {}
    for pattern, share in keeps:
        names = [g.name for g in graph.free if any(within(n, pattern) for n in (g.name, *g.layers))]
        if not names:
            raise SettingError(f"no prunable layer matches '{pattern}'; see `secateur explain` for their names")
        shares.update(dict.fromkeys(names, share))
    keep = torch.ones(graph.units, dtype=torch.bool)
    for name, share in shares.items():
        group = graph.group(name)
        # the product of two decimals may fall a hair below the integer that was meant
        goal = int(group.size * share + 1e-9)
        left = group.size
        for step in steps(group, scores[name], Limits(limits.min_units, limits.multiple_near(group, goal))):
            if left - len(step.units) < goal:
                break
            keep[graph.offsets[name] + torch.tensor(step.units)] = False
            left -= len(step.units)
    return plan_of(graph, keep), frozenset(shares)

"""From scores to a plan: which units go first, and how many until the target is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from secateur.core.graph import Graph, Group, within
from secateur.core.plan import DropUnits, Plan
from secateur.core.selection.stopping import CLOSE, FAR, Step, Taking, finest
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, ruler, size
from secateur.errors import SettingError, TargetError

__all__ = ["CLOSE", "Scope", "Step", "by_share", "check_reach", "family", "fit", "meet", "plan_of", "steps"]

Scope = Literal["uniform", "global"]


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
            key = gone / group.size if scope == "uniform" else max(values[unit] for unit in step.units)
            keyed.append((key, touched, place, gone, step))
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
    swap: bool = False,
) -> Plan:
    """Return the plan that takes just as many steps as the target needs, and no more.

    Where the last one takes more than is needed, those steps are given back that still fit under the target, see
    ``Taking``.

    Args:
        graph: the network.
        ordered: steps in the order of removal, from ``family``.
        target: what may be kept.
        start: units that go in any case.
        limits: those that the steps were made for, where finer widths than theirs may be taken; None: they may not.
        swap: whether a group may lose less than its turn, and others more, where the target is missed by far otherwise.

    Raises:
        TargetError: if even all steps leave too much; says the smallest fraction that can be reached.
    """
    rule = ruler(graph)
    whole = rule.measure(target.of, torch.ones(graph.units, dtype=torch.bool))
    taking = Taking(graph, ordered, graph.kept(start or Plan()), partial(rule.measure, target.of), target.most(whole))
    found = taking.nearest(limits, swap=swap)
    if found is None:
        raise _beyond(graph, target, taking.least / whole)
    return plan_of(graph, found)


def check_reach(graph: Graph, target: Target, limits: Limits) -> None:
    """Refuse a target that no choice of units can meet, on the finest widths that the limits allow.

    Raises:
        TargetError: with the smallest fraction that can be reached.
    """
    while (finer := limits.finer(graph.free)) is not None:
        limits = finer
    everything = [step for group in graph.free for step in steps(group, torch.zeros(group.size), limits)]
    rule = ruler(graph)
    whole = rule.measure(target.of, torch.ones(graph.units, dtype=torch.bool))
    most = target.most(whole)
    least = Taking(graph, everything, graph.kept(Plan()), partial(rule.measure, target.of), most).least
    if least > most:
        raise _beyond(graph, target, least / whole)


def _beyond(graph: Graph, target: Target, reachable: float) -> TargetError:
    return TargetError(
        f"cannot keep only {target.keep:.3g} of the {target.of}: with everything prunable removed "
        f"{_rounded_up(reachable)} remain; ask for at least that, or allow more layers"
        f"{_not_counted(graph, target)}",
        reachable,
    )


def _not_counted(graph: Graph, target: Target) -> str:
    return f" ({size(graph).missing})" if target.of == "macs" and graph.uncounted else ""


def meet(
    graph: Graph,
    order: Callable[[Limits], Sequence[Step]],
    target: Target,
    limits: Limits,
    start: Plan | None = None,
    *,
    swap: bool = True,
) -> Plan:
    """Return ``fit`` of an order on the widths that the limits ask for.

    Where these cannot reach the target, or miss it by far although steps were swapped, finer widths are taken.

    Args:
        graph: the network.
        order: steps in the order of removal under limits, from ``family``.
        target: what may be kept.
        limits: floors and multiples; only ``multiple="auto"`` is refined.
        start: units that go in any case.
        swap: as for ``fit``; not for an order that leads to the best widths.

    Raises:
        TargetError: if no widths reach the target.
    """
    while True:
        own = limits if limits.auto else None
        try:
            found = fit(graph, order(limits), target, start, limits=own, swap=swap)
            break
        except TargetError:
            finer = limits.finer(graph.free)
            if finer is None:
                raise
            limits = finer
    if swap and own is not None and _left(graph, target, found) < FAR:
        fine = replace(limits, halvings=0, by_group=tuple((g.name, finest(limits.multiple_of(g))) for g in graph.free))
        other = fit(graph, order(fine), target, start, swap=True)
        return max(found, other, key=partial(_left, graph, target))
    return found


def _left(graph: Graph, target: Target, plan: Plan) -> float:
    """Return what a plan leaves, as a share of what it may leave."""
    rule = ruler(graph)
    whole = rule.measure(target.of, torch.ones(graph.units, dtype=torch.bool))
    return rule.measure(target.of, graph.kept(plan)) / max(1, target.most(whole))


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

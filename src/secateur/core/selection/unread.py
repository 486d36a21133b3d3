"""Units that nothing reads any more once weights are zero: they can go, and the network computes what it did."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.plan import DropUnits
from secateur.core.sizes.limits import Limits


def unread_units(graph: Graph, masks: Mapping[str, Tensor], limits: Limits) -> tuple[DropUnits, ...]:
    """Return the units of free groups all of whose readers are zero, and those that only such units read.

    Units over which statistics run are never among them, nor are any where outputs may lose channels, for then
    somebody else may read them.

    Args:
        graph: the network.
        masks: for each weight by name what stays (True), of its shape; other weights stay whole.
        limits: floors and multiples of widths; of a group whose width would fit neither the last units stay.
    """
    if graph.free_outputs:
        return ()
    able = torch.zeros(graph.units, dtype=torch.bool)
    for group in graph.free:
        if any(member.role == "reads" for member in group.members):
            able[graph.offsets[group.name] : graph.offsets[group.name] + group.size] = True
    for statistic in graph.statistics:
        able[statistic.units[statistic.units >= 0]] = False
    gone = torch.zeros(graph.units, dtype=torch.bool)
    while True:
        found = _within(graph, able & ~_read(graph, masks, gone), limits)
        if torch.equal(found, gone):
            break
        gone = found
    drops: list[DropUnits] = []
    for group in graph.free:
        units = gone[graph.offsets[group.name] : graph.offsets[group.name] + group.size].nonzero().flatten().tolist()
        if units:
            drops.append(DropUnits(group.name, tuple(units)))
    return tuple(drops)


def _read(graph: Graph, masks: Mapping[str, Tensor], gone: Tensor) -> Tensor:
    """Return which units some weight reads that is not zero, ``(graph.units,)``, where some units have gone."""
    read = torch.zeros(graph.units, dtype=torch.bool)
    for name, roles in graph.roles.items():
        shape, dims = graph.tensors[name]
        for dim, (role, units) in enumerate(zip(roles, dims, strict=True)):
            if role != "reads" or units is None:
                continue
            stays = masks[name] if name in masks else torch.ones((), dtype=torch.bool).expand(shape)
            for other, makes in enumerate(dims):
                if makes is not None and other != dim:
                    left = (makes < 0) | ~gone[makes]
                    stays = stays & left.reshape([-1 if d == other else 1 for d in range(len(shape))])
            used = stays.movedim(dim, 0).flatten(1).any(1) & (units >= 0)
            read[units[used]] = True
    return read


def _within(graph: Graph, gone: Tensor, limits: Limits) -> Tensor:
    """Return which of these units can go under floors and multiples."""
    found = torch.zeros_like(gone)
    for group in graph.free:
        first = graph.offsets[group.name]
        units = gone[first : first + group.size].nonzero().flatten()
        multiple, floor = limits.multiple_of(group), min(limits.min_units, group.size)
        left = -(-max(group.size - len(units), floor) // multiple) * multiple
        if left < group.size:
            found[first + units[: group.size - left]] = True
    return found

"""Which units a layer reads, and in which columns of its weight they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.graph import Graph, layer_of


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of the units of one group in what some outputs of a layer read.

    Attributes:
        group: name of the group.
        columns: their numbers, unit by unit.
        units: the unit of each of them.
        each: most columns that one unit has.
    """

    group: str
    columns: Tensor
    units: Tensor
    each: int


def units_read(graph: Graph, layer: str) -> Tensor | None:
    """Return the graph-wide unit of each input of a layer, -1 = fixed; None if it reads no unit.

    A depthwise convolution reads none: it passes each unit on to whoever reads it.
    """
    weight = f"{layer}.weight"
    if layer in graph.convolutions:
        units = graph.convolutions[layer]
        return units if graph.tensors[weight][0][1] > 1 and bool((units >= 0).any()) else None
    if "reads" not in graph.roles.get(weight, ()):
        return None
    units = graph.tensors[weight][1][graph.roles[weight].index("reads")]
    return units if units is not None and bool((units >= 0).any()) else None


def readers(graph: Graph) -> dict[str, list[str]]:
    """Return for each free group the names of the layers that read its units."""
    found: dict[str, list[str]] = {group.name: [] for group in graph.free}
    for layer in dict.fromkeys(layer_of(tensor) for tensor in graph.tensors if tensor.endswith(".weight")):
        units = units_read(graph, layer)
        for part in [] if units is None else columns(graph, units, 1):
            found[part.group].append(layer)
    return found


def columns(graph: Graph, units: Tensor, taps: int) -> Iterator[Columns]:
    """Yield the columns of each free group.

    Args:
        graph: the network.
        units: graph-wide unit of each input, -1 = fixed.
        taps: columns for each input, such as the 9 of a 3x3 kernel.
    """
    for group in graph.free:
        start = graph.offsets[group.name]
        places = torch.nonzero((units >= start) & (units < start + group.size)).flatten()
        if not len(places):
            continue
        unit = (units[places] - start).repeat_interleave(taps)
        found = (places[:, None] * taps + torch.arange(taps)).flatten()
        order = torch.argsort(unit, stable=True)
        each = int(torch.bincount(unit, minlength=group.size).max())
        yield Columns(group.name, found[order], unit[order], each)


def evened(inverse: Tensor, weight: Tensor, own: Columns) -> tuple[Tensor, Tensor, Tensor]:
    """Give every unit that is read the same number of columns: those that are added touch nothing and weigh nothing.

    Args:
        inverse: ``(columns, columns)``.
        weight: ``(columns, outputs)``.
        own: which unit each column belongs to.

    Returns:
        Both, and which units are read, ascending.
    """
    read, number, counts = own.units.unique(return_inverse=True, return_counts=True)
    size = len(read) * own.each
    if len(own.units) == size:
        return inverse.contiguous(), weight.contiguous(), read
    place = number * own.each + torch.arange(len(number)) - (counts.cumsum(0) - counts)[number]
    wide = torch.eye(size, dtype=inverse.dtype)
    wide[place[:, None], place] = inverse
    padded = weight.new_zeros(size, weight.shape[1])
    padded[place] = weight
    return wide, padded, read

"""What one unit costs to make, for methods that weigh what a unit does against it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.core.graph import Graph, layer_of


def making_flops(graph: Graph) -> Tensor:
    """Return the floating-point operations that make each unit, ``(graph.units,)`` float64.

    A layer that makes a map of H x W from C maps by kernels of K x K takes 2 H W (C K K + 1), two for each
    multiply-accumulate and two for the bias, counted whether there is one or not; a unit that several layers or calls
    make takes the sum, one of several channels that of all of them. Of transposed convolutions H x W is the input.
    """
    calls: dict[str, list[int]] = {}
    for cost in graph.costs:
        calls.setdefault(cost.layer, []).append(cost.scale)
    found = torch.zeros(graph.units, dtype=torch.float64)
    for name, roles in graph.roles.items():
        shape, dims = graph.tensors[name]
        units = dims[roles.index("makes")] if "makes" in roles and len(shape) > 1 else None
        if units is None or not name.endswith("weight"):
            continue
        kernel, reads = math.prod(shape[2:]), math.prod(shape) // len(units)
        rows = torch.bincount(units[units >= 0], minlength=graph.units).double()
        for scale in calls.get(layer_of(name), ()):
            found += rows * (2 * scale // kernel * (reads + 1))
    return found

"""Few patterns for the kernels of a layer: which positions inside a kernel stay, chosen from what the kernels hold.

All patterns of a layer keep the same number of positions. What shares one, a single kernel or all kernels of a map, is
its *owner*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.zeros import patterns

Per = Literal["layer", "filter", "input"]

MOST = 1024
"""Patterns that are considered in a layer, those that are best for most of its owners; 3x3 kernels have 126 at most."""

_ROWS = 8192  # owners at a time, which bounds the memory


def owners(graph: Graph, name: str, per: Per) -> Tensor:
    """Return who owns each kernel of a convolution, ``weight.shape[:2]``, int64 from 0.

    Args:
        graph: the network.
        name: of the weight.
        per: ``layer``: every kernel has a pattern of its own choice; ``filter``: all kernels that make a map share one;
            ``input``: all kernels that leave a map share one.
    """
    rows, columns = graph.tensors[name][0][:2]
    if per == "layer":
        return torch.arange(rows * columns).reshape(rows, columns)
    transposed, groups = graph.roles[name].index("reads") == 0, patterns.groups_of(graph, name)
    if transposed:
        return (torch.arange(rows)[:, None] if per == "input" else torch.arange(columns)[None]).expand(rows, columns)
    if per == "filter":
        return torch.arange(rows)[:, None].expand(rows, columns)
    first = torch.arange(groups).repeat_interleave(rows // groups) * columns
    return first[:, None] + torch.arange(columns)


def pooled(weight: Tensor, owner: Tensor) -> Tensor:
    """Return the sum of ``|w|`` at each position over the kernels of each owner, (owners, positions) float64."""
    kernels = weight.detach().cpu().double().abs().flatten(2).flatten(0, 1)
    return kernels.new_zeros(int(owner.max()) + 1, kernels.shape[1]).index_add_(0, owner.flatten(), kernels)


def own_best(values: Tensor, count: int) -> Tensor:
    """Return the pattern of the largest values of each owner, (owners, positions) boolean; of equal ones the first."""
    best = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, best, True)


def choose(values: Tensor, count: int, most: int) -> Tensor:
    """Choose patterns one by one, each time the one with which all owners together keep most (facility location).

    Considered are patterns that are the best of some owner. What is kept with the first patterns is the same, however
    many are chosen, so it never falls with their number.

    Args:
        values: (owners, positions), at least 0.
        count: positions that a pattern keeps.
        most: patterns that are chosen at most; fewer where no further one keeps more.

    Returns:
        (patterns, positions) boolean, in the order of choice.
    """
    known, uses = own_best(values, count).unique(dim=0, return_counts=True)
    known = known[uses.argsort(descending=True, stable=True)[:MOST]]
    kept, chosen = values.new_zeros(len(values)), list[int]()
    for _ in range(min(most, len(known))):
        gains = sum(((part @ known.T.double()) - kept[rows, None]).clamp_min(0).sum(0) for rows, part in _parts(values))
        gains = torch.as_tensor(gains)
        gains[chosen] = -1.0
        best = int(gains.argmax())
        if chosen and gains[best] <= 0:
            break
        chosen.append(best)
        kept = torch.maximum(kept, values @ known[best].double())
    return known[chosen]


def assigned(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen pattern with which each owner keeps most, (owners, positions); of equal ones the first."""
    return torch.cat([chosen[(part @ chosen.T.double()).argmax(1)] for _, part in _parts(values)])


def mask(weight: Tensor, owner: Tensor, count: int, most: int) -> Tensor:
    """Return the mask (True = keep) of a weight with at most so many patterns, that keep ``count`` positions each."""
    values = pooled(weight, owner)
    found = assigned(values, choose(values, count, most))
    return found[owner.flatten()].reshape(weight.shape)


def counts_for(share: float, shape: tuple[int, ...]) -> int:
    """Return how many positions of a kernel stay if about this share of all weights does: at least one."""
    return max(1, int(share * math.prod(shape[2:]) + 1e-9))


def _parts(values: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, values[rows]

"""Graphs without a network, whose sizes a person can add up."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.graph import Cost, Graph, Group
from secateur.core.graph.written_sizes import Axis


def toy(*sizes: int, prices: tuple[int, ...] = (), fixed: int = 0) -> Graph:
    """Groups a, b, c ... of these sizes; a unit of each costs its price in MACs, beside a fixed cost."""
    groups = tuple(Group(chr(ord("a") + i), n, ()) for i, n in enumerate(sizes))
    costs: list[Cost] = [Cost("rest", 1, (Axis(fixed, torch.zeros(0, dtype=torch.long)),))]
    first = 0
    for i, n in enumerate(sizes):
        costs.append(Cost(groups[i].name, prices[i] if prices else 1, (Axis(0, torch.arange(first, first + n)),)))
        first += n
    return Graph(groups, (), {}, frozenset(), tuple(costs), {}, (), (), {})


def scored(**scores: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in scores.items()}

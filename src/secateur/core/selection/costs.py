"""What thinner networks cost: a sum of terms that few groups decide each, exact sizes or measured times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.graph.written_sizes import Axis, count
from secateur.core.selection.target_selection import Step
from secateur.core.sizes.size import Measure


@dataclass(frozen=True, eq=False)
class TimeTerm:
    """A part of a network's time that the widths of few groups decide, such as the time of a layer.

    Attributes:
        groups: names of the groups that it depends on.
        milliseconds: takes which units of the graph are kept, ``(graph.units,)`` bool.
    """

    groups: frozenset[str]
    milliseconds: Callable[[Tensor], float]


@dataclass(frozen=True, eq=False)
class Times:
    """How long the networks take that a graph can be thinned to, as a sum of terms.

    Attributes:
        terms: the parts.
        orders: of steps, which ``by_latency`` has been asked for.
    """

    terms: tuple[TimeTerm, ...]
    orders: dict[tuple[object, ...], list[Step]] = field(default_factory=dict[tuple[object, ...], list[Step]])

    def milliseconds(self, keep: Tensor) -> float:
        """Return the time of the network that keeps these units, ``(graph.units,)`` bool."""
        return sum(term.milliseconds(keep) for term in self.terms)


@dataclass(frozen=True, eq=False)
class Product:
    """A part of a network's size: ``scale`` times the product of what is left of some axes."""

    scale: int
    axes: tuple[Axis, ...]

    def of(self, keep: Tensor) -> int:
        """Return the part that is left when these units are kept, ``(graph.units,)`` bool."""
        left = self.scale
        for axis in self.axes:
            left *= count(axis, keep)
        return left


@dataclass(frozen=True, eq=False)
class Sizes:
    """The exact sizes of the networks that a graph can be thinned to, as a sum of terms."""

    terms: tuple[Product, ...]

    @staticmethod
    def of(graph: Graph, measure: Measure) -> Sizes:
        """Return the sizes in one measure; single weights that are set to zero count as parameters.

        Args:
            graph: the network.
            measure: what is counted.
        """
        if measure == "macs":
            return Sizes(tuple(Product(cost.scale, cost.axes) for cost in graph.costs))
        if measure == "units":
            offsets = graph.offsets
            spans = [torch.arange(offsets[group.name], offsets[group.name] + group.size) for group in graph.groups]
            return Sizes(tuple(Product(1, (Axis(0, span),)) for span in spans))
        return Sizes(tuple(_parameters(graph, name) for name in sorted(graph.parameters)))

    def measure(self, keep: Tensor) -> int:
        """Return the size of the network that keeps these units, ``(graph.units,)`` bool."""
        return sum(term.of(keep) for term in self.terms)


Costs = Times | Sizes


def _parameters(graph: Graph, name: str) -> Product:
    """Return how many elements of a tensor are left."""
    scale, axes = 1, list[Axis]()
    for size, units in zip(*graph.tensors[name], strict=True):
        if units is None:
            scale *= size
        else:
            axes.append(Axis(int((units < 0).sum()), units[units >= 0]))
    return Product(scale, tuple(axes))

"""How active units are on images, and how the loss answers to gates on them, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.surgery import Inputs, run
from secateur.errors import DataError
from secateur.measure.forward import device_of, moved
from secateur.measure.gradient import loss_with_gradient
from secateur.measure.unit_sites import Position, Seen, watching
from secateur.tasks import Task

Where = Mapping[Position, Tensor]
"""At which position which units are looked at, ``(graph.units,)`` boolean each, see ``unit_sites.shared_out``."""


@dataclass(frozen=True, eq=False)
class Activity:
    """What units sent over all images and positions, ``(graph.units,)`` float64 each, on the CPU; 0 where not seen.

    Attributes:
        numbers: how many values were seen of each unit.
        zeros: the share of them whose size is at most the limit, by default of exact zeros.
        mean: their mean.
        size: the mean of their absolute values.
        square: the mean of their squares.
    """

    numbers: Tensor
    zeros: Tensor
    mean: Tensor
    size: Tensor
    square: Tensor


def activity(
    model: nn.Module, graph: Graph, batches: Iterable[Inputs], where: Where, limit: Tensor | None = None
) -> Activity:
    """Run a network in evaluation mode over images and add up what its units send.

    Args:
        model: the network, left as it is.
        graph: its graph.
        batches: what its forward takes.
        where: at which position each unit is looked at; all layers that show it there count alike.
        limit: size up to which a value of a unit counts as zero, ``(graph.units,)``; None for exact zeros.

    Raises:
        DataError: if there is no batch.
    """
    wide, sums = torch.float64, torch.zeros(5, graph.units, dtype=torch.float64)
    limits = torch.zeros(graph.units, dtype=torch.float64) if limit is None else limit

    def hear(seen: Seen) -> None:
        known = seen.units >= 0
        values = seen.rows(seen.values.detach()).transpose(0, 1).flatten(1)[known.to(seen.values.device)]
        units = seen.units[known]
        sizes, least = values.abs(), limits[units].to(values)[:, None]
        columns = [(sizes <= least).sum(1), values.sum(1, dtype=wide), sizes.sum(1, dtype=wide)]
        columns = [torch.full((len(units),), values.shape[1]), *columns, values.square().sum(1, dtype=wide)]
        for total, column in zip(sums, columns, strict=True):
            total.index_add_(0, units, column.double().cpu())

    device, count = device_of(model), 0
    with ExitStack() as stack:
        for position, units in where.items():
            stack.enter_context(watching(model, graph, position, hear, units))
        for batch in batches:
            run(model, moved(batch, device))
            count += 1
    if not count:
        raise DataError("there is no batch of images to look at; give the method more images")
    return Activity(sums[0], *(sums[1:] / sums[0].clamp(min=1.0)))


@dataclass(frozen=True, eq=False)
class GateGradient:
    """How the loss of one batch answers to gates on units.

    A gate multiplies all that its unit sends, to all layers and from all layers that make it, and stands at one. So the
    derivative is, to first order, by how much the loss falls when the unit goes.

    Attributes:
        gradients: ``(examples, graph.units)`` float64, derivative of the *mean* loss of the batch by a gate on the unit
            in one example alone: the sum of activation times gradient over all places and positions.
        positions: ``(graph.units,)`` how many values a unit has in an example, at one place, on average.
    """

    gradients: Tensor
    positions: Tensor


def gate_gradients(
    model: nn.Module, graph: Graph, batches: Iterable[Any], task: Task, where: Where
) -> Iterator[GateGradient]:
    """Yield the derivatives of the loss by gates on units, batch by batch.

    Where the first dimension of a tensor is not that of the examples but a multiple, so many rows that follow each
    other belong to an example; where it is no multiple, each example gets an equal share of the whole.

    Args:
        model: the network; a copy of it is run.
        graph: its graph.
        batches: as the task takes them.
        task: says what the loss is.
        where: at which position each unit is looked at; before its norm, a gate spares what the norm adds.
    """
    model = copy.deepcopy(model).requires_grad_(True)
    for batch in batches:
        gathered = _Gathered(graph.units, task.count(batch))
        with ExitStack() as stack:
            for position, units in where.items():
                hear = partial(gathered.hear, kept=position != "read")
                stack.enter_context(watching(model, graph, position, hear, units))
            model.zero_grad(set_to_none=True)
            loss = loss_with_gradient(model, batch, task)
        if loss.requires_grad:
            loss.backward()
        yield GateGradient(gathered.gradients, gathered.elements / gathered.places.clamp(min=1.0))


class _Gathered:
    """Products of activations and gradients of one batch, example by example and unit by unit."""

    def __init__(self, units: int, examples: int) -> None:
        self.gradients = torch.zeros(examples, units, dtype=torch.float64)
        self.elements = torch.zeros(units, dtype=torch.float64)
        self.places = torch.zeros(units, dtype=torch.float64)

    def hear(self, seen: Seen, *, kept: bool) -> Tensor | None:
        """Multiply the values with their gradient once it is known; ``kept`` from being written into until then.

        A layer that reads them gets an alias, whose gradient is that of this reader alone.
        """
        if not seen.values.requires_grad:
            return None
        values = seen.values.detach().clone() if kept else seen.values.detach()
        known = seen.units >= 0
        units = seen.units[known]
        in_one = values.numel() / (len(seen.units) * max(1, len(self.gradients)))
        self.elements.index_add_(0, units, torch.full((len(units),), in_one, dtype=torch.float64))
        self.places[units.unique()] += 1.0

        def add(gradient: Tensor) -> None:
            products = seen.rows(values) * seen.rows(gradient)
            sums = self._by_example(products.sum(2, dtype=torch.float64).cpu())
            self.gradients.index_add_(1, units, sums[:, known])

        alias = seen.values if kept else seen.values.view_as(seen.values)
        alias.register_hook(add)
        return alias

    def _by_example(self, sums: Tensor) -> Tensor:
        examples = len(self.gradients)
        if len(sums) % examples == 0:
            return sums.unflatten(0, (examples, -1)).sum(1)
        return sums.sum(0).expand(examples, -1) / examples

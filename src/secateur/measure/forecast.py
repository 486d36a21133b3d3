"""How long a thin network will take, from the times of its layers, before it is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, staying
from secateur.core.selection.costs import Times, TimeTerm
from secateur.core.sizes.size import ruler
from secateur.measure.forward import ExampleInputs, call, device_of, evaluating, moved
from secateur.measure.layer_table import CONVOLUTIONS, Convolution, LayerShape, LayerTable


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer in the dense network."""

    name: str
    module: Convolution | nn.Linear
    input: tuple[int, ...]


@dataclass(frozen=True)
class LayerTime:
    """One call of a layer, dense and thin: widths, MACs and milliseconds."""

    name: str
    dense: LayerShape
    thin: LayerShape
    before: float
    after: float


@dataclass(eq=False)
class Forecast:
    """Times of networks that a graph can be thinned to.

    The time of a network is taken to be that of its convolutions and linear layers, each measured alone, and of a
    rest that goes with the number of activations; both are scaled so that the dense network takes what it was measured
    to take. What layers cost each other (layouts, caches) is not in it, so the last word is a measurement of the whole.

    Attributes:
        graph: of the dense network.
        table: the times of layers.
        calls: the layers in the order of execution.
        whole: milliseconds of the dense network, measured.
    """

    graph: Graph
    table: LayerTable
    calls: tuple[LayerCall, ...]
    whole: float

    @staticmethod
    def of(model: nn.Module, graph: Graph, inputs: ExampleInputs, table: LayerTable, whole: float) -> Forecast:
        """Run the dense network once to see what its layers are given."""
        return Forecast(graph, table, layer_calls(model, inputs), whole)

    def milliseconds(self, keep: Tensor) -> float:
        """Return the time of the network that keeps these units, ``(graph.units,)`` bool."""
        parts, activations = self._parts(keep)
        dense_parts, dense_activations = self._dense
        scale = min(1.0, self.whole / dense_parts) if dense_parts else 1.0
        rest = max(0.0, self.whole - dense_parts)
        return parts * scale + rest * activations / max(1, dense_activations)

    @cached_property
    def times(self) -> Times:
        """Return the same as a sum over layers, each with the groups that decide its time."""
        dense_parts, dense_activations = self._dense
        scale = min(1.0, self.whole / dense_parts) if dense_parts else 1.0
        rest = max(0.0, self.whole - dense_parts) / max(1, dense_activations)
        known: dict[LayerShape, float] = {}  # the table looks texts up, too slow for thousands of looks

        def term(each: LayerCall) -> TimeTerm:
            def milliseconds(keep: Tensor) -> float:
                shape = self.shape(each, keep)
                if shape not in known:
                    known[shape] = self.table.milliseconds(shape) * scale + rest * int(np.prod(shape.output))
                return known[shape]

            return TimeTerm(self.groups_of(each.name), milliseconds)

        return Times(tuple(term(each) for each in self.calls))

    def groups_of(self, layer: str) -> frozenset[str]:
        """Return the names of the groups that a layer's shape depends on."""
        tensor, graph = f"{layer}.weight", self.graph
        dims = [*(graph.tensors[tensor][1] if tensor in graph.tensors else ()), graph.convolutions.get(layer)]
        units = torch.cat([torch.empty(0, dtype=torch.long), *(each[each >= 0] for each in dims if each is not None)])
        ends = torch.tensor([graph.offsets[group.name] + group.size for group in graph.groups], dtype=torch.long)
        found = torch.searchsorted(ends, units.unique(), right=True).unique().tolist()
        return frozenset(graph.groups[number].name for number in found)

    def layers(self, keep: Tensor) -> list[LayerTime]:
        """Return every call, dense and thin."""
        everything = torch.ones_like(keep)
        times: list[LayerTime] = []
        for each in self.calls:
            dense, thin = self.shape(each, everything), self.shape(each, keep)
            before, after = self.table.milliseconds(dense), self.table.milliseconds(thin)
            times.append(LayerTime(each.name, dense, thin, before, after))
        self.table.save()
        return times

    @property
    def rest(self) -> float:
        """Share of the dense network's time that is not in its convolutions and linear layers."""
        return max(0.0, 1.0 - self._dense[0] / self.whole) if self.whole else 0.0

    def shape(self, call: LayerCall, keep: Tensor) -> LayerShape:
        """Return the shape that a layer is left with."""
        rule = ruler(self.graph)
        tensor = f"{call.name}.weight"
        weight = rule.shape(tensor, keep) if tensor in self.graph.tensors else tuple(call.module.weight.shape)
        if isinstance(call.module, nn.Linear):
            return LayerShape.of(call.module, weight, (*call.input[:-1], weight[1]), 1)
        transposed = "Transpose" in type(call.module).__name__
        inputs = weight[0] if transposed else weight[1]  # of one group, unless transposed
        groups = call.module.groups
        if groups > 1:
            units = self.graph.convolutions.get(call.name)
            channels = call.input[1] if units is None else int(staying(units, keep).sum())
            if not transposed:
                groups = max(1, channels // max(1, inputs))
            inputs = channels
        return LayerShape.of(call.module, weight, (call.input[0], inputs, *call.input[2:]), groups)

    @cached_property
    def _dense(self) -> tuple[float, int]:
        return self._parts(torch.ones(self.graph.units, dtype=torch.bool))

    def _parts(self, keep: Tensor) -> tuple[float, int]:
        """Return the milliseconds of all layers alone, and how many activations they put out."""
        shapes = [self.shape(each, keep) for each in self.calls]
        times = sum(self.table.milliseconds(shape) for shape in shapes)
        return times, sum(int(np.prod(shape.output)) for shape in shapes)


def layer_calls(model: nn.Module, inputs: ExampleInputs) -> tuple[LayerCall, ...]:
    """Return the calls of convolutions and linear layers in one forward pass, in order.

    A call without a dimension of images, which layers take too, is that of a batch of one.
    """
    found: list[LayerCall] = []

    def note(name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                shape = tuple(args[0].shape)
                single = len(shape) == (module.weight.dim() - 1 if isinstance(module, CONVOLUTIONS) else 1)
                found.append(LayerCall(name, module, (1, *shape) if single else shape))

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.Linear))
    ]
    try:
        with evaluating(model), torch.inference_mode():
            call(model, moved(inputs, device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)

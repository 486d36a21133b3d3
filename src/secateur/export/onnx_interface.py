"""How an ONNX file is called: as the file was from which the network came, else as the exporter likes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.export.comparison import Call
from secateur.models.onnx_files import OnnxNetwork

BATCH = "batch"
"""What a free batch is called where nobody calls it otherwise."""


@dataclass(frozen=True)
class Called:
    """Names and layouts of a file.

    Attributes:
        inputs: names of the inputs; none: as the exporter names them.
        outputs: names of the outputs, likewise.
        last: which inputs have their channels last in the file.
        opset: version of the operators; 0 for the exporter's own.
        dynamic: whether the batch may be free.
        axes: what it is called then, by the names of inputs and outputs.
        example: inputs of the size of the batch that the file had, where that was fixed.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    last: tuple[bool, ...] = ()
    opset: int = 0
    dynamic: bool = True
    axes: Mapping[str, str] = field(default_factory=dict[str, str])
    example: Any = None

    def turned(self, call: Call) -> Call:
        """Return a call as the file takes it: pictures with their channels last where it has them so."""
        if not any(self.last):
            return call

        def to_last(x: Any, last: bool) -> Any:
            return x.permute(0, 2, 3, 1).contiguous() if last and isinstance(x, Tensor) else x

        return replace(call, args=tuple(to_last(x, last) for x, last in zip(call.args, self.last, strict=True)))

    def wrapped(self, network: nn.Module) -> nn.Module:
        """Return a network that takes its inputs as the file does."""
        if not any(self.last):
            return network
        graph = fx.Graph()
        given = [graph.placeholder(f"input_{number}") for number in range(len(self.last))]
        firsts = [
            graph.call_function(torch.permute, (x, (0, 3, 1, 2))) if last else x
            for x, last in zip(given, self.last, strict=True)
        ]
        graph.output(graph.call_module("network", tuple(firsts)))
        made = fx.GraphModule({"network": network}, graph)
        made.training = network.training  # else an exporter that puts it back leaves the network in training
        return made

    def axis(self, name: str) -> str:
        """Return what the free batch of a value is called; where it has no name, as that of others, or as usual."""
        return self.axes.get(name, next(iter(self.axes.values()), BATCH))


def called_as(network: nn.Module) -> Called:
    """Return how the file of a network is to be called."""
    if not isinstance(network, OnnxNetwork):
        return Called()
    told = network.interface
    return Called(
        told.inputs,
        told.outputs,
        told.turned,
        told.opset,
        told.dynamic,
        told.axes,
        None if told.dynamic else network.example_inputs,
    )

"""Weights that operators of an ONNX file share, shared by layers as well where these hold them alike."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from secateur.models.onnx_files.calls import DOMAIN
from secateur.models.onnx_files.lowering import Lowered
from secateur.models.onnx_files.reading_files import SMALL, onnx

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def tie(lowered: Lowered, made: nn.Module) -> list[str]:
    """Let layers share the matrices that are one in the file; say in a sentence each which cannot be shared.

    Small ones count as constants and vectors not at all, for exporters store equal ones once.

    Args:
        lowered: the graph.
        made: what onnx2torch has made of it, its layers by the names of the operators.
    """
    graph, kind = lowered.model.graph, onnx().TensorProto.FLOAT
    readers: dict[str, list[Any]] = {
        held.name: []
        for held in graph.initializer
        if len(held.dims) > 1 and held.data_type == kind and math.prod(held.dims) > SMALL
    }
    for node in graph.node:
        for name in readers.keys() & set(node.input):
            readers[name].append(node)
    apart: list[str] = []
    for name, nodes in readers.items():
        firsts: dict[Any, Any] = {}
        for node in nodes:
            call = node.domain == DOMAIN  # which reads a constant, one for all calls, and has no weight of its own
            layer: Any = None if call else made.get_submodule(node.name)
            alike: Any = DOMAIN if call else node.name
            if type(layer) in _LAYERS and node.input[1] == name:
                turned = map(str, node.attribute) if isinstance(layer, nn.Linear) else ()
                alike = (type(layer), layer.weight.shape, *turned)
                layer.weight = firsts.get(alike, (layer, ""))[0].weight
            firsts.setdefault(alike, (layer, node.name))
        if len(firsts) > 1:
            first, second = [lowered.told(own) for _, own in firsts.values()][:2]
            apart.append(
                f"the weight '{name}' is one for {first} and {second} in the file, and each has its own from here on: "
                "they are pruned and trained apart"
            )
    return apart

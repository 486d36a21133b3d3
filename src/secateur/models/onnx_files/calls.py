"""Calls of torch with plain numbers in the place of ONNX operators that take sizes as tensors.

They travel through onnx2torch as operators of a domain of their own, for which converters are registered here: the
name of the function is that of the operator, the numbers are an attribute.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DOMAIN = "secateur"
NUMBERS = "numbers"


def identity(x: Tensor) -> Tensor:
    """Return the value itself."""
    return x


def sliced(x: Tensor, parts: Sequence[tuple[int, int | None, int | None, int]]) -> Tensor:
    """Return a part of a tensor: for each (dimension, start, end, step); a step of -1 turns the dimension round."""
    for dim, start, end, step in parts:
        x = torch.flip(x, (dim,)) if step == -1 else x[(slice(None),) * dim + (slice(start, end, step),)]
    return x


def unsqueezed(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Return a tensor with dimensions of size 1 at these places of the result, which ascend."""
    for dim in dims:
        x = torch.unsqueeze(x, dim)
    return x


def squeezed(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Return a tensor without these dimensions, which are of size 1 and ascend."""
    for dim in reversed(dims):
        x = torch.squeeze(x, dim)
    return x


def expanded(x: Tensor, like: Tensor, sizes: Sequence[int | None]) -> Tensor:
    """Return a tensor repeated to these sizes, as often as there are images where one is None."""
    return x.expand([like.shape[0] if size is None else size for size in sizes])


def concatenated(*parts: Tensor, dim: int) -> Tensor:
    """Return tensors side by side."""
    return torch.cat(parts, dim)


def grouped(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Return a group norm."""
    return functional.group_norm(x, groups, weight, bias, eps)


def flattened_softmax(x: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Return the softmax over one dimension."""
    return functional.log_softmax(x, dim) if logarithm else functional.softmax(x, dim)


def taken(x: Tensor, index: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Return some places of a dimension, in the order of dimensions of these sizes that take its place."""
    return torch.index_select(x, dim, index).unflatten(dim, sizes)


def largest(*values: Tensor) -> Tensor:
    """Return the largest of values, number by number."""
    return functools.reduce(torch.maximum, values)


def smallest(*values: Tensor) -> Tensor:
    """Return the smallest of values, number by number."""
    return functools.reduce(torch.minimum, values)


def total(*values: Tensor) -> Tensor:
    """Return the sum of values, number by number."""
    return functools.reduce(torch.add, values)


def average(*values: Tensor) -> Tensor:
    """Return the mean of values, number by number."""
    return torch.div(total(*values), len(values))


def depth_to_space(x: Tensor, block: int, sizes: Sequence[int]) -> Tensor:
    """Return pictures of channels that are blocks of pixels, the place in a block before the channel."""
    channels, height, width = sizes
    parts = torch.reshape(x, (-1, block, block, channels // block**2, height, width))
    turned = torch.permute(parts, (0, 3, 4, 1, 5, 2))
    return torch.reshape(turned, (-1, channels // block**2, height * block, width * block))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "identity": identity,
    "slice": sliced,
    "unsqueeze": unsqueezed,
    "expand": expanded,
    "concat": concatenated,
    "group_norm": grouped,
    "softmax": flattened_softmax,
    "reshape": torch.reshape,
    "flatten": torch.flatten,
    "squeeze": squeezed,
    "select": torch.select,
    "index_select": lambda x, index, dim: torch.index_select(x, dim, index),
    "taken": taken,
    "split": torch.split,
    "repeat": lambda x, repeats: x.repeat(repeats),
    "pad": functional.pad,
    "interpolate": functional.interpolate,
    "clamp": torch.clamp,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
    "mish": functional.mish,
    "silu": functional.silu,
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "permute": torch.permute,
    "largest": largest,
    "smallest": smallest,
    "total": total,
    "average": average,
    "depth_to_space": depth_to_space,
}


class Numbered(nn.Module):
    """Calls a function with numbers of its own; only there until the network is recorded."""

    def __init__(self, name: str, numbers: dict[str, Any]) -> None:
        super().__init__()
        self._function, self._numbers = FUNCTIONS[name], numbers

    def forward(self, *values: Tensor) -> Any:
        """Call the function with the values before the numbers."""
        return self._function(*values, **self._numbers)


@functools.cache
def register() -> None:
    """Let onnx2torch know the functions."""
    registry: Any = importlib.import_module("onnx2torch.node_converters.registry")
    common: Any = importlib.import_module("onnx2torch.utils.common")

    def convert(node: Any, graph: Any) -> Any:
        numbers = json.loads(node.attributes[NUMBERS])
        return common.OperationConverterResult(
            Numbered(node.operation_type, numbers), common.onnx_mapping_from_node(node)
        )

    def convert_slopes(node: Any, graph: Any) -> Any:
        slopes = graph.initializers[node.input_values[1]].to_torch()
        layer = nn.PReLU(len(slopes))
        layer.weight.data = slopes
        mapping = common.OnnxMapping(inputs=(node.input_values[0],), outputs=node.output_values)
        return common.OperationConverterResult(layer, mapping)

    registry.add_converter(operation_type="prelu", version=1, domain=DOMAIN)(convert_slopes)
    for name in FUNCTIONS:
        registry.add_converter(operation_type=name, version=1, domain=DOMAIN)(convert)

"""A single layer as an ONNX program: thousands are timed for a table, too many for the exporters."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

_OPSET, _VERSION = 17, 8


def layer_program(module: nn.Module, x: Tensor) -> bytes | None:
    """Return an ONNX model of a convolution or linear layer for inputs of this shape; None for other layers."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not isinstance(module.padding, str):
        attributes: dict[str, Any] = {
            "kernel_shape": list(module.kernel_size),
            "strides": list(module.stride),
            "pads": [*module.padding, *module.padding],
            "dilations": list(module.dilation),
            "group": module.groups,
        }
        return _model("Conv", attributes, module, x)
    if isinstance(module, nn.Linear) and x.ndim == 2:
        return _model("Gemm", {"transB": 1}, module, x)
    return None


def _model(operator: str, attributes: dict[str, Any], module: nn.Module, x: Tensor) -> bytes:
    onnx: Any = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    tensors = {name: value.detach().cpu().numpy() for name, value in module.named_parameters()}
    given = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    node = helper.make_node(operator, ["input_0", *tensors], ["output"], **attributes)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("input_0", kind, list(x.shape))],
        [helper.make_tensor_value_info("output", kind, list(module(x).shape))],
        given,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_VERSION)
    return model.SerializeToString()

"""A single layer as an ONNX program: thousands are timed for a table, too many for the exporters."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from torch import Tensor, nn

_OPSET, _VERSION = 17, 8
_STEP, _ZERO = 1 / 40, 128  # of activations in int8, which reach from -3.2 to 3.2


def layer_program(module: nn.Module, x: Tensor, *, int8: bool = False) -> bytes | None:
    """Return an ONNX model of a convolution or linear layer for inputs of this shape; None for other layers.

    Args:
        module: the layer, in float32.
        x: what it is run on.
        int8: as it stands between layers in int8: it takes and gives uint8, with 0 at 128 and 40 steps a unit.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not isinstance(module.padding, str):
        attributes: dict[str, Any] = {
            "kernel_shape": list(module.kernel_size),
            "strides": list(module.stride),
            "pads": [*module.padding, *module.padding],
            "dilations": list(module.dilation),
            "group": module.groups,
        }
        return _model("Conv", attributes, module, x, int8)
    if isinstance(module, nn.Linear) and x.ndim == 2:
        return _model("Gemm", {"transB": 1}, module, x, int8)
    return None


def _model(operator: str, attributes: dict[str, Any], module: nn.Module, x: Tensor, int8: bool) -> bytes:
    onnx: Any = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    tensors = {name: value.detach().cpu().numpy() for name, value in module.named_parameters()}
    nodes = [helper.make_node(operator, ["input_0", *tensors], ["output"], **attributes)]
    if int8:
        nodes, tensors = _between_int8(helper, nodes[0], tensors)
    kind = onnx.TensorProto.UINT8 if int8 else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input_0", kind, list(x.shape))],
        [helper.make_tensor_value_info("output", kind, list(module(x).shape))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_VERSION)
    return model.SerializeToString()


def _between_int8(helper: Any, layer: Any, tensors: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the nodes and constants of a layer that reads and writes uint8, with a scale for each output channel."""
    weight = tensors["weight"]
    scales = np.maximum(np.abs(weight.reshape(len(weight), -1)).max(1) / 127, 1e-8).astype(np.float32)
    spread = scales.reshape(-1, *[1] * (weight.ndim - 1))
    made: dict[str, Any] = {
        "step": np.float32(_STEP),
        "zero": np.uint8(_ZERO),
        "weight": np.rint(weight / spread).astype(np.int8),
        "weight_scales": scales,
    }
    nodes = [helper.make_node("DequantizeLinear", ["input_0", "step", "zero"], ["x"])]
    nodes.append(helper.make_node("DequantizeLinear", ["weight", "weight_scales"], ["w"], axis=0))
    given = ["x", "w"]
    if "bias" in tensors:
        made["bias_scales"] = scales * np.float32(_STEP)
        made["bias"] = np.rint(tensors["bias"] / made["bias_scales"]).astype(np.int32)
        nodes.append(helper.make_node("DequantizeLinear", ["bias", "bias_scales"], ["b"], axis=0))
        given.append("b")
    del layer.input[:]
    layer.input.extend(given)
    layer.output[0] = "y"
    return [*nodes, layer, helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["output"])], made

"""A network as an ONNX program in memory, for the sake of timing it; files to keep are written by ``export``."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import ExportError, reason_of
from secateur.measure.forward import ExampleInputs, call, evaluating, refilled, tensors
from secateur.measure.quiet_exporters import quiet


def onnx_program(model: nn.Module, inputs: ExampleInputs) -> bytes:
    """Return the network as an ONNX model for inputs of exactly these shapes, batch norms folded in.

    The older exporter of PyTorch comes first: it needs seconds where ``torch.export`` needs a minute on a slow core.

    Args:
        model: any network; it stays as it is.
        inputs: on the model's device.

    Raises:
        ExportError: if neither exporter can convert the network.
    """
    exporter: Any = torch.onnx
    flat, values = _Flat(model, inputs), tuple(tensors(inputs))
    names, reason = input_names(inputs), ""
    with evaluating(model), quiet(), torch.no_grad():
        for dynamo in (False, True):
            if dynamo and importlib.util.find_spec("onnxscript") is None:
                continue
            buffer = io.BytesIO()
            try:
                exporter.export(flat, values, buffer, input_names=names, dynamo=dynamo, external_data=False)
                return buffer.getvalue()
            except Exception as error:  # exporters raise anything
                reason = reason_of(error)
    raise ExportError(f"the network cannot be converted to ONNX ({reason}); time it in another runtime")


def input_names(inputs: ExampleInputs) -> list[str]:
    """Return what the inputs of the program are called, in the order of ``tensors``."""
    return [f"input_{place}" for place, _ in enumerate(tensors(inputs))]


class _Flat(nn.Module):
    """Takes the tensors of nested inputs one by one, for exporters that know no names of arguments."""

    def __init__(self, model: nn.Module, inputs: ExampleInputs) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *values: Tensor) -> Any:
        return call(self.model, refilled(self.inputs, iter(values)))

"""How an ONNX file is called, which is how the pruned one is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Interface:
    """How an ONNX file is called, which is how the pruned one is written.

    Attributes:
        inputs: names of the inputs.
        outputs: names of the outputs.
        shapes: of the inputs as the module takes them, pictures with their channels first.
        turned: which of them have their channels last in the file.
        opset: version of the operators.
        dynamic: whether the batch is free.
        axes: what the free batch is called, by the names of inputs and outputs; without those that have no name.
        skeleton: the file without its weights.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    turned: tuple[bool, ...]
    opset: int
    dynamic: bool
    axes: Mapping[str, str]
    skeleton: bytes

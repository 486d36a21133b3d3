"""One ONNX operator with what is known of the values around it, and the call of torch that takes its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.errors import ModelError
from secateur.models.onnx_files.reading_files import onnx
from secateur.models.onnx_files.shapes import told


@dataclass(frozen=True)
class Call:
    """A function of ``calls`` in the place of an operator.

    Attributes:
        function: its name there.
        inputs: names of values, or constants.
        numbers: its other arguments.
    """

    function: str
    inputs: Sequence[str | np.ndarray[Any, Any]]
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Site:
    """An operator and what is known of the values around it.

    Attributes:
        node: the operator.
        shapes: of all values; None for sizes that grow with the batch.
        known: constants.
        opset: of the file.
        name: of the file.
        image: name of the network's first input.
    """

    node: Any
    shapes: Mapping[str, Sequence[int | None]]
    known: Mapping[str, np.ndarray[Any, Any]]
    opset: int
    name: str
    image: str

    @property
    def x(self) -> str:
        """The first value that goes in."""
        return str(self.node.input[0])

    @property
    def before(self) -> Sequence[int | None]:
        """Its shape."""
        return self.shapes[self.x]

    @property
    def after(self) -> Sequence[int | None]:
        """The shape of the first value that comes out."""
        return self.shapes[self.node.output[0]]

    def attribute(self, name: str, usual: Any = None) -> Any:
        """Return what the operator says of itself."""
        for each in self.node.attribute:
            if each.name == name:
                value = onnx().helper.get_attribute_value(each)
                return value.decode() if isinstance(value, bytes) else value
        return usual

    def has(self, number: int) -> bool:
        """Tell whether there is an input of this number."""
        return len(self.node.input) > number and bool(self.node.input[number])

    def constant(self, number: int) -> np.ndarray[Any, Any]:
        """Return the constant that goes in.

        Raises:
            ModelError: if it is none.
        """
        name = self.node.input[number]
        if name not in self.known:
            raise self.refusal(f"its input '{name}' is computed from what the network sees")
        return self.known[name]

    def numbers(self, name: str, number: int) -> list[int] | None:
        """Return whole numbers that are an attribute in some opsets and an input in others; None if there are none."""
        said = self.attribute(name)
        if said is None and self.has(number):
            said = self.constant(number).reshape(-1).tolist()
        return None if said is None else [int(each) for each in said]

    def axes(self, number: int, rank: int) -> list[int] | None:
        """Return the dimensions that an operator names, in order."""
        found = self.numbers("axes", number)
        return None if found is None else sorted(axis % rank for axis in found)

    def refusal(self, why: str) -> ModelError:
        """Return what to raise where an operator cannot be read."""
        return ModelError(f"{self.name} cannot be read: {told(self.node)}: {why}")

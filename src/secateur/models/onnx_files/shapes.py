"""What shape every value of an ONNX graph has, and what the small constant ones are, found without running it.

Operator by operator, with concrete sizes: so a chain of Shape, Gather and Concat is a list of numbers, and a value
that would not fit into memory is refused before there is one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secateur.errors import ModelError, first_line
from secateur.models.onnx_files.reading_files import onnx, opset_of

MOST_VALUES = 2**28
"""Numbers in one value for one batch, as 64 feature maps of 2,048 by 2,048 have."""

MOST_FOLDED = 2**23
"""Numbers in all constants together that are computed in the graph, beyond twice those that the file stores."""

_FOLDED = frozenset((
    "Shape", "Size", "Constant", "ConstantOfShape", "Identity", "Gather", "Concat", "Unsqueeze", "Squeeze",
    "Slice", "Cast", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Floor", "Ceil", "Sqrt", "Reciprocal", "Pow",
    "Exp", "Min", "Max", "Equal", "Greater", "Less", "Where", "Range", "Expand", "Reshape", "Transpose",
    "ReduceProd", "ReduceSum", "Not", "And", "Or", "Tile", "Flatten", "Split", "Sign",
))  # fmt: skip

_LIKE_ITS_INPUT = frozenset({"GroupNormalization", "Swish"})  # made of others, whose shapes nobody infers


class Values:
    """Shapes and constants of a graph for given shapes of its inputs.

    Attributes:
        shapes: of every value.
        known: the constants among the values, weights included.
        types: the number of the type of every value.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Sequence[int]], name: str) -> None:
        """Find them all.

        Args:
            model: checked.
            inputs: the shape of each input.
            name: of the file, for messages.

        Raises:
            ModelError: naming an operator whose output has no shape that is known beforehand, or too large a one.
        """
        library = onnx()
        self._name, self._opset = name, opset_of(model)
        self._imports = [library.helper.make_opsetid("", self._opset)]
        self._types: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.known: dict[str, np.ndarray[Any, Any]] = {}
        self.types: dict[str, int] = {}
        self._spent = -MOST_FOLDED
        self._fixed: set[str] = set()
        for tensor in model.graph.initializer:
            self._spent -= 2 * math.prod(tensor.dims)
            self._fixed.add(tensor.name)
            self._hold(tensor.name, library.numpy_helper.to_array(tensor))
        for value, shape in inputs.items():
            self._note(value, library.helper.make_tensor_type_proto(library.TensorProto.FLOAT, list(shape)), None)
        for node in model.graph.node:
            self._see(node)

    @property
    def made(self) -> int:
        """How many numbers all values have together that are no constants."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name not in self.known)

    def refuse_sums(self, outputs: Iterable[str]) -> None:
        """Refuse outputs of no dimensions, which are those of no image; of those that no image enters others say so.

        Raises:
            ModelError: naming one.
        """
        for output in outputs:
            if self.shapes.get(output) == () and output not in self.known:
                raise ModelError(
                    f"{self._name}: its output '{output}' is one number for all images together, which says nothing of "
                    "each; export the network without what comes after its predictions"
                )

    def _see(self, node: Any) -> None:
        """Find what one operator puts out."""
        library = onnx()
        try:
            schema = library.defs.get_schema(node.op_type, max_inclusive_version=self._opset, domain="")
        except Exception as error:
            raise ModelError(
                f"{self._name} holds the operator {node.op_type}, which opset {self._opset} does not have"
            ) from error
        names = [name for name in node.input if name]
        try:
            data = {name: self._data[name] for name in names if name in self._data}
            types = {name: self._types[name] for name in names}
            found = library.shape_inference.infer_node_outputs(schema, node, types, data, None, self._imports)
        except Exception as error:
            raise ModelError(f"{self._name}: the shapes of {told(node)} do not fit ({first_line(error)})") from error
        for output in (output for output in node.output if output):
            kind = self._types[names[0]] if node.op_type in _LIKE_ITS_INPUT else found.get(output)
            self._note(output, kind, node)
        if node.op_type == "Shape" or all(name in self._fixed for name in names):
            self._spend(node)
        if node.op_type in _FOLDED and (node.op_type == "Shape" or all(name in self.known for name in names)):
            self._fold(node, names)

    def _note(self, value: str, kind: Any, node: Any) -> None:
        dims = kind.tensor_type.shape.dim if kind is not None and kind.tensor_type.HasField("shape") else None
        if dims is None or not all(size.HasField("dim_value") for size in dims):
            raise ModelError(
                f"{self._name}: the shape that {told(node)} puts out depends on what the network sees, which cannot be "
                "pruned; export the network without what comes after its predictions"
            )
        assert kind is not None
        shape = tuple(size.dim_value for size in dims)
        if any(size < 1 for size in shape) and (node is None or node.op_type not in _FOLDED):
            raise ModelError(
                f"{self._name}: {told(node)} would put out the shape {list(shape)}, for what it reads is too small for "
                "it; give larger images, or export the network for such"
            )
        if math.prod(shape) > MOST_VALUES:
            raise ModelError(
                f"{self._name}: {told(node)} puts out {math.prod(shape):,} numbers, where {MOST_VALUES:,} are the most"
            )
        self.shapes[value], self._types[value] = shape, kind
        self.types[value] = kind.tensor_type.elem_type

    def _spend(self, node: Any) -> None:
        """Count constants, which all are held, and by ONNX Runtime too where they are not folded here.

        Raises:
            ModelError: if there are too many, for a few bytes of file can ask for any number.
        """
        outputs = [output for output in node.output if output]
        stored = any(attribute.type == attribute.TENSOR for attribute in node.attribute)
        numbers = sum(math.prod(self.shapes[output]) for output in outputs)
        self._spent += -2 * numbers if node.op_type == "Constant" and stored else numbers
        self._fixed.update(outputs)
        if self._spent > 0:
            raise ModelError(
                f"{self._name}: up to {told(node)} it computes constants that the file does not store, of more than "
                f"{MOST_FOLDED:,} numbers; store them in the file, or export it without"
            )

    def _fold(self, node: Any, names: Sequence[str]) -> None:
        library = onnx()
        outputs = [output for output in node.output if output]
        if node.op_type == "Shape":
            start, end = (next((a.i for a in node.attribute if a.name == it), None) for it in ("start", "end"))
            self._hold(outputs[0], np.asarray(self.shapes[names[0]][start:end], np.int64))
            return
        try:
            make = library.helper
            given = [make.make_value_info(name, self._types[name]) for name in names]
            wanted = [make.make_value_info(output, self._types[output]) for output in outputs]
            program = make.make_model(make.make_graph([node], "one", given, wanted), opset_imports=self._imports)
            run = importlib.import_module("onnx.reference").ReferenceEvaluator(program)
            made = run.run(None, {name: self.known[name] for name in names})
        except Exception as error:
            raise ModelError(f"{self._name}: {told(node)} cannot be computed ({first_line(error)})") from error
        for output, value in zip(outputs, made, strict=False):
            self._hold(output, np.asarray(value))

    def _hold(self, name: str, value: np.ndarray[Any, Any]) -> None:
        library = onnx()
        self.known[name] = value
        kind = library.helper.np_dtype_to_tensor_dtype(value.dtype)
        self._types[name] = library.helper.make_tensor_type_proto(kind, list(value.shape))
        self.shapes[name], self.types[name] = value.shape, kind
        if value.size <= 1024 and kind in (
            library.TensorProto.INT64,
            library.TensorProto.INT32,
            library.TensorProto.FLOAT,
        ):
            self._data[name] = library.numpy_helper.from_array(value, name)


def told(node: Any) -> str:
    """Return an operator for a message: its kind and its name."""
    if node is None:
        return "an input"
    return f"{node.op_type} '{node.name}'" if node.name else f"the operator {node.op_type}"

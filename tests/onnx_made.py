"""ONNX files written operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

DRAW = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def number(name: str, values: Any, kind: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def weight(name: str, *shape: int) -> Any:
    return number(name, DRAW.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5, shape))


def written(
    path: Path,
    nodes: Sequence[Any],
    held: Sequence[Any] = (),
    *,
    shape: Sequence[Any] = ("N", 4, 6, 6),
    opset: int = 13,
    kind: int = FLOAT,
    domains: Sequence[str] = (),
) -> Path:
    """Write a file with an input ``x`` and an output ``y``."""
    given = helper.make_tensor_value_info("x", kind, shape)
    wanted = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(list(nodes), "net", [given], [wanted], list(held))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(it, 1) for it in domains)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def pictures(path: Path, opset: int = 11) -> Path:
    """Write a network of pictures whose channels come last, with pads of its own and pairs of transpositions."""
    nodes = [
        node("Transpose", "x", "first", perm=[0, 3, 1, 2]),
        node("Pad", "first pads", "padded"),
        node("Conv", "padded w1", "c1", strides=[2, 2]),
        node("BatchNormalization", "c1 scale shift mean var", "n1"),
        node("Clip", "n1 low high", "r1"),
        node("Transpose", "r1", "t1", perm=[0, 2, 3, 1]),
        node("Transpose", "t1", "t2", perm=[0, 3, 1, 2]),
        node("Conv", "t2 w2", "c2", auto_pad="SAME_UPPER"),
        node("Relu", "c2", "r2"),
        node("Shape", "r2", "size"),
        node("Gather", "size zero", "batch"),
        node("Unsqueeze", "batch", "batches", axes=[0]),
        node("Concat", "batches rest", "sizes", axis=0),
        node("Reshape", "r2 sizes", "flat"),
        node("MatMul", "flat w3", "m3"),
        node("Add", "m3 b3", "y"),
    ]
    held = [
        number("pads", [0, 0, 0, 0, 0, 0, 1, 1], np.int64), weight("w1", 16, 3, 3, 3), weight("w2", 16, 16, 3, 3),
        number("scale", DRAW.uniform(0.7, 1.3, 16)), number("shift", DRAW.normal(0, 0.1, 16)),
        number("mean", DRAW.normal(0, 0.1, 16)), number("var", DRAW.uniform(0.5, 1.5, 16)),
        number("low", 0), number("high", 6), number("zero", 0, np.int64), number("rest", [-1], np.int64),
        weight("w3", 16 * 16, 5), weight("b3", 5),
    ]  # fmt: skip
    return written(path, nodes, held, shape=["N", 8, 8, 3], opset=opset)

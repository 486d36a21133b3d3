"""An ONNX file without chance: each number that it draws is the constant that stands there in a steady run of torch."""

from __future__ import annotations

import importlib
from typing import Any

from secateur.core.surgery.steady_draws import share_of


def steady_onnx(content: bytes) -> bytes:
    """Return an ONNX model with constants in the place of its random numbers, in the order in which it draws them.

    Only to be compared with a network that runs under ``Steady``: ONNX Runtime draws other numbers than torch.

    Args:
        content: the model, as written to a file.
    """
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load_model_from_string(content)
    nodes: list[Any] = []
    drawn = 0
    for node in model.graph.node:
        rule = _RULES.get(node.op_type)
        if rule is None:
            nodes.append(node)
            continue
        drawn += node.op_type != "Dropout"  # which a steady run leaves out
        nodes += rule(onnx.helper, node, share_of(drawn))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _uniform(helper: Any, node: Any, share: float) -> list[Any]:
    given = _attributes(helper, node)
    low, high = given.get("low", 0.0), given.get("high", 1.0)
    return _filled(helper, node, low + (high - low) * share)


def _normal(helper: Any, node: Any, share: float) -> list[Any]:
    given = _attributes(helper, node)
    return _filled(helper, node, given.get("mean", 0.0) + given.get("scale", 1.0) * (2 * share - 1))


def _chosen(helper: Any, node: Any, share: float) -> list[Any]:
    """All that may be chosen is: what has a chance above zero."""
    return [helper.make_node("Sign", node.input[:1], node.output[:1])]


def _kept(helper: Any, node: Any, share: float) -> list[Any]:
    return [helper.make_node("Identity", node.input[:1], node.output[:1])]


def _filled(helper: Any, node: Any, value: float) -> list[Any]:
    """Return what fills a tensor of the shape that the node makes with one value."""
    given, (name,) = _attributes(helper, node), node.output
    kind = given.get("dtype", 1)  # float32
    content = helper.make_tensor(f"{name}.value", kind, [1], [value])
    if node.input:
        shape = helper.make_node("Shape", node.input[:1], [f"{name}.shape"])
    else:
        sizes = helper.make_tensor(f"{name}.sizes", 7, [len(given["shape"])], given["shape"])  # int64
        shape = helper.make_node("Constant", [], [f"{name}.shape"], value=sizes)
    return [shape, helper.make_node("ConstantOfShape", [f"{name}.shape"], [name], value=content)]


def _attributes(helper: Any, node: Any) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


_RULES = {
    "RandomUniform": _uniform,
    "RandomUniformLike": _uniform,
    "RandomNormal": _normal,
    "RandomNormalLike": _normal,
    "Bernoulli": _chosen,
    "Dropout": _kept,
}

"""An ONNX graph as one that onnx2torch reads well: without arithmetic on sizes, of one opset, its operators known."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secateur.errors import ModelError
from secateur.models.onnx_files.calls import DOMAIN, NUMBERS, register
from secateur.models.onnx_files.named import inputs_of
from secateur.models.onnx_files.operators import RULES, reshape
from secateur.models.onnx_files.reading_files import onnx, opset_of
from secateur.models.onnx_files.shapes import Values
from secateur.models.onnx_files.site import Call, Site

OPSET = 17
"""The newest of which onnx2torch knows most operators; what newer ones changed is said in the older way here."""

_ONE_OUTPUT = frozenset({"BatchNormalization", "Dropout", "MaxPool", "LayerNormalization", "InstanceNormalization"})
_FORGOTTEN = {
    "BatchNormalization": ("spatial", "training_mode"),
    "Cast": ("saturate", "round_mode"),
    "Conv": ("auto_pad", "pads"),
    "ConvTranspose": ("auto_pad", "pads", "output_shape"),
    "MaxPool": ("auto_pad", "pads", "storage_order"),
    "AveragePool": ("auto_pad", "pads"),
}


class Lowered:
    """The new graph while it is made.

    Attributes:
        model: for onnx2torch.
        names: what the layers are to be called, by the names that the operators have in it.
    """

    def __init__(self, model: Any, found: Sequence[Values], name: str, turned: Mapping[str, Sequence[int]]) -> None:
        """Make it.

        Args:
            model: checked.
            found: for a batch, and for another one where the batch is free.
            name: of the file.
            turned: inputs whose channels come last and are to come first, with their shapes then.

        Raises:
            ModelError: naming the operator that cannot be read.
        """
        self._library, self._name, self._turned = onnx(), name, turned
        self._graph, self._opset = model.graph, opset_of(model)
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray[Any, Any]] = {}
        self.names: dict[str, str] = {}
        first, last = found[0], found[-1]
        inputs = [value.name for value in inputs_of(model)]
        self._inputs = inputs
        self._shapes = {name: _open(first, last, name, inputs) for name in first.shapes}
        self._known = {
            name: value
            for name, value in first.known.items()
            if value.shape == last.known[name].shape and bool((value == last.known[name]).all())
        }
        self._fixed = first.known.keys()
        self._first, self._last = first, last
        self._done: set[int] = set()
        for place, node in enumerate(self._graph.node):
            if place not in self._done and not all(o in self._fixed for o in node.output if o):
                self._take(node)
        for value in self._graph.output:
            if value.name in self._fixed:
                raise ModelError(f"{name}: its output '{value.name}' does not depend on what goes in")
            if value.name in first.shapes and 0 in first.shapes[value.name]:
                raise ModelError(f"{name}: its output '{value.name}' is empty, of shape {first.shapes[value.name]}")
            self._call(Call("identity", [value.name]), [f"secateur_output_{value.name}"], "output")
        self.model = self._finished()
        self._by_name = {node.name: node for node in self._nodes}
        self._insist()

    def told(self, own: str) -> str:
        """Return an operator of the new graph for a message."""
        return f"{self._by_name[own].op_type} '{self.names[own]}'" if own in self._by_name else "its operators"

    def shared(self, own: str, module: Any) -> tuple[str, ...] | None:
        """Return what a layer has in common with others that are this layer called again; None if it has no matrix.

        Vectors that layers share are no sign, as exporters store equal ones once.
        """
        weight, node = getattr(module, "weight", None), self._by_name.get(own)
        if weight is None or weight.ndim < 2 or node is None:
            return None
        return (node.op_type, repr(module), *map(str, node.attribute), *node.input[1:])

    def _take(self, node: Any) -> None:
        site = Site(node, self._shapes, self._known, self._opset, self._name, self._inputs[0])
        if node.op_type == "Transpose" and node.input[0] in self._turned:
            self._call(Call("identity", [node.input[0]]), node.output[:1], "turned")
            return
        if node.op_type == "Gather" and self._is_whole(node, site):
            self._call(reshape(site), node.output[:1], node.name or node.op_type)
            return
        rule = RULES.get(node.op_type)
        call = rule(site) if rule is not None else None
        if call is not None:
            outputs = list(node.output) if node.op_type == "Split" else node.output[:1]
            self._call(call, outputs, node.name or node.op_type)
        elif node.op_type == "MatMul" and node.input[1] in self._known and self._known[node.input[1]].ndim == 2:
            self._linear(node)
        else:
            self._older(node, site)

    def _is_whole(self, node: Any, site: Site) -> bool:
        """Tell whether a choice takes all of a row in order, which torch writes where a tensor gets other strides."""
        indices = [run.known.get(node.input[1], np.empty(0)) for run in (self._first, self._last)]
        rows = [run.shapes[site.x] for run in (self._first, self._last)]
        return all(
            len(row) == 1 and index.size == row[0] and bool((index.reshape(-1) == np.arange(index.size)).all())
            for index, row in zip(indices, rows, strict=True)
        )

    def _call(self, call: Call, outputs: Sequence[str], name: str) -> None:
        inputs = [each if isinstance(each, str) else self._constant(each) for each in call.inputs]
        self._add(call.function, inputs, outputs, name, domain=DOMAIN, **{NUMBERS: json.dumps(dict(call.numbers))})

    def _linear(self, node: Any) -> None:
        """Write a product with a constant matrix as a linear layer, its bias the constant that is added to it."""
        inputs, outputs = list(node.input), list(node.output)
        readers = [(i, each) for i, each in enumerate(self._graph.node) if outputs[0] in each.input]
        graph_outputs = {value.name for value in self._graph.output}
        if len(readers) == 1 and readers[0][1].op_type == "Add" and outputs[0] not in graph_outputs:
            place, adding = readers[0]
            other = next((each for each in adding.input if each != outputs[0]), "")
            bias = self._known.get(other)
            if bias is not None and bias.size == self._known[inputs[1]].shape[1] == bias.shape[-1]:
                inputs.append(other if bias.ndim == 1 else self._constant(bias.reshape(-1)))
                outputs = list(adding.output)
                self._done.add(place)
        self._add("Gemm", inputs, outputs, node.name or "MatMul")

    def _older(self, node: Any, site: Site) -> None:
        """Keep an operator as it is, in the form that it has in the opset of the new graph."""
        kind, inputs = node.op_type, list(node.input)
        gone = _FORGOTTEN.get(kind, ())
        said = {a.name: self._library.helper.get_attribute_value(a) for a in node.attribute if a.name not in gone}
        if kind == "BatchNormalization" and (site.attribute("training_mode", 0) or not site.attribute("spatial", 1)):
            raise site.refusal("it takes statistics of the batch, as in training; export the network for inference")
        if kind in ("Conv", "ConvTranspose"):
            for number in range(1, len(inputs)):
                site.constant(number)
        if kind in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
            inputs[0], said["pads"] = self._padded(node, site)
        if kind.startswith("Reduce"):
            axes = site.axes(1, len(site.before))
            inputs, said = inputs[:1], {k: v for k, v in said.items() if k == "keepdims"}
            said |= {} if axes is None else {"axes": axes}
        outputs = node.output[:1] if kind in _ONE_OUTPUT else node.output
        self._add(kind, inputs, outputs, node.name or kind, **said)

    def _padded(self, node: Any, site: Site) -> tuple[str, list[int]]:
        """Return what a window slides over, and equal pads at both sides; others become an operator before it."""
        kind, spatial = node.op_type, len(site.before) - 2
        if (
            site.attribute("dilations", None) is not None
            and kind == "AveragePool"
            and max(site.attribute("dilations")) > 1
        ):
            raise site.refusal("it is dilated")
        pads = list(site.attribute("pads") or [0] * (2 * spatial))
        auto = site.attribute("auto_pad", "NOTSET")
        if auto.startswith("SAME") and kind != "ConvTranspose":
            pads = self._same_pads(node, site, auto)
        elif auto.startswith("SAME") or site.attribute("output_shape"):
            raise site.refusal("its padding follows from the size of its output")
        begin, end = pads[:spatial], pads[spatial:]
        if begin == end:
            return node.input[0], pads
        counted = kind == "AveragePool" and not site.attribute("count_include_pad", 0)
        if kind == "ConvTranspose" or counted or (kind != "Conv" and site.attribute("ceil_mode", 0)):
            raise site.refusal("it pads its sides by different widths")
        flat = [each for pair in zip(begin[::-1], end[::-1], strict=True) for each in pair]
        value = -3.0e38 if kind == "MaxPool" else 0.0
        padded = f"{node.output[0]}_secateur_padded"
        self._shapes[padded] = list(site.before)
        self._call(Call("pad", [node.input[0]], {"pad": flat, "mode": "constant", "value": value}), [padded], "pad")
        return padded, [0] * (2 * spatial)

    def _same_pads(self, node: Any, site: Site, auto: str) -> list[int]:
        kernel = site.attribute("kernel_shape") or self._known[node.input[1]].shape[2:]
        strides = site.attribute("strides") or [1] * len(kernel)
        dilations = site.attribute("dilations") or [1] * len(kernel)
        begin: list[int] = []
        end: list[int] = []
        for size, k, s, d in zip(site.before[2:], kernel, strides, dilations, strict=True):
            assert size is not None
            total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
            low = total // 2 if auto == "SAME_UPPER" else total - total // 2
            begin.append(low)
            end.append(total - low)
        return begin + end

    def _add(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **said: Any) -> None:
        for each in inputs:
            if each in self._known:
                self._constants[each] = self._known[each]
            elif each in self._fixed:
                raise ModelError(f"{self._name}: {kind} '{name}' computes with the number of images")
        node = self._library.helper.make_node(kind, list(inputs), list(outputs), f"n{len(self._nodes)}", **said)
        self.names[node.name] = _layer_name(inputs, name, self._known)
        self._nodes.append(node)

    def _constant(self, value: np.ndarray[Any, Any]) -> str:
        name = f"secateur_constant_{len(self._constants)}"
        self._constants[name] = value
        return name

    def _finished(self) -> Any:
        helper, kind = self._library.helper, self._library.TensorProto
        shapes = {**self._first.shapes, **self._turned}
        described = [helper.make_tensor_value_info(name, kind.FLOAT, shapes[name]) for name in self._inputs]
        outputs = [
            helper.make_tensor_value_info(f"secateur_output_{v.name}", self._first.types[v.name], shapes[v.name])
            for v in self._graph.output
        ]
        held = [self._library.numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        between = [
            helper.make_tensor_value_info(name, self._first.types.get(name, kind.FLOAT), [size or 1 for size in shape])
            for name, shape in self._shapes.items()
            if name not in self._fixed and name not in self._inputs
        ]
        graph = helper.make_graph(self._nodes, "secateur", described, outputs, held, value_info=between)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def _insist(self) -> None:
        """Refuse operators that nobody has a converter for.

        Raises:
            ModelError: naming them all.
        """
        register()
        registry: Any = importlib.import_module("onnx2torch.node_converters.registry")
        missing: dict[str, None] = {}
        for node in self.model.graph.node:
            version = 1 if node.domain == DOMAIN else OPSET
            try:
                registry.get_converter(node.op_type, version, node.domain)
            except NotImplementedError:
                missing[node.op_type] = None
        if missing:
            raise ModelError(
                f"{self._name} cannot be read: there is no way to say {', '.join(missing)} in PyTorch here; export the "
                "network without, or leave that part out of the file"
            )


def _open(first: Values, last: Values, name: str, inputs: Sequence[str]) -> list[int | None]:
    """Return a shape with None for what grows with the batch; where that is fixed, for a first size that is like it."""
    shape = first.shapes[name]
    if first is not last:
        return [one if one == other else None for one, other in zip(shape, last.shapes[name], strict=True)]
    batch = first.shapes[inputs[0]][0]
    opened = len(shape) > 1 and shape[0] == batch and name not in first.known
    return [None if opened and place == 0 else size for place, size in enumerate(shape)]


def _layer_name(inputs: Sequence[str], name: str, known: Mapping[str, Any]) -> str:
    """Return what a layer is called: as the module was that its weight is named after, else as the operator."""
    for each in inputs[1:2]:
        if each in known and each.endswith(".weight"):
            name = each.removesuffix(".weight")
            return ".".join(re.sub(r"\W", "_", part) or "_" for part in name.split("."))
    parts = [part for part in name.split("/") if part]
    return re.sub(r"\W", "_", "_".join(parts)) or "layer"

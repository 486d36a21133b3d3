"""ONNX files that anybody may have made: parsed, checked and refused before anything in them is expanded."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from secateur import reading
from secateur.errors import ModelError

MOST_FILE = 2**31 - 1
"""Bytes of a file; protobuf has the same limit."""

MOST_NODES = 65_536
OLDEST = 7
SMALL = 64
"""Numbers of a constant that a skeleton keeps: bounds, factors and sizes, where weights have more."""

_FLOAT, _INT32, _INT64, _BOOL, _DOUBLE = 1, 6, 7, 9, 11
_BYTES = {_FLOAT: 4, _INT32: 4, _INT64: 8, _BOOL: 1, _DOUBLE: 8}
_FIELDS = {
    _FLOAT: "float_data",
    _INT32: "int32_data",
    _INT64: "int64_data",
    _BOOL: "int32_data",
    _DOUBLE: "double_data",
}
_EXTERNAL = 1
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


def onnx() -> Any:
    """Return the library that reads ONNX files.

    Raises:
        ModelError: if one that is needed is not installed.
    """
    try:
        for package in ("onnxruntime", "onnx2torch"):
            importlib.import_module(package)
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ModelError(
            f'a network in an ONNX file needs the package {error.name}: pip install "secateur[onnx]"'
        ) from error


def read(path: Path) -> Any:
    """Return the model in an ONNX file with all its weights, checked.

    Nothing is read but the file itself and files of weights in its folder and below.

    Raises:
        ModelError: if there is no such file, or it is damaged, too large or nothing that can be pruned here.
    """
    model = _opened(path)
    _fetch(model, path)
    _free(model)
    check(model, f"{path}")
    untold = [
        value for value in (*model.graph.input, *model.graph.output) if not value.type.tensor_type.HasField("shape")
    ]
    try:
        for value in untold:  # which the checker asks for, and nobody else
            value.type.tensor_type.shape.SetInParent()
        onnx().checker.check_model(model)
    except Exception as error:  # of its own classes, which derive from nothing in common
        raise ModelError(f"{path} is no sound ONNX file ({reading.shown(error)}); export the network again") from error
    finally:
        for value in untold:
            value.type.tensor_type.ClearField("shape")
    return model


def _free(model: Any) -> None:
    """Let sizes be free that are -1, as some exporters say it, which are neither sizes nor names."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value == -1:
                size.ClearField("dim_value")


def beside(path: Path) -> list[Path]:
    """Return the files with weights that an ONNX file names.

    Raises:
        ModelError: if it cannot be read, or names files outside of its folder.
    """
    outside = [tensor for tensor in _opened(path).graph.initializer if tensor.data_location == _EXTERNAL]
    return sorted({_inside(path.parent, _told(tensor).get("location", ""), path) for tensor in outside})


def _opened(path: Path) -> Any:
    try:
        content = reading.data(path, MOST_FILE)
    except OSError as error:
        raise ModelError(f"cannot read the ONNX file {path}: {error.strerror or error}; check the path") from error
    return parsed(content, f"{path}")


def _told(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def parsed(content: bytes, name: str) -> Any:
    """Return the model that bytes hold.

    Raises:
        ModelError: if they hold none.
    """
    try:
        model = onnx().ModelProto.FromString(content)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name} is no ONNX file, or a damaged one; export the network again") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{name} holds no network: it is empty or damaged; export the network again")
    return model


def check(model: Any, name: str, *, weightless: bool = False) -> None:
    """Refuse what is not read: operators and types of others, loops, sizes that are not borne out.

    Args:
        model: parsed.
        name: of the file, for messages.
        weightless: whether weights may have a shape alone.

    Raises:
        ModelError: naming the operator.
    """
    graph, newest = model.graph, onnx().defs.onnx_opset_version()
    if len(graph.node) > MOST_NODES:
        raise ModelError(f"{name} has {len(graph.node):,} operators, and at most {MOST_NODES:,} are read")
    opset = opset_of(model)
    if not OLDEST <= opset <= newest:
        remedy = "export it again in a newer one" if opset < OLDEST else "run: pip install --upgrade onnx"
        raise ModelError(f"{name} is of opset {opset}, and {OLDEST} to {newest} are read; {remedy}")
    if model.functions:
        raise ModelError(
            f"{name} has functions of its own ({model.functions[0].name}); write it again with "
            "onnx.inliner.inline_local_functions"
        )
    if len({value.name for value in graph.output}) < len(graph.output):
        raise ModelError(f"{name} names one of its outputs twice; leave it out once")
    for node in graph.node:
        _check_operator(node, name)
    if graph.sparse_initializer:
        raise ModelError(f"{name} holds sparse weights, which are not read; export it with dense ones")
    read = {each for node in graph.node for each in node.input} | {value.name for value in graph.output}
    held = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.type == a.TENSOR)]
    for place, tensor in enumerate(held):
        idle = place < len(graph.initializer) and tensor.name not in read
        _check_tensor(tensor, name, weightless=weightless, idle=idle)


def opset_of(model: Any) -> int:
    """Return the version of the standard operators that a model asks for; 0 if it says nothing."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _check_operator(node: Any, name: str) -> None:
    texts = (node.op_type, node.name, node.domain, *node.input, *node.output)
    if not all(isinstance(text, str) for text in texts):  # protobuf gives bytes where they are no UTF-8
        raise ModelError(f"{name} holds an operator whose names are no text; it is damaged, export the network again")
    where = f"{node.op_type} ('{reading.shown(node.name)}')" if node.name else node.op_type
    if any(attribute.g.ByteSize() or attribute.graphs for attribute in node.attribute):
        raise ModelError(
            f"{name} holds the operator {where} with a program in it, which is not read: loops and branches"
        )
    if node.op_type.startswith(_QUANTISED):
        raise ModelError(f"{name} is quantised ({where}): prune the network in float32 and quantise the pruned one")
    if node.domain not in ("", "ai.onnx"):
        raise ModelError(
            f"{name} holds the operator {where} of the domain {reading.shown(node.domain)}, which is not read: take "
            "the file as it was exported, before a runtime has optimised it"
        )


def _check_tensor(tensor: Any, name: str, *, weightless: bool, idle: bool) -> None:
    what = f"{name}: the constant '{reading.shown(tensor.name)}'"
    kind = onnx().TensorProto.DataType
    if tensor.data_type not in _BYTES:
        known = tensor.data_type in kind.values()
        label = kind.Name(tensor.data_type).lower() if known else f"type {tensor.data_type}"
        raise ModelError(f"{what} is {label}, where float32 networks are pruned; export the network in float32")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{what} has the impossible shape {list(tensor.dims)[:8]}; the file is damaged")
    numbers = math.prod(tensor.dims)
    if tensor.raw_data:
        there, wanted = len(tensor.raw_data), numbers * _BYTES[tensor.data_type]
    else:
        there, wanted = len(getattr(tensor, _FIELDS[tensor.data_type])), numbers
    if there != wanted and not (weightless and not there):
        raise ModelError(
            f"{what} has the shape {list(tensor.dims)[:8]}, which its content does not have; it is damaged"
        )
    if there and not idle and tensor.data_type in (_FLOAT, _DOUBLE) and _holds_nan(tensor):
        raise ModelError(f"{what} holds NaN, of which nothing can be computed; export the network with sound weights")


def _holds_nan(tensor: Any) -> bool:
    import numpy as np

    return bool(np.isnan(onnx().numpy_helper.to_array(tensor)).any())


def _fetch(model: Any, path: Path) -> None:
    """Read weights that stand in files of their own into the model."""
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == _EXTERNAL]
    left: dict[Path, int] = {}
    for tensor in outside:
        told = _told(tensor)
        place = _inside(path.parent, told.get("location", ""), path)
        wanted = math.prod(size for size in tensor.dims) * _BYTES.get(tensor.data_type, 0)
        try:
            size = reading.regular(place)
            start, length = int(told.get("offset", "0") or 0), int(told.get("length", str(wanted)) or wanted)
            left.setdefault(place, 2 * size)  # tied weights may be named twice, and not a thousand times
            left[place] -= length
            if start < 0 or length != wanted or start + length > size or left[place] < 0:
                raise ValueError
            with place.open("rb") as file:
                file.seek(start)
                tensor.raw_data = file.read(length)
        except OSError as error:
            raise ModelError(
                f"{path} keeps its weights in {place.name}, which cannot be read: {error.strerror or error}; put that "
                "file beside it"
            ) from error
        except ValueError as error:
            raise ModelError(f"{path} and its weights in {place.name} do not fit together; copy both again") from error
        del tensor.external_data[:]
        tensor.data_location = 0


def _inside(folder: Path, location: str, path: Path) -> Path:
    if not location or "\0" in location or "\\" in location:
        called = f"one named '{reading.shown(location)}'" if location else "one without a name"
        raise ModelError(
            f"{path} keeps its weights in another file, {called}, which can be none; export it again, in one file"
        )
    place = folder / location
    if Path(location).is_absolute() or not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
        raise ModelError(
            f"{path} asks for weights outside of its folder ({reading.shown(location)}), which are not read"
        )
    return place


def skeleton_of(model: Any) -> bytes:
    """Return a model without its weights and notes: what is needed to build it again and read weights into it."""
    bare = onnx().ModelProto()
    bare.CopyFrom(model)
    bare.doc_string, bare.graph.doc_string = "", ""
    for part in (bare, bare.graph, *bare.graph.node, *_constants(bare)):
        del part.metadata_props[:]
    for node in bare.graph.node:
        node.doc_string = ""
    for tensor in _constants(bare):
        if tensor.data_type == _FLOAT and math.prod(tensor.dims) > SMALL:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return bare.SerializeToString(deterministic=True)


def fill(model: Any) -> None:
    """Give the weights of a skeleton numbers on which the network runs; they stand for those that are read later."""
    import numpy as np

    draw = np.random.default_rng(0)
    for tensor in _constants(model):
        numbers = math.prod(tensor.dims)
        if numbers and not tensor.raw_data and not getattr(tensor, _FIELDS[tensor.data_type]):
            size = max(1, math.prod(tensor.dims[1:])) if len(tensor.dims) > 1 else 1
            values = draw.uniform(0.5, 1.5, numbers) / size
            tensor.raw_data = values.astype(np.float32).tobytes()


def weights_in(model: Any) -> int:
    """Return how many numbers all constants of a model have."""
    return sum(math.prod(tensor.dims) for tensor in _constants(model))


def _constants(model: Any) -> Iterable[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.type == attribute.TENSOR)

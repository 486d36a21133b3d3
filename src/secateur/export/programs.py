"""Programs that run without the network's Python code: ``torch.export`` and ONNX."""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.errors import ExportError
from secateur.export.attempt import Way, export, write_through
from secateur.export.comparison import Call, Exported, Inputs, Runner, outputs
from secateur.export.onnx_interface import BATCH, Called, called_as
from secateur.measure.openvino_programs import compiled_by_openvino
from secateur.measure.steady_onnx import steady_onnx

_ONNX = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = {"onnx": _ONNX, "onnx-int8": _ONNX, "openvino-int8": (*_ONNX, "openvino", "nncf")}
"""What writing a format takes beside PyTorch."""
PLAIN = Called()
_OWN_OPSET = 18
"""The oldest that torch's exporter writes."""


@checked
def export_pt2(
    model: nn.Module, example_inputs: Inputs, path: str | Path, *, reference: nn.Module | None = None
) -> Exported:
    """Write the network as a ``torch.export`` program, which runs without its Python code.

    Args:
        model: the network; its weights, device and train/eval mode stay as they are.
        example_inputs: one batch, first dimension = batch; the values are not stored.
        path: the file to write, usually ``model.pt2``.
        reference: a network that the file must compute the same as, such as the one that ``model`` was deployed from;
            ``model`` itself if None.

    Returns:
        What was written, after it was reloaded and gave the same outputs on two batches.

    Raises:
        ExportError: if the network cannot be exported or the file computes something else; none is left then.
    """
    return export(model, example_inputs, Path(path), "pt2", _ways(_write_pt2, _load_pt2), reference)


@checked
def export_onnx(
    model: nn.Module, example_inputs: Inputs, path: str | Path, *, reference: nn.Module | None = None
) -> Exported:
    """Write the network as one ONNX file, as run by ONNX Runtime and many other engines.

    A network from an ONNX file is written with the names of that file's inputs and outputs, its channels where they
    were, its batch free or fixed as it was, and in its opset where the exporter can.

    Args:
        model: the network; its weights, device and train/eval mode stay as they are.
        example_inputs: one batch, first dimension = batch; the values are not stored.
        path: the file to write, usually ``model.onnx``.
        reference: a network that the file must compute the same as, such as the one that ``model`` was deployed from;
            ``model`` itself if None.

    Returns:
        What was written, after ONNX Runtime gave the same outputs on two batches.

    Raises:
        ExportError: if packages are missing, the network cannot be exported or the file computes something
            else; none is left then.
    """
    return export_called(
        model, example_inputs, Path(path), called_as(model if reference is None else reference), reference
    )


def export_called(
    model: nn.Module, example_inputs: Inputs, path: Path, called: Called, reference: nn.Module | None = None
) -> Exported:
    """Write an ONNX file that is called in this way, see ``export_onnx``."""
    if reason := missing("onnx"):
        raise ExportError(reason)
    given = example_inputs if called.dynamic else called.example
    made = export(model, given, path, "onnx", _onnx_ways(called), reference)
    return replace(made, remark=_other_opset(path, called.opset)) if called.opset else made


def _other_opset(path: Path, wanted: int) -> str:
    library: Any = importlib.import_module("onnx")
    own = next(
        entry.version for entry in library.load(str(path), load_external_data=False).opset_import if entry.domain == ""
    )
    return "" if own == wanted else f"in opset {own}, as PyTorch cannot write this network in the file's own {wanted}"


def missing(kind: str) -> str:
    """Say which package a format needs that is not there, and how to install it; empty if there is none."""
    for package in PACKAGES.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            extra = "int8" if package in ("openvino", "nncf") else "export"
            return f'{kind} needs the package {package}; run: pip install "secateur[{extra}]"'
    return ""


def program_of(network: nn.Module, traced: Call, dynamic: bool) -> Any:
    """Return the ``ExportedProgram`` of a network."""
    batch = torch.export.Dim(BATCH, min=1)

    def shape(value: object) -> Any:
        return {0: batch} if isinstance(value, Tensor) else None

    shapes: Any = {name: shape(value) for name, value in traced.kwargs.items()} or tuple(map(shape, traced.args))
    program = torch.export.export(
        network, traced.args, traced.kwargs, dynamic_shapes=shapes if dynamic else None, strict=False
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _ways(
    content: Callable[[Any], bytes], load: Callable[[Path], Runner], steady: Callable[[Path], Runner] | None = None
) -> list[Way]:
    """Return the two ways to write a program: for batches of any size, else for that of the example."""

    def way(dynamic: bool) -> Way:
        return Way(
            dynamic,
            lambda network, traced, path: write_through(path, content(program_of(network, traced, dynamic))),
            load,
            steady=steady,
        )

    return [way(True), way(False)]


def _write_pt2(program: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _load_pt2(file: Path) -> Runner:
    module = torch.export.load(file).module()
    return lambda call: outputs(module(*call.args, **call.kwargs))


def _onnx_ways(called: Called) -> list[Way]:
    """Return the ways to write an ONNX file, the first of them in the opset of the file that the network came from."""

    def way(dynamic: bool, opset: int | None, former: bool) -> Way:
        def write(network: nn.Module, traced: Call, path: Path) -> None:
            network, traced = called.wrapped(network), called.turned(traced)
            if former:
                write_through(path, _older_onnx_bytes(network, traced, called, dynamic))
            else:
                write_through(path, _onnx_bytes(program_of(network, traced, dynamic), called, opset))

        return Way(
            dynamic,
            write,
            lambda path: load_onnx(path, called),
            steady=lambda path: session(steady_onnx(path.read_bytes()), called),
        )

    kinds: list[tuple[int | None, bool]] = [(called.opset or None, False)]
    if 0 < called.opset < _OWN_OPSET:  # by the exporter of today it is converted down, where that is known how to
        kinds = [(called.opset, True), *kinds, (_OWN_OPSET, False)]
    return [way(dynamic, *kind) for dynamic in (True, False) if called.dynamic or not dynamic for kind in kinds]


def _onnx_bytes(program: Any, called: Called, opset: int | None) -> bytes:
    exporter: Any = torch.onnx
    onnx_program = exporter.export(
        program,
        (),
        dynamo=True,
        external_data=False,
        verbose=False,
        opset_version=opset,
        input_names=called.inputs or None,
        output_names=called.outputs or None,
    )
    for node in onnx_program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and half of the file
    model = onnx_program.model_proto
    _name_batch(model.graph, called)
    return model.SerializeToString()


def _name_batch(graph: Any, called: Called) -> None:
    """Call the batch as it is called, alone and in sizes such as ``2*s40``: the exporter has a name of its own."""
    firsts = (value.type.tensor_type.shape.dim[:1] for value in graph.input)
    names = {size.dim_param for sizes in firsts for size in sizes if size.dim_param}
    if len(names) != 1:  # a batch is all that is free in a program of ours
        return
    own = re.compile(rf"\b{re.escape(names.pop())}\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        name = called.axis(value.name).replace("\\", r"\\")
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = own.sub(name, size.dim_param)


def _older_onnx_bytes(network: nn.Module, traced: Call, called: Called, dynamic: bool) -> bytes:
    """Write an old opset as torch's former exporter does, without a detour."""
    exporter: Any = torch.onnx
    buffer = io.BytesIO()
    exporter.export(
        network,
        traced.args,
        buffer,
        dynamo=False,
        opset_version=called.opset,
        input_names=list(called.inputs),
        output_names=list(called.outputs),
        keep_initializers_as_inputs=False,
        dynamic_axes={name: {0: called.axis(name)} for name in (*called.inputs, *called.outputs)} if dynamic else None,
    )
    return buffer.getvalue()


def load_onnx(file: Path, called: Called = PLAIN) -> Runner:
    """Make an ONNX file run in ONNX Runtime."""
    return session(str(file), called)


def session(program: str | bytes, called: Called = PLAIN) -> Runner:
    """Make an ONNX file, or its content, run in ONNX Runtime."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and says so
    made = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in made.get_inputs()]
    return lambda call: [torch.as_tensor(output) for output in made.run(None, feed(names, called.turned(call)))]


def load_openvino(file: Path, called: Called = PLAIN) -> Runner:
    """Make a file of OpenVINO run there."""
    compiled = compiled_by_openvino(str(file), torch.get_num_threads())
    names = [port.any_name for port in compiled.inputs]

    def run(call: Call) -> list[Tensor]:
        found = compiled(feed(names, called.turned(call)))
        return [torch.as_tensor(found[port]).clone() for port in compiled.outputs]

    return run


def feed(names: Sequence[str], call: Call) -> dict[str, Any]:
    """Return the tensors of a call as arrays, by the names that a program gives to its inputs."""
    values = [call.kwargs[name] for name in names] if call.kwargs else call.tensors()
    return {name: value.numpy() for name, value in zip(names, values, strict=True) if isinstance(value, Tensor)}

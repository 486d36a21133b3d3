"""Programs that run without the network's Python code: ``torch.export`` and ONNX."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.errors import ExportError
from secateur.export.attempt import Way, export, write_through
from secateur.export.comparison import Call, Exported, Inputs, Runner, outputs
from secateur.measure.openvino_programs import compiled_by_openvino
from secateur.measure.steady_onnx import steady_onnx

_ONNX = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = {"onnx": _ONNX, "onnx-int8": _ONNX, "openvino-int8": (*_ONNX, "openvino", "nncf")}
"""What writing a format takes beside PyTorch."""


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
    if reason := missing("onnx"):
        raise ExportError(reason)
    return export(
        model, example_inputs, Path(path), "onnx", _ways(_write_onnx, load_onnx, _load_steady_onnx), reference
    )


def missing(kind: str) -> str:
    """Say which package a format needs that is not there, and how to install it; empty if there is none."""
    for package in PACKAGES.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            extra = "int8" if package in ("openvino", "nncf") else "export"
            return f'{kind} needs the package {package}; run: pip install "secateur[{extra}]"'
    return ""


def program_of(network: nn.Module, traced: Call, dynamic: bool) -> Any:
    """Return the ``ExportedProgram`` of a network."""
    batch = torch.export.Dim("batch", min=1)

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


def _write_onnx(program: Any) -> bytes:
    exporter: Any = torch.onnx
    onnx_program = exporter.export(program, (), dynamo=True, external_data=False, verbose=False)
    for node in onnx_program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and half of the file
    return onnx_program.model_proto.SerializeToString()


def _load_steady_onnx(file: Path) -> Runner:
    return session(steady_onnx(file.read_bytes()))


def load_onnx(file: Path) -> Runner:
    """Make an ONNX file run in ONNX Runtime."""
    return session(str(file))


def session(program: str | bytes) -> Runner:
    """Make an ONNX file, or its content, run in ONNX Runtime."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in made.get_inputs()]
    return lambda call: [torch.as_tensor(output) for output in made.run(None, feed(names, call))]


def load_openvino(file: Path) -> Runner:
    """Make a file of OpenVINO run there."""
    compiled = compiled_by_openvino(str(file), torch.get_num_threads())
    names = [port.any_name for port in compiled.inputs]

    def run(call: Call) -> list[Tensor]:
        found = compiled(feed(names, call))
        return [torch.as_tensor(found[port]).clone() for port in compiled.outputs]

    return run


def feed(names: Sequence[str], call: Call) -> dict[str, Any]:
    """Return the tensors of a call as arrays, by the names that a program gives to its inputs."""
    values = [call.kwargs[name] for name in names] if call.kwargs else call.tensors()
    return {name: value.numpy() for name, value in zip(names, values, strict=True) if isinstance(value, Tensor)}

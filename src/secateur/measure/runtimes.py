"""The programs that can run a network: PyTorch in three ways, ONNX Runtime and OpenVINO in float32 and in int8."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from secateur.arguments import checked
from secateur.core.surgery.channel_differences import relative_gap, wide
from secateur.core.surgery.steady_draws import Steady
from secateur.core.surgery.untouched import owned, private
from secateur.errors import ModelError, SettingError, nearest, reason_of
from secateur.measure.conversion import input_names, onnx_program
from secateur.measure.forward import ExampleInputs, KnownDevice, call, call_on, device_of, evaluating, moved, tensors
from secateur.measure.openvino_programs import compiled_by_openvino
from secateur.measure.quantisation import Quantiser, names_of
from secateur.measure.quiet_exporters import ready_to_compile
from secateur.measure.steady_onnx import steady_onnx

Runtime = Literal[
    "eager", "channels_last", "compile", "onnxruntime", "openvino", "onnxruntime_int8", "openvino_int8"
]  # fmt: skip
"""How a network is run: by PyTorch as it is, with images and kernels laid out channels last, or compiled by
``torch.compile``, on a GPU into CUDA graphs; by ONNX Runtime; by OpenVINO; by either with its layers in int8."""

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

INT8 = "_int8"
"""How a runtime ends that computes in int8, calibrated on the inputs that it is given: its times are those of a file
that ``export`` writes, its outputs are not."""

TOLERANCE = 1e-3
"""Largest difference from PyTorch eager, relative to the largest output, with which a runtime is still believed."""

_ROUGH = 1.0  # the same in int8, whose time means something however few of its answers are the same

_PACKAGES = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "onnxruntime_int8": ("onnx", "onnxruntime"),
    "openvino_int8": ("onnx", "onnxruntime", "openvino"),
}
_EXTRAS = {"onnxruntime": "export", "openvino": "openvino", "onnxruntime_int8": "export", "openvino_int8": "int8"}

Pass: TypeAlias = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Ready:
    """A network that only waits to be run.

    Attributes:
        run: does one forward pass, and waits until it is done.
        outputs: does one and returns its tensors, on the CPU.
        steady: does the same with constants in the place of random numbers, where it draws otherwise than torch.
    """

    run: Pass
    outputs: Callable[[], list[Tensor]]
    steady: Callable[[], list[Tensor]] | None = None


def known(runtime: str) -> Runtime:
    """Return a runtime by its name.

    Raises:
        SettingError: if there is none of that name.
    """
    if runtime in RUNTIMES:
        return runtime
    raise SettingError(f"unknown runtime '{runtime}'{nearest(runtime, RUNTIMES)}: choose {' or '.join(RUNTIMES)}")


@checked
def missing(runtime: Runtime, device: KnownDevice = "cpu") -> str:
    """Say why a runtime cannot be had here and what to do about it; empty if it can."""
    if runtime in _PACKAGES and torch.device(device).type != "cpu":
        return f"{runtime} is timed on the CPU only; leave it out, or choose the device cpu"
    for package in _PACKAGES.get(runtime, ()):
        if importlib.util.find_spec(package) is None:
            return f'{runtime} needs the package {package}; run: pip install "secateur[{_EXTRAS[runtime]}]"'
    if runtime == "compile" and torch.device(device).type == "cpu" and not _compiler():
        return "compile needs a C++ compiler; install one (g++ or clang), or name it in the variable CXX"
    return ""


@checked
def installed(device: KnownDevice = "cpu") -> tuple[Runtime, ...]:
    """Return the runtimes that can be had here."""
    return tuple(runtime for runtime in RUNTIMES if not missing(runtime, device))


@contextmanager
def threads_set(threads: int | None) -> Generator[int]:
    """Give torch this many threads for a while; None for as many as it has."""
    before = torch.get_num_threads()
    used = before if threads is None else threads
    if used != before:
        torch.set_num_threads(used)
    try:
        yield used
    finally:
        if used != before:
            torch.set_num_threads(before)


def ready(model: nn.Module, example_inputs: ExampleInputs, runtime: Runtime, threads: int) -> Ready:
    """Make a network ready to run; call it, and what it returns, under ``threads_set``, in eval and inference mode.

    Args:
        model: any network; stays as it is, the runtimes other than ``eager`` work on copies.
        example_inputs: what its forward takes; moved to the model's device.
        runtime: see ``Runtime``.
        threads: of the CPU.

    Raises:
        SettingError: if the runtime is not installed.
        ExportError: if the network cannot be converted for it.
        ModelError: if the network does not run on the inputs.
    """
    device = device_of(model)
    reason = missing(runtime, device)
    if reason:
        raise SettingError(reason)
    inputs = moved(example_inputs, device)
    if runtime in _PACKAGES:
        program = onnx_program(model, inputs)
        made = from_program(program, inputs, runtime, threads)
        if runtime.endswith(INT8):
            return made
        return replace(made, steady=lambda: from_program(steady_onnx(program), inputs, runtime, threads).outputs())
    if runtime == "channels_last":
        inputs = moved(example_inputs, device, torch.channels_last)
        model = private(model).to(memory_format=torch.channels_last)
    elif runtime == "compile":
        ready_to_compile()
        mode = "reduce-overhead" if device.type == "cuda" else "default"  # the former by CUDA graphs
        model = cast("nn.Module", torch.compile(private(model), dynamic=False, mode=mode))
    return _torch(model, inputs, device, compiled=runtime == "compile")


def from_program(program: bytes, inputs: ExampleInputs, runtime: Runtime, threads: int) -> Ready:
    """Make an ONNX program in float32 ready to run in ONNX Runtime or OpenVINO.

    Its inputs are called ``input_0`` and so on, or stand in the order of those that are given.
    """
    if runtime.endswith(INT8):
        program = Quantiser(program, [_feed(names_of(program), inputs)]).quantised()
    make = _onnxruntime if engine_of(runtime) == "onnxruntime" else _openvino
    return make(program, inputs, threads)


def engine_of(runtime: Runtime) -> str:
    """Return the package that runs a network: ``onnxruntime``, ``openvino``, else ``torch``."""
    return runtime.removesuffix(INT8) if runtime in _PACKAGES else "torch"


def difference(model: nn.Module, example_inputs: ExampleInputs, made: Ready) -> float:
    """Return how far the outputs are from those of PyTorch eager, relative to the largest; inf if not comparable.

    Both draw the same random numbers, or are compared with constants in their place where the runtime has its own.
    """
    inputs = moved(example_inputs, device_of(model))
    with evaluating(model), torch.inference_mode():
        expected = _leaves(call(model, inputs))
    with evaluating(model), torch.inference_mode():  # from the same random states
        found = _worst(expected, made.outputs())
    if found <= TOLERANCE or made.steady is None:
        return found
    with evaluating(model), torch.inference_mode(), Steady() as steady:
        expected = _leaves(call(model, inputs))
    return min(found, _worst(expected, made.steady())) if steady.used else found


def _worst(expected: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    if [x.shape for x in expected] != [x.shape for x in given]:
        return float("inf")
    pairs = zip(expected, given, strict=True)
    return max((relative_gap(wide(want), wide(got)) for want, got in pairs), default=0.0)


def verified(model: nn.Module, example_inputs: ExampleInputs, made: Ready, runtime: Runtime) -> float:
    """Return ``difference``, if it is small enough.

    Raises:
        ModelError: if the runtime does not compute what PyTorch computes, so that its time means nothing.
    """
    found = difference(model, example_inputs, made)
    if found > (_ROUGH if runtime.endswith(INT8) else TOLERANCE):
        raise ModelError(
            f"{runtime} computes something else than PyTorch (the outputs differ by {found:.1e} of the largest); "
            "its time would mean nothing, so time the network in another runtime"
        )
    return found


def _torch(model: nn.Module, inputs: Any, device: torch.device, *, compiled: bool) -> Ready:
    mine = owned(inputs)

    def run() -> Any:
        output = call_on(model, mine)  # copying them is not what is timed
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return output

    if compiled:
        try:
            with evaluating(model), torch.inference_mode():
                run()
        except ModelError:
            raise
        except Exception as error:  # compilers raise anything
            reason = reason_of(error)
            raise ModelError(f"torch.compile fails on this network ({reason})") from None

    def outputs() -> list[Tensor]:
        return _leaves(call(model, inputs))

    def steady() -> list[Tensor]:
        with Steady():
            return outputs()

    return Ready(run, outputs, None if compiled else steady)  # memory is filled in its order, and formats have theirs


def _onnxruntime(program: bytes, inputs: ExampleInputs, threads: int) -> Ready:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and says so
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads == 1:  # else threads that wait would count as processor time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    feed = _feed([entry.name for entry in session.get_inputs()], inputs)

    def run() -> Any:
        return session.run(None, feed)

    return Ready(run, lambda: [torch.as_tensor(output) for output in run()])


def _openvino(program: bytes, inputs: ExampleInputs, threads: int) -> Ready:
    compiled = compiled_by_openvino(program, threads)
    request = compiled.create_infer_request()
    feed = _feed([port.any_name for port in compiled.inputs], inputs)

    def run() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)

    return Ready(run, lambda: [torch.as_tensor(run()[port]).clone() for port in compiled.outputs])


def _feed(names: list[str], inputs: ExampleInputs) -> dict[str, Any]:
    """Return the inputs by their names, without those that the program does not need, or else in their order."""
    values = list(tensors(inputs))
    given = dict(zip(input_names(inputs), values, strict=True))
    if not given.keys() >= set(names):
        given = dict(zip(names, values, strict=True))
    return {name: given[name].numpy() for name in names}


def _leaves(value: Any) -> list[Tensor]:
    leaves: list[Any] = cast(Any, _pytree).tree_leaves(value)
    return [leaf.detach().cpu() for leaf in leaves if isinstance(leaf, Tensor)]


def _compiler() -> bool:
    """Say whether there is a C++ compiler, as ``torch.compile`` looks for one."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    return any(shutil.which(name) for name in names if name)

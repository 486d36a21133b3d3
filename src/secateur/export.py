"""Files that other programs can run, each reloaded and compared with the network before it is kept."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from secateur.errors import ExportError

Inputs: TypeAlias = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
Runner: TypeAlias = Callable[["Call"], list[Tensor]]

TOLERANCE = 1e-4
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")


@dataclass(frozen=True)
class Exported:
    """A file that computes what the network computes.

    Attributes:
        path: the file.
        kind: ``"pt2"`` or ``"onnx"``.
        difference: largest absolute difference of any output, relative to the output's largest value.
        dynamic_batch: whether the file takes batches of any size; otherwise only that of the example inputs.
    """

    path: Path
    kind: Literal["pt2", "onnx"]
    difference: float
    dynamic_batch: bool


@dataclass(frozen=True)
class Call:
    """Positional and named inputs of one forward pass, on the CPU."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with every tensor replaced."""
        return Call(tuple(map(function, self.args)), {name: function(x) for name, x in self.kwargs.items()})

    def tensors(self) -> list[Tensor]:
        """Return all tensors in order."""
        return [*self.args, *self.kwargs.values()]


def export_pt2(model: nn.Module, example_inputs: Inputs, path: str | Path) -> Exported:
    """Write the network as a ``torch.export`` program, which runs without its Python code.

    Args:
        model: the network; its weights, device and train/eval mode stay as they are.
        example_inputs: one batch, first dimension = batch; the values are not stored.
        path: the file to write, usually ``model.pt2``.

    Returns:
        What was written, after it was reloaded and gave the same outputs on two batches.

    Raises:
        ExportError: if the network cannot be exported or the file computes something else; none is left then.
    """

    def write(program: Any) -> bytes:
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return buffer.getvalue()

    def load(file: Path) -> Runner:
        module = torch.export.load(file).module()
        return lambda call: _outputs(module(*call.args, **call.kwargs))

    return _export(model, example_inputs, Path(path), "pt2", write, load)


def export_onnx(model: nn.Module, example_inputs: Inputs, path: str | Path) -> Exported:
    """Write the network as one ONNX file, as run by ONNX Runtime and many other engines.

    Args:
        model: the network; its weights, device and train/eval mode stay as they are.
        example_inputs: one batch, first dimension = batch; the values are not stored.
        path: the file to write, usually ``model.onnx``.

    Returns:
        What was written, after ONNX Runtime gave the same outputs on two batches.

    Raises:
        ExportError: if packages are missing, the network cannot be exported or the file computes something
            else; none is left then.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(f'ONNX export needs the package {package}; run: pip install "secateur[export]"')
    return _export(model, example_inputs, Path(path), "onnx", _write_onnx, _load_onnx)


def _write_onnx(program: Any) -> bytes:
    exporter: Any = torch.onnx
    onnx_program = exporter.export(program, (), dynamo=True, external_data=False, verbose=False)
    for node in onnx_program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and half of the file
    return onnx_program.model_proto.SerializeToString()


def _load_onnx(file: Path) -> Runner:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(call: Call) -> list[Tensor]:
        values = [call.kwargs[name] for name in names] if call.kwargs else call.args
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.as_tensor(output) for output in session.run(None, feed)]

    return run


def _export(
    model: nn.Module,
    example_inputs: Inputs,
    path: Path,
    kind: Literal["pt2", "onnx"],
    write: Callable[[Any], bytes],
    load: Callable[[Path], Runner],
) -> Exported:
    """Export with a dynamic batch size, else with a fixed one; keep the file only if it computes the same."""
    network = copy.deepcopy(model).cpu().eval()  # the caller's mode and device stay untouched
    example = _call(example_inputs)
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix or '.' + kind}")
    reasons: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for dynamic in (True, False) if _batch(example) else (False,):
            with _quiet(), torch.no_grad():
                try:
                    difference = _attempt(network, example, dynamic, temporary, write, load)
                except OSError:
                    raise
                except Exception as error:  # exporters raise anything, NotImplementedError to internal assertions
                    reasons.append(f"{type(error).__name__}: {_first_line(error)}")
                    continue
            if difference <= TOLERANCE:
                os.replace(temporary, path)
                return Exported(path, kind, difference, dynamic)
            reasons.append(
                f"its outputs differ by {difference:.1e} of their size, more than {TOLERANCE:.0e}"
                if math.isfinite(difference)
                else "its outputs are not finite or have another shape"
            )
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another path"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    raise ExportError(f"cannot export the network as {kind}: {reasons[-1]}; no file was kept, the network is unharmed")


def _attempt(
    network: nn.Module,
    example: Call,
    dynamic: bool,
    temporary: Path,
    write: Callable[[Any], bytes],
    load: Callable[[Path], Runner],
) -> float:
    """Export once, reload and return the largest difference over the example and a random batch."""
    # torch.export treats a size of 1 as a constant, so a dynamic batch is traced with two or more
    traced = _random(example, max(2, _batch(example)) if dynamic else 0, seed=0)
    program = torch.export.export(
        network,
        traced.args,
        traced.kwargs,
        dynamic_shapes=_dynamic_shapes(traced) if dynamic else None,
        strict=False,
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    with temporary.open("wb") as file:
        file.write(write(program))
        file.flush()
        os.fsync(file.fileno())
    run = load(temporary)
    other = _random(example, _batch(example) + 1 if dynamic else 0, seed=1)
    return max(_difference(network, run, call) for call in (example, other))


def _difference(network: nn.Module, run: Runner, call: Call) -> float:
    """Return the largest difference of an output relative to its largest value; inf where not comparable."""
    expected = _outputs(network(*call.args, **call.kwargs))
    given = run(call)
    if [x.shape for x in expected] != [x.shape for x in given]:
        return float("inf")
    worst = 0.0
    for want, got in zip(expected, given, strict=True):
        if not want.numel():
            continue
        size = want.double().abs().max().item() or 1.0
        error = (got.double() - want.double()).abs().max().item() / size
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _outputs(value: Any) -> list[Tensor]:
    """Return the tensors in a network's output, in the order of the exporters."""
    leaves: list[Any] = cast(Any, _pytree).tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _call(inputs: Inputs) -> Call:
    if isinstance(inputs, Tensor):
        call = Call((inputs,), {})
    elif isinstance(inputs, Mapping):
        call = Call((), dict(inputs))
    else:
        call = Call(tuple(inputs), {})
    if not all(isinstance(x, cast(Any, Tensor)) for x in call.tensors()):
        raise ExportError("example inputs must be a tensor, a tuple of tensors or a dictionary of tensors")
    return call.map(lambda x: x.detach().cpu())


def _batch(call: Call) -> int:
    """Return the batch size that all inputs share; 0 where they share none."""
    sizes = {x.shape[0] if x.ndim else 0 for x in call.tensors()}
    return sizes.pop() if len(sizes) == 1 else 0


def _random(call: Call, batch: int, seed: int) -> Call:
    """Return random images, as many as ``batch`` (0 = unchanged); whole numbers repeat the example's."""
    generator = torch.Generator().manual_seed(seed)

    def fill(x: Tensor) -> Tensor:
        shape = (batch, *x.shape[1:]) if batch else x.shape
        if x.is_floating_point():
            return torch.randn(shape, generator=generator).to(x.dtype)
        return x if not batch else x[torch.arange(batch) % len(x)]

    return call.map(fill)


def _dynamic_shapes(call: Call) -> Any:
    batch = torch.export.Dim("batch", min=1)
    return {name: {0: batch} for name in call.kwargs} if call.kwargs else tuple({0: batch} for _ in call.args)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporters from printing, warning and logging."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

"""Whether a module computes what ONNX Runtime makes of the file that it was read from."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery.channel_differences import own_rounding, relative_gap, worst_channel
from secateur.errors import ModelError, first_line
from secateur.models.onnx_files.interface import Interface

TOLERANCE = 1e-4
"""Largest difference of a channel of an output, of the channel's largest value."""

LEAST_SHARE = 0.03
"""Share of an output's largest value that a channel counts as if it were smaller: sums round by their largest terms."""


def agree(network: nn.Module, model: Any, interface: Interface, name: str) -> float:
    """Return the largest difference over two images, or two batches where the batch is fixed, taken at once in torch.

    Args:
        network: the module.
        model: what it was read from.
        interface: of the file.
        name: of the file.

    Raises:
        ModelError: if it is more than rounding makes.
    """
    draw = torch.Generator().manual_seed(0)
    pairs = 1 if interface.dynamic else 2
    given = [torch.randn(pairs * shape[0], *shape[1:], generator=draw) for shape in interface.shapes]
    expected = _run(model, given, interface, name, pairs)
    try:
        outputs = _outputs_of(network, given)
    except Exception as error:
        fixed = (
            "" if interface.dynamic else f"; its batch is fixed at {interface.shapes[0][0]}: export it with a free one"
        )
        raise ModelError(f"{name} is read, but does not run in PyTorch ({first_line(error)}){fixed}") from error
    worst, own = 0.0, dict[str, Tensor]()
    for output, found, wanted in zip(interface.outputs, outputs, expected, strict=True):
        if found.shape != wanted.shape:
            raise ModelError(
                f"{name}: the network that was read puts out '{output}' of the shape {list(found.shape)}, and ONNX "
                f"Runtime {list(wanted.shape)}; export it with a free batch"
            )
        error = _difference(wanted, found)
        if error > TOLERANCE:
            if not own:
                rounding = own_rounding(lambda roll: _outputs_of(network, [*map(roll, given)]))
                own = dict(zip(interface.outputs, rounding, strict=False))
            error = _difference(wanted, found, own.get(output))
        if not error <= TOLERANCE:
            raise ModelError(
                f"{name}: the network that was read differs from what ONNX Runtime makes of the file by {error:.1e} of "
                f"a channel of its output '{output}'; it is not pruned, for nothing would be proved"
            )
        worst = max(worst, error)
    return worst


def _difference(wanted: Tensor, found: Tensor, rounding: Tensor | None = None) -> float:
    """Return the largest difference of the whole output, or of a channel of it that is off by more than rounding."""
    return max(relative_gap(wanted, found), worst_channel(wanted, found, LEAST_SHARE, rounding))


def _outputs_of(network: nn.Module, given: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        made: Any = network(*given)
    return [made] if isinstance(made, Tensor) else list(made)


def _run(model: Any, given: list[Tensor], interface: Interface, name: str, pairs: int) -> list[Tensor]:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        parts: list[list[Tensor]] = []
        for part in range(pairs):
            feed = {
                label: (x.permute(0, 2, 3, 1) if turned else x).contiguous().numpy()
                for label, turned, x in zip(
                    interface.inputs, interface.turned, (x.chunk(pairs)[part] for x in given), strict=True
                )
            }
            parts.append([torch.as_tensor(output) for output in session.run(list(interface.outputs), feed)])
    except Exception as error:  # of classes of its own
        raise ModelError(f"ONNX Runtime does not run {name}: {first_line(error)}") from error
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

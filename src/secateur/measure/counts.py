"""How large a network is: parameters, multiply-accumulates and activations, counted on the network itself."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..core.blocks import executing
from ..core.together import Together
from .forward import ExampleInputs, call, device_of, evaluating, moved
from .record import Record

_MAKERS = (
    torch.ops.aten.convolution,
    torch.ops.aten._convolution,
    torch.ops.aten.addmm,
    torch.ops.aten.mm,
)


@dataclass(frozen=True)
class Counts(Record):
    """The size of a network.

    Attributes:
        params: number of parameter elements; shared parameters count once, buffers not at all.
        nonzero: how many of them are not zero.
        macs: multiply-accumulates of one forward pass of the example inputs (2 floating-point operations are
            1 MAC), in convolutions and matrix products; the rest is not counted, as is usual.
        activations: elements that the convolutions and linear layers of that pass put out.
    """

    params: int
    nonzero: int
    macs: int
    activations: int


def count(model: nn.Module, example_inputs: ExampleInputs) -> Counts:
    """Count the size of ``model`` by running it once in eval mode.

    The model keeps its weights, buffers and mode. Operations scale with the batch size of the example
    inputs: give one image for the usual numbers.

    Args:
        model: any network.
        example_inputs: what its forward takes; moved to the model's device.

    Returns:
        The counts; MACs by ``torch.utils.flop_counter``.

    Raises:
        ModelError: if the model does not run on the example inputs.
    """
    inputs = moved(example_inputs, device_of(model))
    activations = _Activations()
    flops = FlopCounterMode(display=False)
    with evaluating(model), executing(model, "blocks"), torch.no_grad(), _in_the_open(), activations, flops:
        call(model, inputs)
    params = list(model.parameters())
    return Counts(
        params=sum(param.numel() for param in params),
        nonzero=sum(int(torch.count_nonzero(param.detach())) for param in params),
        macs=flops.get_total_flops() // 2,
        activations=activations.elements,
    )


@contextmanager
def _unfused() -> Generator[None]:
    """Keep fused attention from hiding its matrix products from the counters."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


_in_the_open = Together(_unfused)


class _Activations(TorchDispatchMode):
    """Adds up the elements that convolutions and linear layers put out."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.elements = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _MAKERS and isinstance(out, Tensor):
            self.elements += out.numel()
        return out

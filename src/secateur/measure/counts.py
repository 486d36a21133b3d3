"""How large a network is: parameters, multiply-accumulates and activations, counted on the network itself."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.arguments import checked
from secateur.core.attention import module_by_module
from secateur.core.module_calls import ModuleStack
from secateur.core.operator_macs import Uncounted, by_operator, macs, remark, uncounted
from secateur.core.shared_contexts import Together
from secateur.core.surgery.private_copies import apart
from secateur.core.torch_modes import OperatorMode
from secateur.core.zeros.block_execution import executing
from secateur.measure.forward import ExampleInputs, call, device_of, evaluating, moved
from secateur.measure.record import Record

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
            1 MAC), in convolutions, products of matrices and what consists of them, see ``core.operator_macs``; the
            rest is not counted, as is usual.
        activations: elements that the convolutions and linear layers of that pass put out.
        uncounted: operators that multiply and are not in ``macs``, and where, in words; empty if there are none.
        uncounted_macs: what they take at least.
    """

    params: int
    nonzero: int
    macs: int
    activations: int
    uncounted: str = ""
    uncounted_macs: int = 0

    @property
    def missing(self) -> str:
        """Say what is not counted; empty if everything is."""
        return remark(self.uncounted, self.uncounted_macs, self.macs, self.macs, None)


@checked
@apart("model")
def count(model: nn.Module, example_inputs: ExampleInputs) -> Counts:
    """Count the size of ``model`` by running it once in eval mode.

    The model keeps its weights, buffers and mode. Operations scale with the batch size of the example
    inputs: give one image for the usual numbers.

    Args:
        model: any network.
        example_inputs: what its forward takes; moved to the model's device.

    Returns:
        The counts; MACs by the formulas of ``torch.utils.flop_counter`` and, of operators that it does not know, by
        ``core.operator_macs``.

    Raises:
        ModelError: if the model does not run on the example inputs.
    """
    inputs = moved(example_inputs, device_of(model))
    stack = ModuleStack(model)
    counter = _Counter(stack)
    with evaluating(model), executing(model, "blocks"), torch.no_grad(), _in_the_open(), stack, counter:
        call(model, inputs)
    params = list(model.parameters())
    missed = by_operator(counter.uncounted)
    return Counts(
        params=sum(param.numel() for param in params),
        nonzero=sum(_nonzero(param.detach()) for param in params),
        macs=counter.macs,
        activations=counter.elements,
        uncounted=", ".join(map(str, missed)),
        uncounted_macs=sum(each.least for each in missed),
    )


def _nonzero(tensor: Tensor) -> int:
    small = tensor.is_floating_point() and tensor.element_size() < 2  # which torch cannot count in
    return int(torch.count_nonzero(tensor.float() if small else tensor))


@contextmanager
def _unfused() -> Generator[None]:
    """Keep fused attention from hiding its matrix products from the counters."""
    with module_by_module(), sdpa_kernel(SDPBackend.MATH):
        yield


_in_the_open = Together(_unfused)


class _Counter(OperatorMode):
    """Adds up MACs, and elements that convolutions and linear layers put out; notes what no formula counts."""

    def __init__(self, stack: ModuleStack) -> None:
        super().__init__()
        self._stack = stack
        self.macs = 0
        self.elements = 0
        self.uncounted: list[Uncounted] = []

    def _ran(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if func is not torch.ops.prim.device.default:
            with self:  # functions come whole to what stands below autograd where there is none, in inference mode
                out = func.decompose(*args, **named)
            if out is not NotImplemented:
                return out
        out = func(*args, **named)
        if func.overloadpacket in _MAKERS and isinstance(out, Tensor):
            self.elements += out.numel()
        found = macs(func, args, named, out)
        if found is None:
            self.uncounted.append(uncounted(func, self._stack.current, out))
        self.macs += found or 0
        return out

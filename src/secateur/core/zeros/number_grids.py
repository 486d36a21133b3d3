"""A network that trains with weights and layer inputs rounded to few bits, and has such weights in the end.

The forward pass sees rounded numbers, the optimizer those behind them, and the gradient passes through the rounding as
if it were not there. Weights have one symmetric scale for each output channel, so that zero stays zero; the inputs of a
layer have one scale, by a range that follows those of the batches.

The rounding itself is torch's operator. The scales of torchao are not those of the paper: they take half a step more
for the range of a symmetric scale.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.zeros.parametrization import parametrized, refuse_parametrized
from secateur.core.zeros.shaper import Moment, Shaper

WHOLE = 32
"""Bits of a number that is not rounded."""

MOST = 16
"""Largest number of bits that is rounded to."""

_FOLLOWS = 0.1  # share of a range that each batch has a say in
_TINY = 1e-12
LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
"""Kinds of layers whose weights are rounded."""


def output_axis(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that counts its output channels, within each of its groups."""
    return int(isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d))


def rounded(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """Return a weight whose values are whole multiples of ``max |w| / (2^(bits - 1) - 1)`` in each output channel.

    Args:
        weight: of any shape.
        bits: 2 to ``MOST``, or ``WHOLE``, which changes nothing.
        axis: of the output channels.
    """
    if bits >= WHOLE:
        return weight
    wide = weight.float()
    top = 2 ** (bits - 1) - 1
    others = [dim for dim in range(wide.dim()) if dim != axis]
    scale = (wide.detach().abs().amax(others) / top).clamp(min=_TINY)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=wide.device)
    return torch.fake_quantize_per_channel_affine(wide, scale, zero, axis, -top, top).to(weight.dtype)


def lies_on_grid(weight: Tensor, bits: int, axis: int = 0) -> bool:
    """Tell whether rounding to so many bits leaves a weight as it is, but for the last digits of its numbers."""
    if bits >= WHOLE:
        return True
    wide = weight.detach().float()
    others = [dim for dim in range(wide.dim()) if dim != axis]
    step = wide.abs().amax(others, keepdim=True) / (2 ** (bits - 1) - 1)
    near = 1e-4 * step + torch.finfo(weight.dtype).eps * wide.abs()
    return bool(((rounded(wide, bits, axis) - wide).abs() <= near).all())


class _Rounding(nn.Module):
    """The parametrization: weight in, rounded weight out."""

    def __init__(self, bits: int, axis: int) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight, in its own dtype."""
        return rounded(weight, self.bits, self.axis)


class InputRounding:
    """Rounds what a layer reads to whole numbers without sign, or with one where negative numbers were seen.

    Args:
        bits: of each number.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.low, self.high = torch.zeros(()), torch.zeros(())

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Act before the layer."""
        x = inputs[0]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return inputs
        if layer.training and x.numel():
            self._follow(x.detach().float())
        return (self.rounded(x.float()).to(x.dtype), *inputs[1:])

    def _follow(self, x: Tensor) -> None:
        low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
        before, after = self.low.to(x.device), self.high.to(x.device)
        share = torch.where(after > before, _FOLLOWS, 1.0)
        self.low, self.high = before.lerp(low, share), after.lerp(high, share)

    def rounded(self, x: Tensor) -> Tensor:
        """Return numbers rounded within the range as it stands; all as they are before there is one."""
        low, high = self.low.to(x.device), self.high.to(x.device)
        top, half = 2**self._bits - 1, 2 ** (self._bits - 1) - 1
        # in tensors throughout: to ask what a range is would wait for an accelerator in every layer
        scale = torch.where(low < 0.0, torch.maximum(high, -low) / half, high / top).clamp(min=_TINY)
        zero = torch.where(low < 0.0, half, 0).to(torch.int32)
        return torch.where(high > low, torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, top), x)


class NumberGrids(Shaper):
    """Keeps the forward passes of a network on grids while it trains.

    Args:
        layers: those whose weights are rounded, by name, in the order of execution; the first reads what it is given.
        bits: of the weights of each.
        activations: of what the others read.
        inner: another shaper, which acts first.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], bits: Mapping[str, int], activations: int, inner: Shaper
    ) -> None:
        refuse_parametrized(layers)
        self._layers, self._bits, self._inner = dict(layers), dict(bits), inner
        later = list(layers)[1:] if activations < WHOLE else []
        self._inputs = {name: InputRounding(activations) for name in later}

    @contextlib.contextmanager
    def attached(self) -> Generator[None]:
        """Round inside the block; afterwards the weights are those behind the rounding."""
        with contextlib.ExitStack() as stack:
            for name, layer in self._layers.items():
                if self._bits[name] < WHOLE:
                    stack.enter_context(parametrized(layer, _Rounding(self._bits[name], output_axis(layer))))
                if name in self._inputs:
                    stack.callback(layer.register_forward_pre_hook(self._inputs[name]).remove)
            yield

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network the rounded weights for good."""
        for name, layer in self._layers.items():
            weight: Any = layer.weight
            weight.copy_(rounded(weight, self._bits[name], output_axis(layer)))

    def before_batch(self, moment: Moment) -> None:
        """Let the inner shaper act."""
        self._inner.before_batch(moment)

    def penalty(self) -> Tensor | None:
        """Return that of the inner shaper."""
        return self._inner.penalty()

    def after_step(self, step: int) -> None:
        """Let the inner shaper act."""
        self._inner.after_step(step)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the ranges of the inputs, and what the inner shaper returns."""
        ranges = {f"range/{name}": torch.stack([each.low, each.high]) for name, each in self._inputs.items()}
        return {**ranges, **self._inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        for name, each in self._inputs.items():
            each.low, each.high = state[f"range/{name}"].unbind()
        self._inner.load_state_dict(state)

"""How far two outputs are apart, channel by channel: scores below one must not hide behind coordinates of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from secateur.core.surgery.precision import InDouble

_TIMES = 8.0
"""How many times its own rounding a channel may be off: two ways to sum round differently."""

_ROUNDING = 1e-4
"""What an output may be off from itself in float64, of its largest value; more than that was drawn or decided anew."""

_SAMPLES = 9
"""Inputs that rounding is looked at with: a single number may be exact by chance, and hardly with all of them."""


def gap(expected: Tensor, found: Tensor) -> Tensor:
    """Return how far two tensors of a shape are apart in float64, number by number; whole numbers must be equal."""
    if not (expected.is_floating_point() or expected.is_complex() or found.is_floating_point()):
        return torch.zeros(expected.shape, dtype=torch.float64).masked_fill((expected != found).cpu(), math.inf)
    return (_wide(found) - _wide(expected)).abs()


def magnitude(values: Tensor) -> Tensor:
    """Return the absolute values in float64."""
    return _wide(values).abs()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.complex128) if values.is_complex() else values.double()


def worst_channel(expected: Tensor, found: Tensor, least: float, rounding: Tensor | None = None) -> float:
    """Return the largest difference of a channel, relative to the channel's own largest value; inf for NaN.

    Channels are the indices of dimension 1 and of the last dimension; an output of one dimension has none (0.0).

    Args:
        expected: of any shape, with a batch first.
        found: of the same shape.
        least: share of the output's largest value that a channel counts at least as large as: sums round by their
            largest terms.
        rounding: what ``own_rounding`` says of the output. A channel that is off by no more than a few times its own
            does not count then: a deep network rounds more than its outputs let one guess.
    """
    wanted, off = magnitude(expected), gap(expected, found)
    if wanted.dim() < 2 or not wanted.numel():
        return 0.0
    floor = least * (wanted.max().item() or 1.0)
    if rounding is not None and rounding.shape != off.shape:
        rounding = None
    worst = 0.0
    for kept in {1, wanted.dim() - 1}:
        others = [dim for dim in range(wanted.dim()) if dim != kept]
        far = off.amax(others)
        share = far / wanted.amax(others).clamp(min=floor)
        if rounding is not None:
            share = torch.where(far <= _TIMES * rounding.amax(others), torch.zeros_like(share), share)
        largest = share.max().item()
        worst = max(worst, math.inf if math.isnan(largest) else largest)
    return worst


def own_rounding(run: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
    """Return how far a network's outputs in float32 are from those in float64 at most, number by number.

    Args:
        run: returns its outputs on the input of a number, always of the same shapes.

    Returns:
        A tensor in float64 for each output; nothing where the network does not run in float64, or puts out something
        else altogether there.
    """
    largest: list[Tensor] = []
    try:
        for number in range(_SAMPLES):
            single = run(number)
            with InDouble():
                double = run(number)
            off = [gap(wide, one) for wide, one in zip(double, single, strict=True)]
            if any(
                x.numel() and not x.max() <= _ROUNDING * magnitude(y).max() for x, y in zip(off, double, strict=True)
            ):
                return []
            largest = [torch.maximum(x, y) for x, y in zip(off, largest or off, strict=True)]
    except Exception:  # code that was written for float32
        return []
    return largest

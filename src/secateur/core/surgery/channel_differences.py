"""How far two outputs are apart, channel by channel: scores below one must not hide behind coordinates of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from secateur.core.surgery.precision import InDouble

_TIMES = 8.0
"""How many times its own rounding a channel may be off: two ways to sum round differently."""

_ROUNDING = 1e-4
"""What an output may be off from itself in float64, of its largest value; more than that was drawn or decided anew."""

_SAMPLES = 9
"""Inputs that rounding is looked at with: a single number may be exact by chance, and hardly with all of them."""


def wide(values: Tensor) -> Tensor:
    """Return values in float64, or in complex128 with their imaginary parts."""
    return values.to(torch.complex128) if values.is_complex() else values.double()


def gap(expected: Tensor, found: Tensor) -> Tensor:
    """Return how far two tensors of a shape are apart in float64, number by number; whole numbers must be equal.

    Equal infinities, such as scores that a network masks, are 0 apart.
    """
    if any(x.is_floating_point() or x.is_complex() for x in (expected, found)):
        one, other = wide(expected), wide(found)
        return torch.where(one == other, 0.0, (other - one).abs())
    return torch.where(expected == found, 0.0, math.inf).double()


def sizes(values: Tensor) -> Tensor:
    """Return how large numbers are, in float64; infinite ones, which hold nothing to compare others with, are 0."""
    found = wide(values).abs()
    return found.masked_fill(found.isinf(), 0.0)


def largest(values: Tensor) -> float:
    """Return the size of the largest finite number; NaN, which is near to nothing, where there is none or a NaN."""
    found = wide(values).abs()
    return sizes(values).max().item() if not bool(found.isinf().all()) else math.nan


def relative_gap(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference of two tensors of a shape, relative to the largest value expected; inf for NaN."""
    if not expected.numel():
        return 0.0
    error = gap(expected, found).max().item() / (largest(expected) or 1.0)
    return math.inf if math.isnan(error) else error


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
    wanted, off = sizes(expected), gap(expected, found)
    if wanted.dim() < 2 or not wanted.numel():
        return 0.0
    floor = least * (largest(expected) or 1.0)
    if rounding is not None and rounding.shape != off.shape:
        rounding = None
    worst = 0.0
    for kept in {1, wanted.dim() - 1}:
        others = [dim for dim in range(wanted.dim()) if dim != kept]
        far = off.amax(others)
        share = far / wanted.amax(others).clamp(min=floor)
        if rounding is not None:
            share = torch.where(far <= _TIMES * rounding.amax(others), torch.zeros_like(share), share)
        most = share.max().item()
        worst = max(worst, math.inf if math.isnan(most) else most)
    return worst


def own_rounding(run: Callable[[Callable[[Tensor], Tensor]], Sequence[Tensor]]) -> list[Tensor]:
    """Return how far a network's outputs in float32 are from those in float64 at most, number by number.

    Args:
        run: returns its outputs on its inputs, to each of which it applies what it is given, such as to roll it.

    Returns:
        A tensor in float64 for each output; nothing where the network does not run in float64, or puts out something
        else altogether there.
    """
    most: list[Tensor] = []
    try:
        for number in range(_SAMPLES):
            roll = partial(_rolled, number)
            single = run(roll)
            with InDouble():
                double = run(roll)
            if any(_differs(x, y) for x, y in zip(double, single, strict=True)):
                return []
            off = map(gap, double, single)
            most = list(map(torch.maximum, off, most)) if most else list(off)
    except Exception:  # code that was written for float32
        return []
    return most


def _rolled(number: int, values: Tensor) -> Tensor:
    return values.roll(number, -1) if values.dim() else values


def _differs(double: Tensor, single: Tensor) -> bool:
    """Tell whether an output in float32 is further from that in float64 than any rounding."""
    return bool(double.numel()) and not bool(gap(double, single).max() <= _ROUNDING * largest(double))

"""How far two outputs are apart, channel by channel: scores below one must not hide behind coordinates of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TIMES = 8.0
"""How many times its own rounding a channel may be off: two ways to sum round differently."""

_ROUNDING = 1e-4
"""What an output may be off from itself in float64, of its largest value; more than that was drawn or decided anew."""


def worst_channel(expected: Tensor, found: Tensor, least: float, precise: Tensor | None = None) -> float:
    """Return the largest difference of a channel, relative to the channel's own largest value; inf for NaN.

    Channels are the indices of dimension 1 and of the last dimension; an output of one dimension has none (0.0).

    Args:
        expected: of any shape, with a batch first.
        found: of the same shape.
        least: share of the output's largest value that a channel counts at least as large as: sums round by their
            largest terms.
        precise: what ``expected`` would be without rounding. Channels that are off by no more than it is off from
            that, or its median channel, a few times over, do not count then: a deep network rounds more than its
            outputs let one guess. Ignored where it is something else altogether.
    """
    wanted = expected.double().abs()
    off = (found.double() - expected.double()).abs()
    if wanted.dim() < 2 or not wanted.numel():
        return 0.0
    floor = least * (wanted.max().item() or 1.0)
    rounding = None if precise is None else _rounding(expected, precise)
    worst = 0.0
    for kept in {1, wanted.dim() - 1}:
        others = [dim for dim in range(wanted.dim()) if dim != kept]
        far = off.amax(others)
        share = far / wanted.amax(others).clamp(min=floor)
        if rounding is not None:
            own = rounding.amax(others)
            share = torch.where(far <= _TIMES * own.clamp(min=own.median().item()), torch.zeros_like(share), share)
        largest = share.max().item()
        worst = max(worst, math.inf if math.isnan(largest) else largest)
    return worst


def _rounding(expected: Tensor, precise: Tensor) -> Tensor | None:
    if precise.shape != expected.shape:
        return None
    off = (expected.double() - precise.double()).abs()
    return off if off.max() <= _ROUNDING * expected.double().abs().max() else None

"""How far two outputs are apart, channel by channel: scores below one must not hide behind coordinates of pixels."""

from __future__ import annotations

import math

from torch import Tensor


def worst_channel(expected: Tensor, found: Tensor, least: float) -> float:
    """Return the largest difference of a channel, relative to the channel's own largest value; inf for NaN.

    Channels are the indices of dimension 1 and of the last dimension; an output of one dimension has none (0.0).

    Args:
        expected: of any shape, with a batch first.
        found: of the same shape.
        least: share of the output's largest value that a channel counts at least as large as: sums round by their
            largest terms.
    """
    wanted = expected.double().abs()
    off = (found.double() - expected.double()).abs()
    if wanted.dim() < 2 or not wanted.numel():
        return 0.0
    floor = least * (wanted.max().item() or 1.0)
    worst = 0.0
    for kept in {1, wanted.dim() - 1}:
        others = [dim for dim in range(wanted.dim()) if dim != kept]
        share = (off.amax(others) / wanted.amax(others).clamp(min=floor)).max().item()
        worst = max(worst, math.inf if math.isnan(share) else share)
    return worst

"""Weights on grids of few bits, as training with few bits leaves them: whole multiples of a step for each channel.

They share more values than one table holds, as each channel has its own, and would leave their grids by clustering.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.zeros.number_grids import LAYERS, MOST, output_axis

_TINY = 1e-12
_SPARE = 2
"""Binary digits that a type must have beyond those of a grid: without them nearly every number lies on it."""
_FEW = 16
"""Rows that are looked at together."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a weight lies on.

    Attributes:
        bits: of the whole numbers, with their sign.
        steps: what each channel is a multiple of, ``(channels,)``, float32, on the CPU.
        axis: the dimension of the weight that counts channels.
    """

    bits: int
    steps: Tensor
    axis: int

    def levels(self, weight: Tensor) -> Tensor:
        """Return the whole numbers that a weight is multiples of, in its shape; int64, on the CPU."""
        steps = spread(self.steps, self.axis, weight.dim())
        return (weight.detach().cpu().float() / steps).round().long()


def spread(steps: Tensor, axis: int, dims: int) -> Tensor:
    """Return the steps of channels in a shape that multiplies a weight of so many dimensions."""
    return steps.reshape([-1 if dim == axis else 1 for dim in range(dims)])


def multiples(levels: Tensor, steps: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """Return the weight that whole numbers and the steps of its channels make, in the type that it has."""
    return (levels.float() * spread(steps, axis, levels.dim())).to(dtype)


def grids_in(model: nn.Module) -> dict[str, Grid]:
    """Return the grids of those weights of a network that lie on one in every bit, by the first name that they have."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Grid] = {}
    for layer in model.modules():
        weight: Any = getattr(layer, "weight", None)
        if isinstance(layer, LAYERS) and id(weight) in names:
            grid = grid_of(weight.detach().cpu(), output_axis(layer))
            if grid is not None:
                found[names[id(weight)]] = grid
    return found


def grid_of(weight: Tensor, axis: int) -> Grid | None:
    """Return the grid of fewest bits that a weight lies on; None if there is none, or too few numbers to tell.

    Args:
        weight: of any shape and floating type, on the CPU.
        axis: of its channels.
    """
    rows = weight.transpose(0, axis).flatten(1)
    if int(rows.count_nonzero()) <= 2 * len(rows):  # one or two numbers are multiples of anything
        return None
    digits = 1 - round(math.log2(torch.finfo(weight.dtype).eps))
    for bits in range(2, min(MOST, digits - _SPARE) + 1):
        if (steps := _steps_of_all(rows, bits)) is not None:
            return Grid(bits, steps, axis)
    return None


def _steps_of_all(rows: Tensor, bits: int) -> Tensor | None:
    """Return the steps of rows a few at a time: those of most weights lie on no grid, and the first ones tell."""
    steps: list[Tensor] = []
    for some in rows.split(_FEW):
        found = _steps(some, bits)
        if found is None:
            return None
        steps.append(found)
    return torch.cat(steps)


def _steps(rows: Tensor, bits: int) -> Tensor | None:
    """Return what each row is whole multiples of, the largest of them the largest of so many bits; None if one is not.

    A number tells its step within half a unit in its last place by its multiple; the step of a row is in the middle of
    what all its numbers agree on.
    """
    wide = rows.double()
    first = (wide.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=_TINY)
    counts = (wide / first).round()
    kind = torch.finfo(rows.dtype if rows.dtype.itemsize < 4 else torch.float32)  # in which the multiples are made
    fractions, exponents = torch.frexp(wide.abs().clamp(min=kind.smallest_normal))
    above = torch.ldexp(torch.full_like(wide, kind.eps / 2), exponents - 1)
    below = torch.where(fractions == 0.5, above / 2, above)
    used = counts != 0
    low = torch.where(used, (wide.abs() - below) / counts.abs(), 0.0).amax(1)
    high = torch.where(used, (wide.abs() + above) / counts.abs(), torch.inf).amin(1)
    steps = torch.where(used.any(1), (low + high) / 2, first[:, 0]).float()
    made = multiples(counts, steps, 0, rows.dtype)
    return steps if bool((made == rows).all()) else None

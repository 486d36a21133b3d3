"""Weights on grids of few bits, as training with few bits leaves them: whole multiples of a step for each channel.

They share more values than one table holds, as each channel has its own, and would leave their grids by clustering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.zeros.number_grids import LAYERS, MOST, lies_on_grid, output_axis

_MOST_ROUNDING = 2  # units in the last place by which a step may have been rounded that is found from its multiples
_TINY = 1e-12


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
    """Return the grids of those weights of a network that lie on one in every bit, by their names."""
    found: dict[str, Grid] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            weight: Any = getattr(layer, "weight", None)
            grid = grid_of(weight.detach().cpu(), output_axis(layer)) if isinstance(weight, Tensor) else None
            if grid is not None:
                found[f"{name}.weight" if name else "weight"] = grid
    return found


def grid_of(weight: Tensor, axis: int) -> Grid | None:
    """Return the grid of fewest bits that a weight lies on; None if there is none, or too few numbers to tell.

    Args:
        weight: of any shape, on the CPU.
        axis: of its channels.
    """
    rows = weight.float().transpose(0, axis).flatten(1)
    if int(rows.count_nonzero()) <= 2 * len(rows):  # one or two numbers are multiples of anything
        return None
    bits = next((it for it in range(2, MOST + 1) if lies_on_grid(weight, it, axis)), None)
    if bits is None:
        return None
    first = (rows.abs().amax(1) / (2 ** (bits - 1) - 1)).clamp(min=_TINY)
    steps, known = first.clone(), torch.zeros(len(rows), dtype=torch.bool)
    for direction in (torch.inf, -torch.inf):
        tried = first.clone()
        for _ in range(_MOST_ROUNDING + 1):
            made = ((rows / tried[:, None]).round() * tried[:, None]).to(weight.dtype)
            same = (made == weight.transpose(0, axis).flatten(1)).all(1)
            steps, known = torch.where(same & ~known, tried, steps), known | same
            tried = torch.nextafter(tried, torch.full_like(tried, direction))
    return Grid(bits, steps, axis) if bool(known.all()) else None

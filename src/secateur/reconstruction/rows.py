"""What a layer reads and puts out at a few places of its maps, as rows of a least squares problem."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_ROWS = 131072
FEWEST = 4
"""Rows for each column at least."""
MOST_WORK = 3e11
"""Multiply-accumulates beyond which a layer gets fewer rows, down to ``FEWEST`` for each column."""


def columns(layer: nn.Module) -> int:
    """Return how many inputs one output of the layer reads, the bias not counted."""
    return layer.weight[0].numel()  # pyright: ignore


def groups(layer: nn.Module) -> int:
    """Return how many groups the layer has; 1 for a linear one."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def wanted(layer: nn.Module, share: float = 1.0) -> int:
    """Return how many rows are enough for a layer and still fast.

    Args:
        layer: a convolution or linear layer.
        share: of the rows that a fit gets, for what needs less precision; never fewer than ``FEWEST`` for each column.
    """
    wide = columns(layer) + 1
    return int(min(MOST_ROWS, max(FEWEST * wide, share * min(MOST_ROWS, MOST_WORK / wide**2))))


class Places:
    """A few places of the output map of a layer, for each image of a batch: the same ones for inputs and outputs.

    Args:
        layer: a convolution or linear layer.
        given: what it reads, ``(N, C, H, W)`` or ``(..., features)``.
        rows: how many for the whole batch.
        seed: of the draw.
    """

    def __init__(self, layer: nn.Module, given: Tensor, rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        given = _batched(layer, given)
        images = len(given)
        if isinstance(layer, nn.Conv2d):
            self.size = _map_size(layer, given)
            each = math.prod(self.size)
        else:
            each = math.prod(given.shape[1:-1])
            self.size = (each, 1)
        some = max(1, min(each, round(rows / max(1, images))))
        drawn = torch.rand(images, each, generator=generator).argsort(1)[:, :some] if some < each else None
        place = torch.arange(each).repeat(images, 1) if drawn is None else drawn
        self.image = torch.arange(images).repeat_interleave(some)
        self.place = place.flatten()
        self.count = len(self.place)

    def inputs(self, layer: nn.Module, given: Tensor) -> Tensor:
        """Return the rows of inputs, ``(groups, rows, columns)``."""
        given = _batched(layer, given)
        image, place = self.image.to(given.device), self.place.to(given.device)
        if not isinstance(layer, nn.Conv2d):
            return given.reshape(len(given), -1, given.shape[-1])[image, place][None].to(_exact(given))
        padded = _padded(layer, given)
        high, wide = layer.kernel_size
        top, left = place // self.size[1] * layer.stride[0], place % self.size[1] * layer.stride[1]
        down = top[:, None] + torch.arange(high, device=place.device) * layer.dilation[0]
        right = left[:, None] + torch.arange(wide, device=place.device) * layer.dilation[1]
        found = padded[image[:, None, None], :, down[:, :, None], right[:, None, :]]  # (rows, kh, kw, C)
        found = found.permute(0, 3, 1, 2).reshape(self.count, layer.groups, -1)
        return found.transpose(0, 1).to(_exact(given))

    def outputs(self, layer: nn.Module, made: Tensor) -> Tensor:
        """Return the rows of outputs, ``(rows, outputs)``, of the layer or of anything of the same shape."""
        made = _batched(layer, made)
        image, place = self.image.to(made.device), self.place.to(made.device)
        if not isinstance(layer, nn.Conv2d):
            return made.reshape(len(made), -1, made.shape[-1])[image, place].to(_exact(made))
        return made[image, :, place // self.size[1], place % self.size[1]].to(_exact(made))


def _batched(layer: nn.Module, tensor: Tensor) -> Tensor:
    """Return what a layer reads or puts out with a dimension of images, which a network can have squeezed out."""
    return tensor if tensor.dim() >= (4 if isinstance(layer, nn.Conv2d) else 2) else tensor[None]


def _exact(tensor: Tensor) -> torch.dtype:
    """Return the type that sums over rows are made in: those of half precision would overflow."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _map_size(layer: nn.Conv2d, given: Tensor) -> tuple[int, int]:
    before, after = _padding(layer)
    high, wide = (
        (given.shape[2 + d] + before[d] + after[d] - layer.dilation[d] * (layer.kernel_size[d] - 1) - 1)
        // layer.stride[d]
        + 1
        for d in (0, 1)
    )
    return high, wide


def _padding(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding before and after, of rows and columns."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    if layer.padding == "same":
        total = [layer.dilation[d] * (layer.kernel_size[d] - 1) for d in (0, 1)]
        return (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
    assert not isinstance(layer.padding, str)
    both = (int(layer.padding[0]), int(layer.padding[1]))
    return both, both


def _padded(layer: nn.Conv2d, given: Tensor) -> Tensor:
    before, after = _padding(layer)
    amounts = (before[1], after[1], before[0], after[0])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(given, amounts, mode=mode) if any(amounts) else given


def changed(layer: nn.Module, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a layer with other weights puts out."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(_padded(layer, given), weight, bias, layer.stride, 0, layer.dilation, layer.groups)
    return F.linear(given, weight, bias)

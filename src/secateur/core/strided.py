"""A convolution whose kernels keep only some positions, computed as a smaller dense matrix product.

If all kernels that leave an input map keep the same positions, the patches of that map need these positions only:
the matrix of patches loses rows, the weight loses the same columns, and what is multiplied stays dense.

Source: Anwar, Hwang, Sung, "Structured Pruning of Deep Convolutional Neural Networks", 2017, intra-kernel strided
sparsity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import PlanError


class StridedConv2d(nn.Module):
    """Computes what a convolution with a mask computes, from the kept positions alone.

    Args:
        convolution: the masked convolution, with one group and zero padding; what the mask drops is ignored.
        mask: of the weight's shape, boolean, alike for all outputs.

    Attributes:
        weight: (outputs, kept positions of all input maps), position by position.

    Raises:
        PlanError: if the mask differs between outputs or is of another layer, or the convolution is not of this kind.
    """

    def __init__(self, convolution: nn.Conv2d, mask: Tensor) -> None:
        super().__init__()
        if tuple(mask.shape) != tuple(convolution.weight.shape) or not bool((mask == mask[:1]).all()):
            raise PlanError("the mask must have the weight's shape and be alike for all outputs that read a map")
        if convolution.groups != 1 or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            raise PlanError("only convolutions with one group and zero padding given in pixels can drop positions")
        self.stride, self.dilation = convolution.stride, convolution.dilation
        self.padding: tuple[int, ...] = tuple(convolution.padding)
        self.kernel_size, self.in_channels = convolution.kernel_size, convolution.in_channels
        self.out_channels = convolution.out_channels
        kept = mask[0].flatten(1).cpu()  # (inputs, positions)
        self._positions = tuple(p for p in range(kept.shape[1]) if bool(kept[:, p].any()))
        for p in self._positions:
            self.register_buffer(f"maps{p}", torch.nonzero(kept[:, p]).flatten().to(mask.device), persistent=False)
        columns = [convolution.weight.detach().flatten(2)[:, kept[:, p], p] for p in self._positions]
        empty = convolution.weight.new_zeros(self.out_channels, 0)
        self.weight = nn.Parameter(torch.cat([empty, *columns], 1))
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H', W')."""
        rows, columns = self.padding
        x = F.pad(x, (columns, columns, rows, rows)) if rows or columns else x
        sizes = [
            (x.shape[2 + d] - self.dilation[d] * (self.kernel_size[d] - 1) - 1) // self.stride[d] + 1 for d in (0, 1)
        ]
        patches = [self._patch(x, p, sizes) for p in self._positions]
        if not patches:
            out = x.new_zeros(len(x), self.out_channels, *sizes)
            return out if self.bias is None else out + self.bias[:, None, None]
        return F.conv2d(torch.cat(patches, 1), self.weight[:, :, None, None], self.bias)

    def _patch(self, x: Tensor, position: int, sizes: list[int]) -> Tensor:
        """Return what one position of the kernels sees, for the maps that keep it: (N, maps, H', W')."""
        places = divmod(position, self.kernel_size[1])
        spans = [
            slice(
                place * self.dilation[d], place * self.dilation[d] + (sizes[d] - 1) * self.stride[d] + 1, self.stride[d]
            )
            for d, place in enumerate(places)
        ]
        maps: Tensor = getattr(self, f"maps{position}")
        seen = x[:, :, spans[0], spans[1]]
        return seen if len(maps) == self.in_channels else seen.index_select(1, maps)

    def dense_weight(self) -> Tensor:
        """Return the weight with zeros at the dropped positions, (outputs, inputs, height, width)."""
        dense = self.weight.new_zeros(self.out_channels, self.in_channels, self.kernel_size[0] * self.kernel_size[1])
        start = 0
        for p in self._positions:
            maps: Tensor = getattr(self, f"maps{p}")
            dense[:, maps, p] = self.weight[:, start : start + len(maps)]
            start += len(maps)
        return dense.unflatten(2, self.kernel_size)

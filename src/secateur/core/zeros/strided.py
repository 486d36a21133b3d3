"""A convolution whose kernels keep only some positions, computed as a smaller dense matrix product.

If all kernels that leave an input map keep the same positions, the patches of that map need these positions only:
the matrix of patches loses rows, the weight loses the same columns, and what is multiplied stays dense.

Source: Anwar, Hwang, Sung, "Structured Pruning of Deep Convolutional Neural Networks", 2017, intra-kernel strided
sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from secateur.errors import PlanError

StridedExecution = Literal["dense", "strided"]


@dataclass(frozen=True, eq=False)
class _Packed:
    """The weight without what is zero for all outputs: for each position its maps, and the columns one after another.

    Attributes:
        source: the values that it was made from.
        positions: those at which some map is read.
        maps: for each of them, which maps; None for all.
        weight: (outputs, columns, 1, 1).
    """

    source: Tensor
    positions: tuple[int, ...]
    maps: tuple[Tensor | None, ...]
    weight: Tensor


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors hold the same values of the same kind in the same place."""
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class StridedConv2d(nn.Conv2d):
    """A convolution that can run on the positions at which its weight is not zero for all outputs.

    Its parameters are those of the plain convolution, zeros included, so that it is trained, pruned further, saved and
    exported like one. In evaluation without gradients ``execution = "strided"`` multiplies only what is left of each
    patch; what is left is looked up again whenever the weight changes. Which way is faster depends on the machine:
    ``secateur.measure.fastest`` times both. Multiply-accumulates are counted as those of the plain convolution.

    Attributes:
        execution: ``"dense"``, as a plain convolution, or ``"strided"``.
    """

    execution: StridedExecution = "dense"
    _packed: _Packed | None = None

    @staticmethod
    def take(convolution: nn.Conv2d) -> None:
        """Turn a plain convolution into one of this kind, in place; it computes the same.

        Raises:
            PlanError: if it has groups, or a padding other than zeros given in pixels.
        """
        if not StridedConv2d.can(convolution):
            raise PlanError("only convolutions with one group and zero padding given in pixels can drop positions")
        convolution.__class__ = StridedConv2d

    @staticmethod
    def can(module: nn.Module) -> bool:
        """Say whether a module is a convolution of which positions can be dropped."""
        plain = type(module) is nn.Conv2d and module.groups == 1
        return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H', W')."""
        watched = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if self.execution == "dense" or self.training or watched or input.dim() != 4:
            return super().forward(input)
        if is_in_torch_dispatch_mode(include_infra_modes=False):  # someone counts or reads the network
            return super().forward(input)
        return self._lowered(input, self._pack())

    def extra_repr(self) -> str:
        """Return the settings for printing."""
        return f"{super().extra_repr()}, execution={self.execution}"

    def _pack(self) -> _Packed:
        weight = self.weight.detach()
        known = self._packed
        # values are compared, not version counters: fused optimizers change weights without counting
        if known is None or not same(known.source, weight):
            flat = weight.flatten(2)
            kept = (flat != 0).any(0)  # (inputs, positions)
            positions = tuple(p for p in range(kept.shape[1]) if bool(kept[:, p].any()))
            columns = [flat[:, kept[:, p], p] for p in positions]
            maps = tuple(None if bool(kept[:, p].all()) else torch.nonzero(kept[:, p]).flatten() for p in positions)
            joined = torch.cat([flat.new_zeros(len(flat), 0), *columns], 1)
            known = self._packed = _Packed(weight.clone(), positions, maps, joined[:, :, None, None])
        return known

    def _lowered(self, x: Tensor, packed: _Packed) -> Tensor:
        rows, columns = (int(size) for size in self.padding)
        x = F.pad(x, (columns, columns, rows, rows)) if rows or columns else x
        sizes = [
            (x.shape[2 + d] - self.dilation[d] * (self.kernel_size[d] - 1) - 1) // self.stride[d] + 1 for d in (0, 1)
        ]
        patches = [self._patch(x, p, maps, sizes) for p, maps in zip(packed.positions, packed.maps, strict=True)]
        if not patches:
            out = x.new_zeros(len(x), self.out_channels, *sizes)
            return out if self.bias is None else out + self.bias[:, None, None]
        return F.conv2d(torch.cat(patches, 1), packed.weight, self.bias)

    def _patch(self, x: Tensor, position: int, maps: Tensor | None, sizes: list[int]) -> Tensor:
        """Return what one position of the kernels sees, for the maps that keep it: (N, maps, H', W')."""
        places = divmod(position, self.kernel_size[1])
        spans = [
            slice(
                place * self.dilation[d], place * self.dilation[d] + (sizes[d] - 1) * self.stride[d] + 1, self.stride[d]
            )
            for d, place in enumerate(places)
        ]
        seen = x[:, :, spans[0], spans[1]]
        return seen if maps is None else seen.index_select(1, maps)


def alike(mask: Tensor) -> bool:
    """Say whether a mask of a weight (True = keep) drops positions of input maps, the same ones for all outputs."""
    return mask.dim() == 4 and not bool(mask.all()) and bool((mask == mask[:1]).all())

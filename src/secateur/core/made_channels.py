"""Which unit each channel is that a layer puts out."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.core.layer_families import TRANSPOSED


def made_channels(labels: Tensor, layer: nn.Module, dim: int) -> Tensor:
    """Return the unit of each channel that a layer puts out.

    Weights of transposed convolutions in groups have no dimension for them: rows are inputs, columns those of a group.

    Args:
        labels: unit of each position of the weight's dimension that makes units.
        layer: a convolution or linear layer.
        dim: number of that dimension.
    """
    if not isinstance(layer, TRANSPOSED) or layer.groups == 1:
        return labels
    if dim:
        return labels.repeat(layer.groups)
    return labels[:: layer.in_channels // layer.groups].repeat_interleave(layer.out_channels // layer.groups)

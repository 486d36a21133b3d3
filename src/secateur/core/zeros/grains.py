"""Grains, the pieces in which the weights of a layer go: single weights, rows and columns of kernels, whole kernels.

Source: Mao, Han, Pool, Li, Liu, Wang, Dally, "Exploring the Regularity of Sparse Structure in Convolutional Neural
Networks", 2017.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from secateur.errors import PlanError, SettingError

Grain = Literal["weight", "row", "column", "kernel"]


def dims_of(dims: int, grain: Grain) -> tuple[int, ...]:
    """Return the dimensions of a weight along which a grain extends; none for single weights and linear layers.

    A row lies along the last dimension of a kernel, a column along the one before; the kernel of a one-dimensional
    convolution is one row.

    Args:
        dims: of the weight, kernels behind its first two.
        grain: the piece.
    """
    window = range(2, dims)
    match grain:
        case "weight":
            return ()
        case "row":
            return tuple(window[-1:])
        case "column":
            return tuple(window[-2:-1])
        case "kernel":
            return tuple(window)


def weights_in(shape: tuple[int, ...], grain: Grain) -> int:
    """Return of how many weights a grain of a layer consists: one where its kernels are single weights."""
    return math.prod(shape[dim] for dim in dims_of(len(shape), grain))


def sums(weight: Tensor, grain: Grain) -> Tensor:
    """Return the sum of ``|w|`` over each grain, float64 on the CPU, in the shape of the weight with ones in its place.

    Args:
        weight: of a layer, kernels along its first two dimensions.
        grain: the piece.
    """
    values, dims = weight.detach().cpu().double().abs(), dims_of(weight.dim(), grain)
    return values.sum(dims, keepdim=True) if dims else values


def lowest_dropped(found: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """Return the mask (True = keep) of a weight that loses the grains with the smallest sums.

    Args:
        found: from ``sums``; of equal ones the first goes first.
        count: how many grains go.
        shape: of the weight.

    Raises:
        PlanError: if there are not so many.
    """
    flat = found.flatten()
    if not 0 <= count <= len(flat):
        raise PlanError(f"{count} grains cannot go from a layer of {len(flat)}")
    keep = flat.new_ones(len(flat)).bool()
    keep[flat.argsort(stable=True)[:count]] = False
    return keep.reshape(found.shape).expand(shape)


def storage(density: float, grain: int, weight_bits: float = 8, index_bits: float = 4) -> float:
    """Return what a pruned layer takes in memory, as a share of what it took dense.

    Each grain that stays is stored with its weights and one index, its distance from the one before, so that a dense
    weight is worth ``density * (weight_bits + index_bits / grain)`` bits: the larger the grains, the fewer indices.

    Args:
        density: share of the grains that stays, in [0, 1].
        grain: weights in a grain.
        weight_bits: of a weight, dense or not.
        index_bits: of an index; 0 where nothing says which grains stay.

    Raises:
        SettingError: if these are no shares or sizes.
    """
    if not 0.0 <= density <= 1.0 or grain < 1 or weight_bits <= 0 or index_bits < 0:
        raise SettingError(
            f"a density of {density:g}, grains of {grain}, weights of {weight_bits:g} bits and indices of "
            f"{index_bits:g} bits are no storage; the density lies in [0, 1], the others are positive"
        )
    return density * (1 + index_bits / grain / weight_bits)

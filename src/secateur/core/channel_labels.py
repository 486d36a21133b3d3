"""Arithmetic on channel labels: which channel does each element of a tensor belong to?

A *layer* is an integer tensor with as many dimensions as the tensor that it describes; a dimension along which
the label does not change has size 1 there, whatever its size in the tensor. Label 0 means "fixed: can never be
removed"; a positive label is an *atom*, a channel of one dimension of one parameter or of one padding.
A tensor may carry several layers: a convolution weight has one for its outputs and one for its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FIXED = 0


def varying(layer: Tensor) -> tuple[int, ...]:
    """Return the dimensions along which the label changes."""
    return tuple(d for d, size in enumerate(layer.shape) if size > 1)


def compact(layer: Tensor) -> Tensor:
    """Shrink every dimension along which the labels are constant to size 1."""
    for d in range(layer.dim()):
        if layer.shape[d] > 1:
            first = layer.narrow(d, 0, 1)
            if layer.stride(d) == 0 or bool((layer == first).all()):
                layer = first
    return layer


def align(layer: Tensor, dims: int) -> Tensor:
    """Give the layer ``dims`` dimensions by adding leading ones, as broadcasting does."""
    return layer.reshape((1,) * (dims - layer.dim()) + tuple(layer.shape))


def along(layer: Tensor, dim: int) -> Tensor:
    """Return the labels along ``dim`` as rows, one column for each combination of the other dimensions."""
    return layer.movedim(dim, 0).reshape(layer.shape[dim], -1)


def reshape(layer: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor | None:
    """Carry a layer of a tensor of shape ``old`` through a row-major reshape to shape ``new``.

    Both shapes are cut into the smallest runs of dimensions with equal products; only runs in which the label
    changes are spelled out, so that a large weight costs no more than its channels.
    Returns None for tensors without elements.
    """
    if 0 in old:
        return None
    shape_in: list[int] = []  # the layer with its varying runs spelled out
    shape_out: list[int] = []
    for olds, news in _runs(old, new):
        sizes = [old[d] for d in olds]
        if any(layer.shape[d] > 1 for d in olds):
            shape_in += sizes
            shape_out += [new[d] for d in news]
        else:
            shape_in += [1] * len(sizes)
            shape_out += [1] * len(news)
    return compact(layer.expand(shape_in).reshape(shape_out))


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match dimensions of two shapes of equal product: runs with equal products, as short as possible."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news, a, b = [], [], 1, 1
        if i < len(old):
            olds, a, i = [i], old[i], i + 1
        if j < len(new) and (a != 1 or new[j] == 1 or not olds):
            news, b, j = [j], new[j], j + 1
        while a != b:
            if a < b and i < len(old):
                olds.append(i)
                a, i = a * old[i], i + 1
            elif j < len(new):
                news.append(j)
                b, j = b * new[j], j + 1
            else:
                raise ValueError(f"shapes {tuple(old)} and {tuple(new)} hold different numbers of elements")
        runs.append((olds, news))
    return runs


def concatenate(layers: Sequence[Tensor | None], sizes: Sequence[int], dim: int, dims: int) -> Tensor | None:
    """Join layers along ``dim``; an input without a layer contributes ``size`` fixed positions."""
    if all(layer is None for layer in layers):
        return None
    spread = [max(layer.shape[d] for layer in layers if layer is not None) for d in range(dims)]
    pieces: list[Tensor] = []
    for layer, size in zip(layers, sizes, strict=True):
        shape = [*spread[:dim], size, *spread[dim + 1 :]]
        pieces.append(torch.zeros((1,) * dims, dtype=torch.long) if layer is None else layer)
        pieces[-1] = pieces[-1].expand(shape)
    return compact(torch.cat(pieces, dim))


def elements(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor of this shape."""
    return math.prod(shape)

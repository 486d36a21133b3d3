"""Rules for products of two activations, above all attention, and for matrix products in general.

A head of an attention lives in a leading dimension of the tensors that are multiplied: it can go as a whole, with
its queries, keys and values, because a weight reads what it makes. Single positions of queries and keys are summed
over by no weight, so they stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core.trace.calls_made import Call
from secateur.core.trace.mix import axis, contract, join, place
from secateur.core.trace.state import State

Args = Sequence[Any]
PRODUCT = "multiplied with another activation"
UNEQUAL = "multiplied head by head with a tensor whose heads cannot be removed"


def mm(state: State, args: Args, out: Tensor) -> None:
    """Matrix product, batched or not."""
    _matmul(state, args[0], args[1], out)


def addmm(state: State, args: Args, out: Tensor) -> None:
    """Bias plus matrix product."""
    _matmul(state, args[1], args[2], out)
    bias, right = args[0], state.vector(args[2], args[2].dim() - 1)
    added = state.vector(bias, bias.dim() - 1) if bias.dim() else None
    with state.adding():
        join(state, right, added)


def _matmul(state: State, a: Tensor, b: Tensor, out: Tensor) -> None:
    first, second = state.is_weight(a), state.is_weight(b)
    if first and second and state.is_own(a) and state.is_own(b):
        _of_weights(state, a, b, out)
    elif state.linear and b.dim() == 2 and state.labels(b):
        _with_weight(state, a, b, out, weight_is_b=True)
    elif first or second:  # what a gain was multiplied with is zero where the gain is, but is what a weight reads
        _with_weight(state, a, b, out, weight_is_b=second and not (first and state.is_own(a)))
    else:
        _of_activations(state, a, b, out)


def _with_weight(state: State, a: Tensor, b: Tensor, out: Tensor, *, weight_is_b: bool) -> None:
    """``(..., n, k) @ (..., k, m)`` where one of the two is a weight."""
    if a.dim() == 2 and state.is_weight(b) and sum(layer.shape[1] > 1 for layer in state.labels(b)) > 1:
        _of_kernels(state, a, b, out)
        return
    inner_a, inner_b = state.vector(a, a.dim() - 1), state.vector(b, b.dim() - 2)
    if weight_is_b:
        contract(state, inner_a, inner_b, state.is_weight(b))
    else:
        contract(state, inner_b, inner_a, True)
    left, right = state.vector(a, a.dim() - 2), state.vector(b, b.dim() - 1)
    state.mark(inner_b if weight_is_b else inner_a, "reads")
    state.mark(right if weight_is_b else left, "makes")
    inner = inner_a if inner_a is not None else inner_b
    _cost(state, math.prod(out.shape[:-2]), (a.shape[-2], left), (a.shape[-1], inner), (b.shape[-1], right))
    for tensor in (a, b):
        for d in range(tensor.dim() - 2):
            vector = state.vector(tensor, d)
            if vector is not None:
                state.pin(vector, PRODUCT)
    state.set(out, [place(left, out, -2), place(right, out, -1)])


def _of_kernels(state: State, a: Tensor, b: Tensor, out: Tensor) -> None:
    """``(n, k) @ (k, m)`` that mixes kernels, each of them a row: channels that it makes and reads lie in one row."""
    contract(state, state.vector(a, 1), state.vector(b, 0), True)
    state.mark(state.vector(b, 0), "reads")
    rows = state.vector(a, 0)
    kernels = [layer for layer in state.labels(b) if layer.shape[1] > 1]
    channels = [torch.unique(layer) for layer in kernels]
    met = torch.stack([layer[0].expand(b.shape[1]) for layer in kernels])
    often = torch.unique(met, dim=1, return_counts=True)[1]
    axes: list[tuple[int, Tensor | None]] = [(len(each), each) for each in channels]
    combinations = math.prod(map(len, channels))
    scale = b.shape[1] // combinations
    if len(often) != combinations or len(often.unique()) > 1 or any(layer.shape[0] > 1 for layer in kernels):
        for layer in kernels:
            state.pin(layer.reshape(-1), PRODUCT)
        axes, scale = [], b.shape[1]
    _cost(state, scale, (a.shape[0], rows), (a.shape[1], state.vector(a, 1)), *axes)
    state.set(out, [place(rows, out, 0), *kernels], state.is_weight(b))


def _of_weights(state: State, a: Tensor, b: Tensor, out: Tensor) -> None:
    """A weight that is the product of two: its rank stays, and its rows and columns are those of a weight."""
    for vector in (state.vector(a, a.dim() - 1), state.vector(b, b.dim() - 2)):
        if vector is not None:
            state.pin(vector, "the rank of a weight that is a product")
    left, right = state.vector(a, a.dim() - 2), state.vector(b, b.dim() - 1)
    _cost(state, math.prod(out.shape[:-2]), (a.shape[-2], left), (a.shape[-1], None), (b.shape[-1], right))
    for tensor in (a, b):
        for d in range(tensor.dim() - 2):
            vector = state.vector(tensor, d)
            if vector is not None:
                state.pin(vector, PRODUCT)
    state.set(out, [place(left, out, -2), place(right, out, -1)])


def _of_activations(state: State, a: Tensor, b: Tensor, out: Tensor) -> None:
    """``(..., n, k) @ (..., k, m)``: leading dimensions are heads."""
    heads = _heads(state, (a, b), range(out.dim() - 2))
    for tensor, inner in ((a, -1), (b, -2)):
        _pin_along(state, tensor, inner, out.dim() - 2)
    left, right = _beside_heads(state, a, -2, out.dim() - 2), _beside_heads(state, b, -1, out.dim() - 2)
    batch = (math.prod(out.shape[:-2]), heads)
    inner = (a.shape[-1], None)
    _cost(state, 1, batch, (a.shape[-2], left), inner, (b.shape[-1], right))
    state.set(out, [place(heads, out, 0), place(left, out, -2), place(right, out, -1)])


def attention(state: State, args: Args, out: Any) -> None:
    """Fused scaled dot-product attention over ``(batch, heads, tokens, width)``; its scale follows the width."""
    query, key, value = args[:3]
    masks = [arg for arg in args[3:] if isinstance(arg, Tensor)]
    heads, rows = (_heads(state, (query, key, value), dims) for dims in ((1,), (0,)))
    for mask in masks:
        _mask(state, mask, heads)
    for tensor in (query, key):
        _pin_along(state, tensor, -1, 2)
    for tensor in (query, key, value):
        _pin_along(state, tensor, -2, 2)
    wide = _beside_heads(state, value, -1, 2)
    first = out[0]
    batch, tokens = first.shape[0], query.shape[2] * key.shape[2]
    many = (first.shape[1], heads)
    _cost(state, batch * tokens, many, (query.shape[3], None))
    _cost(state, batch * tokens, many, (value.shape[3], wide))
    state.set(first, [place(rows, first, 0), place(heads, first, 1), place(wide, first, -1)])
    for other in out[1:]:
        if isinstance(other, Tensor):
            state.set(other, [place(rows, other, 0), place(heads, other, 1)] if other.dim() > 1 else [])


def _heads(state: State, tensors: Sequence[Tensor], dims: Sequence[int]) -> Tensor | None:
    """Return the labels along the one of some leading dimensions that has any; what meets there goes together.

    Layers that vary along further dimensions are those of the last one.
    """
    found: Tensor | None = None
    bare = False
    for tensor in tensors:
        layers = [layer for layer in state.labels(tensor) if _leads(layer, tensor.dim() - 2) in dims]
        for layer in layers:
            last = _leads(layer, tensor.dim() - 2)
            row = state.merge(layer, [d for d in range(layer.dim()) if d != last]).reshape(-1)
            if found is not None and len(found) != len(row):
                state.pin(row, UNEQUAL)
                bare = True
            elif found is None:
                found = row
            else:
                state.unite(found, row)
        bare = bare or not layers
    if found is not None and bare:
        state.pin(found, UNEQUAL)
    return found


def _leads(layer: Tensor, leading: int) -> int:
    """Return the last of the leading dimensions along which a layer varies, -1 if there is none."""
    return max((d for d in range(leading) if layer.shape[d] > 1), default=-1)


def _mask(state: State, mask: Tensor, heads: Tensor | None) -> None:
    """A bias of the attention, one for each head or one for all."""
    for layer in state.labels(mask):
        if mask.dim() == 4 and layer.shape[1] > 1 and heads is not None and layer.shape[1] == len(heads):
            state.unite(state.merge(layer, [0, 2, 3]).reshape(-1), heads)
        else:
            state.pin(layer.reshape(-1), PRODUCT)
    if heads is not None and mask.dim() == 4 and mask.shape[1] > 1 and not state.labels(mask):
        state.pin(heads, UNEQUAL)


def _beside_heads(state: State, tensor: Tensor, dim: int, leading: int) -> Tensor | None:
    """Return the labels along a dimension that are the same in every head."""
    found: Tensor | None = None
    for layer in state.labels(tensor):
        if layer.shape[dim] == 1 or any(layer.shape[d] > 1 for d in range(leading)):
            continue
        row = state.merge(layer, [d for d in range(layer.dim()) if d != dim % layer.dim()]).reshape(-1)
        if found is not None:
            state.unite(found, row)
        found = row if found is None else found
    return found


def _pin_along(state: State, tensor: Tensor, dim: int, leading: int) -> None:
    vector = _beside_heads(state, tensor, dim, leading)
    if vector is not None:
        state.pin(vector, PRODUCT)


def _cost(state: State, scale: int, *axes: tuple[int, Tensor | None]) -> None:
    state.calls.append(Call(state.module, scale, tuple(axis(size, atoms) for size, atoms in axes)))

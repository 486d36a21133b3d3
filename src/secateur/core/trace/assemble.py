"""Rules for operators that take tensors apart and put them together: the labels go where their elements go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.trace.move import Args, copies, dim_at, meet
from secateur.core.trace.state import State


def cut(state: State, args: Args, out: Tensor, *, func: Any) -> None:
    """Slice, narrow: a window along one dimension (``args``: tensor, dim, ...)."""
    dim = dim_at(args, 1)
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        if layer.shape[dim] > 1 and out.shape[dim] != layer.shape[dim]:
            piece = func(layer, *args[1:])
            _bind_equal_parts(state, layer, piece, dim, int(args[2]) if len(args) > 2 and args[2] else 0, args)
            layer = piece
        layers.append(layer)
    state.set(out, layers, state.is_weight(args[0]))


def _bind_equal_parts(state: State, layer: Tensor, piece: Tensor, dim: int, start: int, args: Args) -> None:
    """One of several equal parts of a channel dimension: parts stay equal only if they shrink alike."""
    size, part = layer.shape[dim], piece.shape[dim]
    start = start + size if start < 0 else start
    step = args[4] if len(args) > 4 else 1
    if part and step == 1 and size % part == 0 and start % part == 0 and size // part <= 8:
        rows = L.along(layer, dim).reshape(size // part, -1)
        state.unite(rows, rows[:1])
    elif not state.reshaping or step != 1:
        state.pin(layer.reshape(-1), "cut at a position that is not known to move")


def split(state: State, args: Args, out: Sequence[Tensor]) -> None:
    """Split into parts of one size or of given sizes; equal parts stay equal."""
    dim = dim_at(args, 2)
    parts: list[list[Tensor]] = [[] for _ in out]
    for layer in state.labels(args[0]):
        if layer.shape[dim] == 1:
            pieces = [layer] * len(out)
        else:
            pieces = list(torch.split(layer, [piece.shape[dim] for piece in out], dim))
            if len({piece.shape[dim] for piece in pieces}) == 1:
                rows = torch.stack([L.along(piece, dim).reshape(-1) for piece in pieces])
                state.unite(rows, rows[:1])
            elif not state.reshaping:
                state.pin(layer.reshape(-1), "split into unequal parts by sizes that are not known to move")
        for held, piece in zip(parts, pieces, strict=True):
            held.append(piece)
    for piece, layers in zip(out, parts, strict=True):
        state.set(piece, layers, state.is_weight(args[0]))


def select(state: State, args: Args, out: Tensor | Sequence[Tensor]) -> None:
    """Pick one position along a dimension, or all of them one by one (unbind).

    Labels that vary along other dimensions too are those of equal parts (queries, keys and values of one linear
    layer): the parts shrink alike.
    """
    dim = dim_at(args, 1)
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        if len(L.varying(layer)) > 1:
            layer = state.merge(layer, [dim])
        elif layer.shape[dim] > 1:
            state.pin(layer.reshape(-1), "single channels are picked by their number")
        layers.append(layer.select(dim, 0))
    for tensor in [out] if isinstance(out, Tensor) else out:
        state.set(tensor, [layer for layer in layers if L.varying(layer)], state.is_weight(args[0]))


def cat(state: State, args: Args, out: Tensor) -> None:
    """Join along a dimension; labels along the others meet."""
    tensors = [t for t in args[0] if t.dim() == out.dim()]
    dim = dim_at((out, *args[1:]), 1)
    joined = [next((x for x in state.labels(t) if x.shape[dim] > 1), None) for t in tensors]
    layers = [L.concatenate(joined, [t.shape[dim] for t in tensors], dim, out.dim())]
    others = [[x for x in state.labels(t) if x.shape[dim] == 1] for t in tensors]
    state.set(out, [*layers, *meet(state, others, [t.shape for t in tensors], out.dim())])


def stack(state: State, args: Args, out: Tensor) -> None:
    """Join along a new dimension."""
    dim = (int(args[1]) if len(args) > 1 else 0) % out.dim()
    inputs = [[layer.unsqueeze(dim) for layer in state.labels(t)] for t in args[0]]
    shapes = [[*t.shape[:dim], 1, *t.shape[dim:]] for t in args[0]]
    with state.adding():  # what is stacked is summed or averaged next, as a rule
        state.set(out, meet(state, inputs, shapes, out.dim()))


def pad(state: State, args: Args, out: Tensor) -> None:
    """Pad with a constant: new positions of a channel dimension are channels of their own."""
    amounts = list(args[1])
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        for i in range(len(amounts) // 2):
            dim, before, after = out.dim() - 1 - i, amounts[2 * i], amounts[2 * i + 1]
            if layer.shape[dim] == 1 or (before == 0 and after == 0):
                continue
            if before < 0 or after < 0 or len(L.varying(layer)) > 1 or not state.reshaping:
                state.pin(layer.reshape(-1), "padded in a way that no rule covers")
                layer = layer.new_zeros((1,) * out.dim())
                continue
            view = [-1 if d == dim else 1 for d in range(out.dim())]
            front, back = state.fresh(before).reshape(view), state.fresh(after).reshape(view)
            layer = torch.cat([front, layer, back], dim)
            state.padding += [front.reshape(-1), back.reshape(-1)]
        layers.append(layer)
    state.set(out, layers)


def repeat(state: State, args: Args, out: Tensor) -> None:
    """Tile: labels repeat along the dimensions where they vary; single positions are copied as in ``expand``."""
    times = list(args[1])
    layers = [L.align(layer, out.dim()) for layer in state.labels(args[0])]
    repeats = [[n if layer.shape[d] > 1 else 1 for d, n in enumerate(times)] for layer in layers]
    layers = [layer.repeat(r) for layer, r in zip(layers, repeats, strict=True)]
    state.set(out, [*layers, *copies(state, args[0], out)], state.is_weight(args[0]))

"""Rules for operators that move elements without changing them: the labels move along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.trace.state import State

Args = Sequence[Any]


def same(state: State, args: Args, out: Tensor) -> None:
    """Copies, casts, and everything else that leaves shape and meaning alone."""
    state.set(out, state.labels(args[0]), state.is_weight(args[0]))


def reshape(state: State, args: Args, out: Tensor) -> None:
    """View, reshape, flatten, squeeze, unsqueeze: row-major order stays."""
    layers = [L.reshape(layer, args[0].shape, out.shape) for layer in state.labels(args[0])]
    state.set(out, layers, state.is_weight(args[0]))


def permute(state: State, args: Args, out: Tensor) -> None:
    """Reorder dimensions."""
    order = [int(d) for d in args[1]]
    state.set(out, [layer.permute(order) for layer in state.labels(args[0])], state.is_weight(args[0]))


def transpose(state: State, args: Args, out: Tensor) -> None:
    """Swap two dimensions; ``t`` swaps the first two."""
    a, b = (args[1], args[2]) if len(args) > 2 else (0, min(1, args[0].dim() - 1))
    layers = [layer.transpose(a, b) if layer.dim() else layer for layer in state.labels(args[0])]
    state.set(out, layers, state.is_weight(args[0]))


def expand(state: State, args: Args, out: Tensor) -> None:
    """Repeat along dimensions of size one: the copies are positions of their own, which go with what they meet."""
    layers = [L.align(layer, out.dim()) for layer in state.labels(args[0])]
    state.set(out, [*layers, *copies(state, args[0], out)], state.is_weight(args[0]))


def copies(state: State, x: Tensor, out: Tensor) -> list[Tensor]:
    """Return fresh labels along each dimension in which a tensor was repeated, but for that of the samples.

    A token of its own that a network puts beside those of every sample is no channel there, and must not be joined
    with heads that lie in one dimension with the samples.
    """
    old = [1] * (out.dim() - x.dim()) + list(x.shape)
    first = int(out.dim() > 1 and out.shape[0] == state.samples)
    return [
        state.fresh(size).reshape([-1 if i == d else 1 for i in range(out.dim())])
        for d, size in enumerate(out.shape)
        if old[d] == 1 and size > 1 and d >= first
    ]


def reshape_in_place(state: State, args: Args, out: Tensor, *, func: Any) -> None:
    """Swap, add or drop a dimension of the tensor itself (``args``: tensor, dimension, ...)."""
    state.set(out, [func(layer.clone(), *args[1:]) for layer in state.labels(args[0])], state.is_weight(args[0]))


def reorder(state: State, args: Args, out: Tensor, *, func: Any) -> None:
    """Flip, roll: a list of channels can be reversed whatever is left of it, but not rolled."""
    if func is torch.ops.aten.flip.default:
        state.set(out, [layer.flip(args[1]) for layer in state.labels(args[0])], state.is_weight(args[0]))
        return
    dims = args[2] if len(args) > 2 else []
    for layer in state.labels(args[0]):
        if not dims or any(layer.shape[d] > 1 for d in dims):
            state.pin(layer.reshape(-1), "channels change their order in a way that no rule covers")
    state.set(out, state.labels(args[0]))


def rotate(state: State, args: Args, out: Tensor) -> None:
    """Quarter turns of the plane of two dimensions: fine for maps, and along channels their positions move alike."""
    turns, dims = (int(args[1]) if len(args) > 1 else 1), (args[2] if len(args) > 2 else [0, 1])
    state.set(out, [torch.rot90(layer, turns, list(dims)) for layer in state.labels(args[0])])


def to_pairs(state: State, args: Args, out: Tensor) -> None:
    """Real and imaginary parts become a last dimension."""
    state.set(out, [layer.unsqueeze(-1) for layer in state.labels(args[0])], state.is_weight(args[0]))


def from_pairs(state: State, args: Args, out: Tensor) -> None:
    """Real and imaginary parts, a last dimension of two, become one number: of a channel both go."""
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        whole = len(L.varying(layer)) > 1
        layer = state.merge(layer, [layer.dim() - 1]) if whole else unless_along(state, layer, layer.dim() - 1)
        layers.append(layer.squeeze(-1))
    state.set(out, layers, state.is_weight(args[0]))


def diagonal(state: State, args: Args, out: Tensor) -> None:
    """The diagonal of two dimensions becomes a last one."""
    dims = [int(d) % args[0].dim() for d in (args[2:4] if len(args) > 3 else (0, 1))]
    layers = [unless_along(state, layer, *dims) for layer in state.labels(args[0])]
    state.set(out, [layer.diagonal(0, *dims) for layer in layers])


def triangle(state: State, args: Args, out: Tensor) -> None:
    """Zeros above or below the diagonal of the last two dimensions."""
    last = (out.dim() - 2, out.dim() - 1)
    state.set(out, [unless_along(state, layer, *last) for layer in state.labels(args[0])])


def blocks(state: State, args: Args, out: Tensor, *, func: Any) -> None:
    """Pixel shuffle and its relatives: run the same operator on spelled-out labels."""
    layers = [L.compact(func(layer.expand(args[0].shape), *args[1:])) for layer in state.labels(args[0])]
    state.set(out, layers)


def shuffle(state: State, args: Args, out: Tensor) -> None:
    """Channel shuffle: equal parts of the channels, which stay equal only if they shrink alike, are interleaved."""
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        if layer.shape[1] > 1:
            parts = layer.unflatten(1, (int(args[1]), -1))
            state.unite(parts, parts[:, :1])
            layer = parts.transpose(1, 2).flatten(1, 2)
        layers.append(layer)
    state.set(out, layers)


def patches(state: State, args: Args, out: Tensor) -> None:
    """Lay the patch around every place out beside its channel (``im2col``): ``(n, c, h, w)`` to ``(n, c k k, l)``."""
    channels = state.vector(args[0], 1)
    times = out.shape[1] // args[0].shape[1]
    state.set(out, [] if channels is None else [channels.repeat_interleave(times).reshape(1, -1, 1)])


def overlay(state: State, args: Args, out: Tensor) -> None:
    """Add patches up to a map again (``col2im``): what was laid out beside a channel is one channel."""
    rows = state.vector(args[0], 1)
    if rows is None:
        state.set(out, [])
        return
    grid = rows.reshape(out.shape[1], -1)
    state.set(out, [state.merge(grid, [1]).reshape(1, -1, 1, 1)])


def windows(state: State, args: Args, out: Tensor) -> None:
    """Sliding windows along a dimension (``unfold``), which become a last dimension."""
    dim = dim_at(args, 1)
    state.set(out, [unless_along(state, layer, dim).unsqueeze(-1) for layer in state.labels(args[0])])


def order(state: State, args: Args, out: Tensor | Sequence[Tensor], *, func: Any) -> None:
    """Sums up to a place, sorting, the largest few along a dimension: the others stay as they are."""
    names = [argument.name for argument in func._schema.arguments]
    dim = dim_at(args, names.index("dim")) if len(args) > names.index("dim") else args[0].dim() - 1
    for tensor in [out] if isinstance(out, Tensor) else out:
        state.set(tensor, [unless_along(state, layer, dim) for layer in state.labels(args[0])])


def unless_along(state: State, layer: Tensor, *dims: int) -> Tensor:
    """Pin a layer that varies along a dimension whose order or neighbourhood matters."""
    if all(layer.shape[d] == 1 for d in dims):
        return layer
    state.pin(layer.reshape(-1), "the order of channels or their neighbours matter")
    return layer.new_zeros((1,) * layer.dim())


def meet(state: State, inputs: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[int]], dims: int) -> list[Tensor]:
    """Unite the labels of tensors that are combined element by element.

    Layers that vary along a common dimension are united; a layer that meets a tensor with the same extent but
    without labels is pinned, because nothing there could shrink with it.
    """
    met: list[Tensor] = []
    aligned = [[L.align(layer, dims) for layer in layers] for layers in inputs]
    for layer in sorted((x for layers in aligned for x in layers), key=lambda x: -len(L.varying(x))):
        partner = next((m for m in met if set(L.varying(m)) & set(L.varying(layer))), None)
        if partner is None:
            met.append(layer)
        else:
            state.unite(partner, layer)
    for layer in met:
        for layers, shape in zip(aligned, shapes, strict=True):
            full = [1] * (dims - len(shape)) + list(shape)
            bare = [d for d in L.varying(layer) if full[d] > 1 and not any(x.shape[d] > 1 for x in layers)]
            if bare and any(set(L.varying(x)) & set(L.varying(layer)) for x in layers):
                state.merge(layer, bare)  # with what it was united with, it does not vary there
            elif bare:
                remedy = "make that tensor like the other one (torch.zeros_like, torch.randn_like)"
                state.pin(layer.reshape(-1), "combined with a tensor whose size is fixed", remedy)
    return met


def regions(state: State, args: Args, out: Tensor | Sequence[Tensor]) -> None:
    """Maps cut out of a batch of maps (regions of interest, a grid): a channel stays a channel, coordinates stay."""
    for tensor in args[1:]:
        if isinstance(tensor, Tensor):
            for layer in state.labels(tensor):
                state.pin(layer.reshape(-1), "coordinates at which maps are looked up")
    channels = state.vector(args[0], 1)
    for tensor in [out] if isinstance(out, Tensor) else out:  # beside the largest, where they were
        shape = [-1 if d == 1 else 1 for d in range(tensor.dim())]
        state.set(tensor, [] if channels is None else [channels.reshape(shape)])


def packed(state: State, args: Args, out: Sequence[Tensor]) -> None:
    """Sequences of unequal length, laid out step after step: the first two dimensions become one."""
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        if layer.shape[0] > 1 or layer.shape[1] > 1:
            state.pin(layer.reshape(-1), "positions in sequences of unequal length")
        else:
            layers.append(layer.squeeze(0))
    state.set(out[0], layers)


def dim_at(args: Args, place: int) -> int:
    """Return the dimension that an argument names, the first one where it is left out."""
    return (int(args[place]) if len(args) > place else 0) % max(1, args[0].dim())

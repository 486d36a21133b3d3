"""Rules for operators that pick elements by tensors of positions, or write where such positions say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.trace.mix import place
from secateur.core.trace.move import dim_at, meet
from secateur.core.trace.state import State

Args = Sequence[Any]
# operators that write to their first argument; each has a twin, with a _ behind its name, that does so in place
WRITING = frozenset({"scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_put"})
MASKS = (torch.bool, torch.uint8)
NUMBERED = "channels are picked by their number"


def index(state: State, args: Args, out: Tensor, *, func: Any) -> None:
    """Pick by a tensor of positions (``args``: tensor, positions for each dimension): other dimensions stay."""
    indices = list(args[1]) if isinstance(args[1], (tuple, list)) else [args[1]]
    only = [(dim, positions) for dim, positions in enumerate(indices) if positions is not None]
    if len(only) == 1 and (followed := _follow(state, args[0], *only[0], out)) is not None:
        state.set(out, followed)
        return
    layers: list[Tensor] = []
    first = [None if positions is None else _first_only(positions) for positions in indices]
    for layer in state.labels(args[0]):
        if any(layer.shape[d] > 1 for d in _picked(indices)):
            state.pin(layer.reshape(-1), NUMBERED)
        else:  # wherever it is picked there, also if nothing is
            layers.append(func(layer, first))
    state.set(out, layers)


def _first_only(positions: Tensor) -> Tensor:
    """Return positions of as many dimensions that pick what is first."""
    mask = positions.dtype in MASKS
    return torch.full([1] * positions.dim(), int(mask), dtype=torch.bool if mask else torch.long)


def index_select(state: State, args: Args, out: Tensor) -> None:
    """Pick along one dimension by a tensor of positions; those in buffers and block layers are renumbered."""
    dim = dim_at(args, 1)
    ordinary = state.module not in state.kinds.blocks
    if ordinary and (followed := _follow(state, args[0], dim, args[2], out)) is not None:
        state.set(out, followed, state.is_weight(args[0]))
        return
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        if layer.shape[dim] > 1 and ordinary:
            state.pin(layer.reshape(-1), NUMBERED)
            continue
        layers.append(layer if layer.shape[dim] == 1 else layer.index_select(dim, args[2].cpu()))
    state.set(out, layers, state.is_weight(args[0]))


def _follow(state: State, x: Tensor, dim: int, positions: Tensor, out: Tensor) -> list[Tensor | None] | None:
    """Return the labels of what a buffer picks along one dimension; None if it is no buffer, or what it picks stays.

    Its entries go with what they pick, and those that are left are renumbered; of a mask there is nothing to renumber.
    """
    name = state.buffer(positions) if positions.dim() == 1 else ""
    row = state.vector(x, dim) if name else None
    if row is None:
        return None
    own, mask = state.labels(positions)[0].reshape(-1), positions.dtype == torch.bool
    picked = row[positions.cpu()]
    state.unite(own, row if mask else picked)
    if not mask:
        pointed = state.indices.setdefault(name, row)
        if len(pointed) == len(row):
            state.unite(pointed, row)
        else:
            for atoms in (pointed, row):
                state.pin(atoms, "one list of numbers picks from channels of several widths")
    others: list[Tensor | None] = [layer for layer in state.labels(x) if layer.shape[dim] == 1]
    return [*others, place(picked, out, dim)]


def _picked(indices: Sequence[Tensor | None]) -> list[int]:
    """Return which dimensions are picked from; a boolean mask covers several."""
    found: list[int] = []
    dim = 0
    for positions in indices:
        if positions is None:
            dim += 1
            continue
        covers = positions.dim() if positions.dtype in MASKS else 1
        found += range(dim, dim + covers)
        dim += covers
    return found


def at_indices(state: State, args: Args, out: Tensor) -> None:
    """Gather and scatter (``args``: tensor, dimension, positions, what is written): along the others alike."""
    _along_others(state, args, out, [args[0], *(arg for arg in args[2:] if isinstance(arg, Tensor))])


def along_one(state: State, args: Args, out: Tensor) -> None:
    """Add, copy or fill at some positions of one dimension (``args``: tensor, dimension, positions, values)."""
    _along_others(state, args, out, [args[0], *(arg for arg in args[3:] if isinstance(arg, Tensor) and arg.dim())])


def _along_others(state: State, args: Args, out: Tensor, tensors: Sequence[Tensor]) -> None:
    """Labels along the dimension that is picked from stay; along the others what meets goes together."""
    dim = int(args[1]) % max(1, args[0].dim())
    inputs: list[list[Tensor]] = []
    for tensor in tensors:
        inputs.append([])
        for layer in state.labels(tensor):
            fits = all(a == b for d, (a, b) in enumerate(zip(tensor.shape, out.shape, strict=True)) if d != dim)
            if layer.shape[dim] > 1 or not fits:
                state.pin(layer.reshape(-1), NUMBERED)
            else:
                inputs[-1].append(layer)
    shapes = [[1 if d == dim else size for d, size in enumerate(tensor.shape)] for tensor in tensors]
    state.set(out, meet(state, inputs, shapes, out.dim()))


def put(state: State, args: Args, out: Tensor) -> None:
    """Write at positions (``args``: tensor, positions for each dimension, values): along the others what meets goes."""
    x, positions, values = args[0], list(args[1]), args[2]
    masks = [mask for mask in positions if mask is not None]
    if masks and masks[0].dtype == torch.bool and masks[0].shape == x.shape and values.numel() == 1:
        # the same as to fill where a mask says so
        state.set(out, meet(state, [state.labels(x), state.labels(masks[0])], [x.shape, x.shape], x.dim()))
        return
    picked = _picked(positions)
    beside = _beside(state, x, positions, picked, values)
    layers: list[Tensor] = []
    for layer in state.labels(x):
        if any(layer.shape[d] > 1 for d in picked) or beside is None:
            state.pin(layer.reshape(-1), NUMBERED)
        else:
            layers.append(layer)
    for tensor in masks if beside is not None else (*masks, values):
        for layer in state.labels(tensor):
            state.pin(layer.reshape(-1), NUMBERED)
    if beside is not None:
        shape = [1 if d in picked else size for d, size in enumerate(x.shape)]
        layers = meet(state, [layers, beside[0]], [shape, beside[1]], x.dim())
    state.set(out, layers)


def _beside(
    state: State, x: Tensor, positions: Sequence[Tensor | None], picked: Sequence[int], values: Tensor
) -> tuple[list[Tensor], list[int]] | None:
    """Return the labels of what is written, and its sizes, along the dimensions that no positions pick from.

    None where the positions of several dimensions say where it goes.
    """
    given = [each for each in positions if each is not None]
    if len(given) != 1:
        return ([], [1] * x.dim()) if values.numel() == 1 and not state.labels(values) else None
    first, covers = picked[0], len(picked)
    rank = 1 if given[0].dtype in MASKS else given[0].dim()
    dims = x.dim() - covers + rank

    def without(sizes: Sequence[int]) -> list[int]:
        return [*sizes[:first], *[1] * covers, *sizes[first + rank :]]

    layers: list[Tensor] = []
    for layer in state.labels(values):
        aligned = L.align(layer, dims)
        if any(first <= d < first + rank for d in L.varying(aligned)):
            state.pin(layer.reshape(-1), NUMBERED)
        else:
            layers.append(aligned.reshape(without(aligned.shape)))
    return layers, without([1] * (dims - values.dim()) + list(values.shape))


def table(state: State, args: Args, out: Any) -> None:
    """Rows of a table, one for each number (``args``: table, numbers, ...): its columns are channels."""
    first = out if isinstance(out, Tensor) else out[0]
    for layer in (*state.labels(args[1]), *(x for x in state.labels(args[0]) if x.shape[0] > 1)):
        state.pin(layer.reshape(-1), "rows of a table are picked by their number")
    state.set(first, [place(state.vector(args[0], 1), first, -1)])


def unpool(state: State, args: Args, out: Tensor) -> None:
    """Put maxima back to where they came from: positions belong to the same channels as the maxima."""
    x, positions = args[0], args[1]
    layers = meet(state, [state.labels(x), state.labels(positions)], [x.shape, positions.shape], x.dim())
    over = range(x.dim() - len(args[2]), x.dim())
    state.set(out, [state.merge(layer, over) for layer in layers])

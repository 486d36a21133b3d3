"""Rules for operators that mix channels: they read one list of labels and make a new one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.trace.calls_made import Call
from secateur.core.trace.state import State

Args = Sequence[Any]
FIXED_INPUT = "in groups with channels that cannot be removed"
ALSO_FIXED = "read by weights that also read channels that cannot be removed"
NO_PARAMETER = "read by weights that are no parameters of the network"
NO_WEIGHT = "summed over by no weight"


def convolution(state: State, args: Args, out: Tensor) -> None:
    """Convolution, plain, transposed, grouped or depthwise, in one to three dimensions."""
    x, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(args[6]), int(args[8])
    for layer in state.labels(weight):
        if layer.shape[0] == layer.shape[1] == 1:
            state.pin(layer.reshape(-1), "a kernel position, not a channel")
    batch = [layer for layer in state.labels(x) if L.varying(layer) == (0,)]  # channels that are taken one by one
    for layer in state.labels(x):
        if layer.shape[1] == 1 and L.varying(layer) != (0,):
            state.pin(layer.reshape(-1), "positions of a map that a convolution slides over")
    read, rows, columns = state.vector(x, 1), state.vector(weight, 0), state.vector(weight, 1)
    spatial = math.prod((x if transposed else out).shape[2:])
    scale = spatial * math.prod(weight.shape[2:])
    images = axis(x.shape[0], state.vector(x, 0) if batch else None)
    state.calls.append(Call(state.module, scale, (images, *_axes(weight, rows, columns))))
    if groups == 1:
        made = columns if transposed else rows
        contract(state, read, rows if transposed else columns, state.is_weight(weight))
        state.mark(made, "makes")
        state.mark(rows if transposed else columns, "reads")
    else:
        made = _grouped(state, read, weight, rows, columns, groups, transposed)
    if bias is not None:
        join(state, made, state.vector(bias, 0))
    state.set(out, [*batch, place(made, out, 1)])


def _grouped(
    state: State,
    read: Tensor | None,
    weight: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    groups: int,
    transposed: bool,
) -> Tensor | None:
    """Return the output labels of a grouped convolution.

    Its groups have equal sizes before and after. Either whole groups go, inputs and outputs together (always so
    for depthwise convolutions), or the same position goes from every group: whichever leaves the finer choice.
    """
    if read is None or rows is None:
        _pin_all(state, (read,), NO_PARAMETER)
        _pin_all(state, (rows, columns), FIXED_INPUT)
        return None
    inner = len(read) // groups
    by_group = read.reshape(groups, inner)
    if state.module in state.kinds.convolutions:
        if state.module in state.convolutions:
            state.unite(state.convolutions[state.module], read)
        state.convolutions[state.module] = read
        whole = groups > inner
    else:  # called as a function, with one group for each image or each channel as a rule
        whole = inner == 1
    if whole:
        return _whole_groups(state, by_group, rows, columns, weight.shape[1], transposed)
    state.unite(by_group, by_group[:1])
    if transposed:
        contract(state, read, rows, state.is_weight(weight))
        made = None if columns is None else columns.repeat(groups)
    else:
        contract(state, by_group[0], columns, state.is_weight(weight))
        grid = rows.reshape(groups, -1)
        state.unite(grid, grid[:1])
        made = rows
    state.mark(made, "makes")
    state.mark(rows if transposed else columns, "reads")
    return made


def _whole_groups(
    state: State, by_group: Tensor, rows: Tensor, columns: Tensor | None, width: int, transposed: bool
) -> Tensor:
    """Inputs and outputs of a group of a grouped convolution form one unit; positions inside it stay."""
    groups, inner = by_group.shape
    state.unite(by_group, by_group[:, :1])
    state.unite(rows.reshape(groups, -1), by_group[:, :1])
    if columns is not None:
        state.pin(columns, "positions inside a group stay; whole groups can go")
    if inner > 1:  # one of a single channel scales it, whatever makes its kernel
        state.mark(rows, "makes")
    return by_group[:, :1].expand(groups, width).reshape(-1) if transposed else rows


def contract(state: State, read: Tensor | None, weight: Tensor | None, silenceable: bool) -> None:
    """Sum over a dimension: what is read and the weights that read it go together."""
    if read is None and weight is None:
        return
    if read is None or weight is None:
        _pin_all(state, (read,), NO_PARAMETER)
        _pin_all(state, (weight,), ALSO_FIXED)
        return
    state.unite(read, weight)
    if not silenceable or state.makes(weight):
        state.silence_at_call(weight, NO_WEIGHT)


def linear(state: State, args: Args, out: Tensor) -> None:
    """``x @ W.T + b`` as one operator."""
    x, weight = args[0], args[1]
    read, rows, columns = state.vector(x, x.dim() - 1), state.vector(weight, 0), state.vector(weight, 1)
    contract(state, read, columns, state.is_weight(weight))
    state.mark(rows, "makes")
    state.mark(columns, "reads")
    state.calls.append(Call(state.module, math.prod(out.shape[:-1]), _axes(weight, rows, columns)))
    if len(args) > 2 and args[2] is not None:
        join(state, rows, state.vector(args[2], 0))
    others = [layer for layer in state.labels(x) if layer.shape[-1] == 1]
    state.set(out, [*others, place(rows, out, -1)])


def batch_norm(state: State, args: Args, out: Tensor) -> None:
    """Batch norm over running statistics; over the batch's own, it depends on whatever it averages over."""
    x, training = args[0], bool(args[5])
    others = [layer for layer in state.labels(x) if layer.shape[1] == 1]
    for layer in others if training else []:
        dims = L.varying(layer)
        state.depend(layer.reshape(-1), dims[-1], "normalised over channels")
    channels = state.vector(x, 1)
    for tensor in args[1:5]:
        if tensor is not None and tensor.numel():
            join(state, channels, state.vector(tensor, 0))
    # normalised over what is left, a silenced entry of a weight stays zero
    silenceable = training and state.statistic is not None and state.is_weight(x)
    state.set(out, [*others, place(channels, out, 1)], silenceable)


def group_norm(state: State, args: Args, out: Tensor) -> None:
    """Group norm: whole groups go, or the same position from each; see grouped convolution."""
    x, groups = args[0], int(args[6])
    channels = state.vector(x, 1)
    for tensor in args[1:3]:
        if tensor is not None:
            join(state, channels, state.vector(tensor, 0))
    if channels is not None:
        grid = channels.reshape(groups, -1)
        if groups > grid.shape[1] and state.module in state.kinds.group_norms:
            state.unite(grid, grid[:, :1])
        elif groups > grid.shape[1]:
            state.pin(channels, "the number of groups is fixed")
        else:
            state.unite(grid, grid[:1])
            state.depend(channels, 1, "normalised over channels")
    others = [layer for layer in state.labels(x) if layer.shape[1] == 1]
    state.set(out, [*others, place(channels, out, 1)])


def layer_norm(state: State, args: Args, out: Tensor) -> None:
    """Layer norm and RMS norm: depend on all channels."""
    x, dims = args[0], len(args[1])
    for d in range(x.dim() - dims, x.dim()):
        channels = state.vector(x, d)
        for tensor in args[2:4]:
            if isinstance(tensor, Tensor):  # and no number
                join(state, channels, state.vector(tensor, d - x.dim() + dims))
        if channels is not None and dims == 1:
            state.depend(channels, d, "normalised over channels")
        elif channels is not None:
            state.pin(channels, "normalised over several dimensions")
    state.set(out, state.labels(x))


def join(state: State, channels: Tensor | None, own: Tensor | None) -> None:
    """A per-channel parameter goes with its channel, and stays if the channel stays."""
    if own is not None and channels is not None:
        state.unite(channels, own)
    elif own is not None or channels is not None:
        _pin_all(state, (own, channels), "joined with channels that cannot be removed")


def _pin_all(state: State, vectors: tuple[Tensor | None, ...], reason: str) -> None:
    for vector in vectors:
        if vector is not None:
            state.pin(vector, reason)


def axis(size: int, atoms: Tensor | None) -> int | Tensor:
    """Return the labels of a dimension, or its size where nothing can be removed."""
    return size if atoms is None else atoms


def _axes(weight: Tensor, rows: Tensor | None, columns: Tensor | None) -> tuple[int | Tensor, int | Tensor]:
    return axis(weight.shape[0], rows), axis(weight.shape[1], columns)


def place(vector: Tensor | None, out: Tensor, dim: int) -> Tensor | None:
    """Lay labels along one dimension of a tensor."""
    if vector is None:
        return None
    return vector.reshape([-1 if d == dim % out.dim() else 1 for d in range(out.dim())])

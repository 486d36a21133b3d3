"""The rule for deformable convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from secateur.core.trace.calls_made import Call
from secateur.core.trace.mix import axis, contract, join, place
from secateur.core.trace.state import State

Args = Sequence[Any]


def deformable(state: State, args: Args, out: Tensor) -> None:
    """Deformable convolution: read like a convolution, at places that are given for each group of its inputs.

    Groups of its weight and of its offsets keep their number: the same position goes from each of them.
    """
    x, weight, offset, mask, bias = args[:5]
    groups, spread, modulated = int(args[11]), int(args[12]), bool(args[13])
    for places in (offset, mask) if modulated else (offset,):
        for layer in state.labels(places):
            state.pin(layer.reshape(-1), "places that a deformable convolution reads from")
    for layer in state.labels(weight):
        if layer.shape[0] == layer.shape[1] == 1:
            state.pin(layer.reshape(-1), "a kernel position, not a channel")
    read, rows, columns = state.vector(x, 1), state.vector(weight, 0), state.vector(weight, 1)
    scale = out.shape[0] * math.prod(out.shape[2:]) * math.prod(weight.shape[2:])
    state.calls.append(Call(state.module, scale, (axis(weight.shape[0], rows), axis(weight.shape[1], columns))))
    for vector, parts in ((read, spread), (read, groups), (rows, groups)):
        if vector is not None:
            grid = vector.reshape(parts, -1)
            state.unite(grid, grid[:1])
    contract(state, None if read is None else read[: weight.shape[1]], columns, state.is_weight(weight))
    state.mark(rows, "makes")
    state.mark(columns, "reads")
    if state.labels(bias) or bool(bias.any()):  # without one it is given zeros
        join(state, rows, state.vector(bias, 0))
    state.set(out, [place(rows, out, 1)])

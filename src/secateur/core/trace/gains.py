"""The rule for weight norm: which parameters a weight is computed from, and what goes with its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from secateur.core.graph.computed_weights import Gain
from secateur.core.trace.state import State


def weight_norm(state: State, args: Sequence[Any], out: Tensor) -> None:
    """``_weight_norm(v, g, dim)``: the labels of the direction, whose gains go with their positions.

    What a position reads is part of its length, and when that goes the gain is adapted, see ``surgery.gains``. So the
    weight is set to zero where it is used, not in the direction.
    """
    direction, gain = args[0], args[1]
    dim = int(args[2]) if len(args) > 2 else 0
    names = [state.names.get(id(tensor), ("", None)) for tensor in (direction, gain)]
    layers = state.labels(direction)
    if any(tensor is not given for (_, tensor), given in zip(names, (direction, gain), strict=True)):
        for layer in (*layers, *state.labels(gain)):
            state.pin(layer.reshape(-1), "weight norm of a weight that is computed itself")
        state.set(out, [])
        return
    own = state.vector(direction, dim) if dim >= 0 else None
    lengths = state.labels(gain)
    if own is not None and lengths:
        state.unite(own, lengths[0].reshape(-1))
    state.gains[names[0][0]] = Gain(names[0][0], names[1][0], dim)
    state.set(out, layers)

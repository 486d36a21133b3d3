"""The rule for Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from secateur.core.labels import varying
from secateur.core.trace.calls_made import Call
from secateur.core.trace.mix import axis
from secateur.core.trace.move import unless_along
from secateur.core.trace.state import State
from secateur.core.work import fourier


def transform(state: State, args: Sequence[Any], out: Tensor) -> None:
    """Transforms over maps (``args``: tensor, dimensions, ...): a channel stays a channel."""
    x, dims = args[0], {int(d) % args[0].dim() for d in args[1]}
    layers = [unless_along(state, layer, *dims) for layer in state.labels(x)]
    state.set(out, layers)
    of: dict[int, Tensor] = {}
    for layer in state.labels(out):
        *others, last = varying(layer)
        of[last] = state.merge(layer, others).reshape(-1)
    axes = tuple(axis(size, of.get(d)) for d, size in enumerate(x.shape) if d not in dims)
    state.calls.append(Call(state.module, fourier(x, out, sorted(dims)), axes))

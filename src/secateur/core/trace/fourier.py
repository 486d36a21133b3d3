"""The rule for Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from secateur.core.channel_labels import varying
from secateur.core.operator_macs import fourier
from secateur.core.trace.calls_made import Call
from secateur.core.trace.move import unless_along
from secateur.core.trace.state import State


def transform(state: State, args: Sequence[Any], out: Tensor) -> None:
    """Transforms over maps (``args``: tensor, dimensions, ...): a channel stays a channel."""
    x, dims = args[0], {int(d) % args[0].dim() for d in args[1]}
    state.set(out, [unless_along(state, layer, *dims) for layer in state.labels(x)])
    others = set(range(x.dim())) - dims
    axes: list[int | Tensor] = []
    for layer in state.labels(out):
        if others.issuperset(varying(layer)):
            axes.append(layer.reshape(-1))
            others.difference_update(varying(layer))
        else:
            state.pin(layer.reshape(-1), "transforms of channels along one dimension with others")
    axes += [x.shape[d] for d in sorted(others)]
    state.calls.append(Call(state.module, fourier(x, out, sorted(dims)), tuple(axes)))

"""How far a network is from another one, on images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur.core.surgery import Inputs, run, tensors_in
from secateur.measure.forward import device_of, moved


def squared_error(dense: nn.Module, thin: nn.Module, images: Sequence[Inputs]) -> float:
    """Return the squared error of all outputs; NaN where the outputs of the two are of other shapes.

    Args:
        dense: what is right.
        thin: the other one.
        images: batches of what both take.

    Raises:
        ModelError: if they do not run on them.
    """
    total = 0.0
    for batch in images:
        one, other = (tensors_in(run(network, moved(batch, device_of(network)))) for network in (dense, thin))
        if [it.shape for it in one] != [it.shape for it in other]:
            return float("nan")
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.is_floating_point()]
        total += sum(float((a.double().cpu() - b.double().cpu()).square().sum()) for a, b in pairs)
    return total

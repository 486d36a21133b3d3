"""How far networks are from another one, on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.core.surgery import Inputs, run, tensors_in
from secateur.measure.forward import device_of, moved


def squared_errors(
    dense: nn.Module,
    thins: Sequence[nn.Module],
    images: Sequence[Inputs],
    left: Callable[[Any], list[Tensor]] = tensors_in,
) -> list[float]:
    """Return the squared error of all outputs of each network; NaN where they are of other shapes than what is right.

    Args:
        dense: what is right; it runs once on each batch.
        thins: the others.
        images: batches of what all of them take.
        left: returns what the others have of the outputs of the dense network.

    Raises:
        ModelError: if they do not run on them.
    """
    totals = [0.0] * len(thins)
    for batch in images:
        right = _outputs(dense, batch, left)
        for number, thin in enumerate(thins):
            totals[number] += _difference(right, _outputs(thin, batch, tensors_in))
    return totals


def _outputs(network: nn.Module, batch: Inputs, tensors: Callable[[Any], list[Tensor]]) -> list[Tensor]:
    return [it.detach().cpu() for it in tensors(run(network, moved(batch, device_of(network))))]


def _difference(right: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    if [it.shape for it in right] != [it.shape for it in others]:
        return float("nan")
    pairs = [(a, b) for a, b in zip(right, others, strict=True) if a.is_floating_point()]
    return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)

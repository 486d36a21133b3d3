"""A map of channels from the second moments of what units send, after GRAIL (arXiv 2602.23795), to compare with.

What a layer reads is predicted from the units that are left, ``x = m + B (x_kept - m_kept)`` with
``B = G R' (R G R' + s I)^-1``, where G is the covariance of the channels over images and places and R picks the kept
ones. The layer's weights become ``W B``, one number for all places of a kernel, and the mean of the rest goes into the
bias or the batch norm behind. Front to back: G is that of the dense network, and the means are those of what the thin
network puts out so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.fusion import fusible
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.measure.forward import evaluating
from secateur.repair.readers import Reader, inputs_and_outputs, readers

PULL = 1e-3
"""Ridge, as a share of the mean variance of the kept channels."""


def gram_channel_map(dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan, images: Sequence[Tensor]) -> int:
    """Change in place what reads removed units, and return how many layers that are."""
    changed = 0
    with evaluating(dense), evaluating(thin), torch.no_grad():
        norms = dict(fusible(dense, images[0][:1]))
        for reader in readers(dense, thin, graph, plan):
            changed += _mapped(dense, thin, reader, norms.get(reader.name, ""), images)
    return changed


def _mapped(dense: nn.Module, thin: nn.Module, reader: Reader, norm: str, images: Sequence[Tensor]) -> bool:
    moments, now = _moments(dense, reader.dense, images), _moments(thin, reader.thin, images)
    if moments is None or now is None:
        return False
    mean, square = moments
    kept = ~reader.lost
    within = square[kept][:, kept]
    ridge = PULL * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64)
    by = torch.linalg.solve(within + ridge, square[kept]).T  # (channels, kept)
    weight = (
        reader.dense.weight.detach().double()[reader.outputs].flatten(2)
        if reader.dense.weight.dim() > 2
        else (reader.dense.weight.detach().double()[reader.outputs, :, None])
    )
    new = torch.einsum("ocp,ck->okp", weight, by)
    reader.thin.weight.copy_(new.reshape(reader.thin.weight.shape))
    shift = weight.sum(2) @ mean - new.sum(2) @ now[0]
    if reader.thin.bias is not None:
        assert reader.dense.bias is not None
        reader.thin.bias.copy_(reader.dense.bias.detach()[reader.outputs] + shift)
    elif norm:
        behind: Any = thin.get_submodule(norm)
        behind.running_mean.sub_(shift.to(behind.running_mean))
    return True


def _moments(network: nn.Module, layer: nn.Module, images: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the mean and the covariance of the channels of what a layer reads, in float64."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for calls in inputs_and_outputs(network, layer, images):
        for given, _ in calls:
            rows = given.movedim(1, -1) if isinstance(layer, nn.Conv2d) else given
            rows = rows.reshape(-1, rows.shape[-1])
            count += len(rows)
            total = total + rows.sum(0).double()
            square = square + (rows.T @ rows).double()
    if not count:
        return None
    mean = total / count
    return mean, square / count - mean[:, None] * mean

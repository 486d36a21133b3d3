"""A map of channels from the second moments of what units send, after GRAIL (arXiv 2602.23795), to compare with.

What a layer reads is predicted from the units that are left, ``x = m + B (x_kept - m_kept)`` with
``B = G R' (R G R' + s I)^-1``, where G is the covariance of the channels over images and places and R picks the kept
ones. The layer's weights become ``W B``, one number for all places of a kernel, and the mean of the rest goes into the
bias or the batch norm behind. Front to back: G is that of the dense network, and the means are those of what the thin
network puts out so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.core.batchnorm_folding import fusible
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import run
from secateur.measure.forward import evaluating
from secateur.repair.readers import Reader, readers

Moments: TypeAlias = tuple[Tensor, Tensor]
PULL = 1e-3
"""Ridge, as a share of the mean variance of the kept channels."""


def gram_channel_map(dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan, images: Sequence[Tensor]) -> int:
    """Change in place what reads removed units, and return how many layers that are."""
    changed = 0
    with evaluating(dense), evaluating(thin), torch.no_grad():
        norms = dict(fusible(dense, images[0][:1]))
        found = list(readers(dense, thin, graph, plan))
        whole = moments(dense, [reader.dense for reader in found], images)
        for reader, of_dense in zip(found, whole, strict=True):
            changed += _mapped(thin, reader, of_dense, norms.get(reader.name, ""), images)
    return changed


def _mapped(thin: nn.Module, reader: Reader, of_dense: Moments | None, norm: str, images: Sequence[Tensor]) -> bool:
    (now,) = moments(thin, [reader.thin], images)
    if of_dense is None or now is None:
        return False
    mean, square = of_dense
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


def moments(network: nn.Module, layers: Sequence[nn.Module], images: Sequence[Tensor]) -> list[Moments | None]:
    """Return the mean and the covariance of the channels of what each layer reads, in float64, from one pass."""
    sums: list[list[Any]] = [[0, 0.0, 0.0] for _ in layers]

    def note(number: int, layer: nn.Module, given: Tensor) -> None:
        rows = given.movedim(1, -1) if isinstance(layer, nn.Conv2d) else given
        rows = rows.reshape(-1, rows.shape[-1])
        for place, more in enumerate((len(rows), rows.sum(0).double(), (rows.T @ rows).double())):
            sums[number][place] = sums[number][place] + more

    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, number=number: note(number, layer, given[0]))
        for number, layer in enumerate(layers)
    ]
    try:
        for batch in images:
            run(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    means = [(total / max(1, count), square / max(1, count), count) for count, total, square in sums]
    return [(mean, square - mean[:, None] * mean) if count else None for mean, square, count in means]

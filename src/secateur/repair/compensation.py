"""Add to a bias, or to a batch norm, what the removed inputs gave on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from secateur.core.batchnorm_folding import fusible
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.core.surgery.private_copies import apart
from secateur.measure.forward import device_of, evaluating, moved
from secateur.repair.readers import Reader, inputs_and_outputs, readers


@apart("dense")
def compensate(
    dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan, images: Sequence[Inputs]
) -> tuple[str, ...]:
    """Replace every removed input by its mean over the images, folded into the layer that read it.

    The mean is folded into the layer's bias or, where it has none, into the running mean of the batch norm that alone
    reads its output. The mean of that output is then what it was, but for the borders of padded maps and for what
    changes upstream; what a dead filter emits is its own mean, so that folding it is exact there. Layers with neither
    are left alone. See Molchanov et al., *Pruning Convolutional Neural Networks for Resource Efficient Inference*,
    2017, and Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, section
    4.2, for the same correction.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches of what the network takes.

    Returns:
        Names of the layers whose lost inputs were folded.
    """
    changed: list[str] = []
    with evaluating(dense), torch.no_grad():
        norms = dict(fusible(dense, moved(images[0], device_of(dense))))
    for reader in readers(dense, thin, graph, plan):
        shift: Tensor | None = reader.thin.bias
        sign = 1
        if shift is None and reader.name in norms:
            shift, sign = cast("Tensor | None", thin.get_submodule(norms[reader.name]).running_mean), -1
        if shift is None:
            continue
        means = _means(dense, reader, images)
        if means is None:
            continue
        weight = reader.dense.weight.detach()
        given = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        lost = reader.lost.to(weight.device)
        missing = given[:, lost] @ means[lost].to(given.dtype)
        if not bool(missing.isfinite().all()):  # of inputs that overflow there is no mean
            continue
        with torch.no_grad():
            shift += sign * missing[reader.outputs.to(weight.device)].to(shift.device, shift.dtype)
        changed.append(reader.name)
    return tuple(changed)


def _means(dense: nn.Module, reader: Reader, images: Sequence[Inputs]) -> Tensor | None:
    """Return the mean of each input of a layer, in float64; None if nothing calls it."""
    total: Tensor | None = None
    count = 0
    for calls in inputs_and_outputs(dense, reader.dense, images):
        for given, _ in calls:
            rows = given.movedim(1, -1) if isinstance(reader.dense, nn.Conv2d) else given
            rows = rows.reshape(-1, rows.shape[-1]).double()
            total = rows.sum(0) if total is None else total + rows.sum(0)
            count += len(rows)
    return None if total is None else total / count

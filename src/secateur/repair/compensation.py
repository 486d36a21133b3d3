"""Add to a bias what the removed inputs gave on average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.repair.readers import Reader, inputs_and_outputs, readers


def compensate(
    dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan, images: Sequence[Tensor]
) -> tuple[str, ...]:
    """Replace every removed input by its mean over the images, folded into the bias of the layer that read it.

    The mean of an output is then what it was, but for the borders of padded maps and for what changes upstream.
    Layers without a bias are left alone: the batch norm behind them is what re-estimated statistics repair
    (``secateur.training.recalibrate``). See Molchanov et al., *Pruning Convolutional Neural Networks for Resource
    Efficient Inference*, 2017, and Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias
    Correction*, 2019, section 4.2, for the same correction.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches ``(N, C, H, W)``.

    Returns:
        Names of the layers whose bias was changed.
    """
    changed: list[str] = []
    for reader in readers(dense, thin, graph, plan):
        bias = reader.thin.bias
        if bias is None:
            continue
        means = _means(dense, reader, images)
        weight = reader.dense.weight.detach()
        given = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        lost = reader.lost.to(weight.device)
        missing = given[:, lost] @ means[lost].to(given.dtype)
        with torch.no_grad():
            bias += missing[reader.outputs.to(weight.device)].to(bias.device, bias.dtype)
        changed.append(reader.name)
    return tuple(changed)


def _means(dense: nn.Module, reader: Reader, images: Sequence[Tensor]) -> Tensor:
    """Return the mean of each input of a layer, in float64."""
    total: Tensor | None = None
    count = 0
    for calls in inputs_and_outputs(dense, reader.dense, images):
        for given, _ in calls:
            rows = given.movedim(1, -1) if isinstance(reader.dense, nn.Conv2d) else given
            rows = rows.reshape(-1, rows.shape[-1]).double()
            total = rows.sum(0) if total is None else total + rows.sum(0)
            count += len(rows)
    assert total is not None
    return total / count

"""Least squares: the weights with which what is left of the inputs comes closest to the old outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.repair.readers import Reader, inputs_and_outputs, readers

MOST = 6000  # unknowns of one output, beyond which the normal equations become slow and large


def reconstruct(
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Tensor],
    *,
    ridge: float = 1e-3,
    positions: int = 64,
    seed: int = 0,
) -> tuple[str, ...]:
    """Fit each layer that lost inputs, first to last, to the outputs of the dense network.

    The inputs are those of the thin network as repaired so far, the outputs those of the dense one, so that errors
    do not add up (He, Zhang & Sun, *Channel Pruning for Accelerating Very Deep Neural Networks*, 2017, section 3.2:
    ``min || Y - X W ||^2``). The solution is drawn towards the present weights by ``ridge`` times the mean square
    of the inputs, which decides where there are too few images.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches ``(N, C, H, W)``.
        ridge: weight of the pull towards the present weights, 0 for none.
        positions: places of a map that are drawn from each image.
        seed: of these draws.

    Returns:
        Names of the layers whose weights were fitted; layers with more than 6,000 weights for an output are left.
    """
    fitted: list[str] = []
    generator = torch.Generator().manual_seed(seed)
    for reader in readers(dense, thin, graph, plan):
        if reader.thin.weight[0].numel() > MOST:
            continue
        sums = _normal_equations(dense, thin, reader, images, positions, generator)
        if sums is None:
            continue
        square, product = sums
        pull = ridge * square.diagonal().mean()
        change = torch.linalg.lstsq(square + pull * torch.eye(len(square), dtype=square.dtype), product).solution.T
        if not bool(change.isfinite().all()):
            continue
        with torch.no_grad():
            weight, bias = reader.thin.weight, reader.thin.bias
            if bias is not None:
                bias += change[:, -1].to(bias.device, bias.dtype)
                change = change[:, :-1]
            weight += change.reshape(weight.shape).to(weight.device, weight.dtype)
        fitted.append(reader.name)
    return tuple(fitted)


def _normal_equations(
    dense: nn.Module,
    thin: nn.Module,
    reader: Reader,
    images: Sequence[Tensor],
    positions: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor] | None:
    """Return ``X^T X`` and ``X^T (Y - X W)`` over the sampled places, in float64 on the CPU; None without calls."""
    square: Tensor | None = None
    product: Tensor | None = None
    wanted = inputs_and_outputs(dense, reader.dense, images)
    for before, now in zip(wanted, inputs_and_outputs(thin, reader.thin, images), strict=True):
        for (_, target), (given, output) in zip(before, now, strict=True):
            channel = 1 if isinstance(reader.thin, nn.Conv2d) else -1
            target = target.movedim(channel, -1)[..., reader.outputs.to(target.device)]
            missing = (target - output.movedim(channel, -1)).flatten(0, -2).double().cpu()
            rows = _rows(reader.thin, given).double().cpu()
            some = torch.randperm(len(rows), generator=generator)[: positions * len(given)]
            rows, missing = rows[some], missing[some]
            square = rows.T @ rows if square is None else square + rows.T @ rows
            product = rows.T @ missing if product is None else product + rows.T @ missing
    return None if square is None or product is None else (square, product)


def _rows(layer: nn.Conv2d | nn.Linear, given: Tensor) -> Tensor:
    """Return one row of inputs for every place of the output, with a one at the end for a bias."""
    if isinstance(layer, nn.Conv2d):
        size = (layer.kernel_size[0], layer.kernel_size[1])
        assert not isinstance(layer.padding, str)
        patches = functional.unfold(given, size, layer.dilation, layer.padding, layer.stride)
        rows = patches.transpose(1, 2).flatten(0, 1)
    else:
        rows = given.reshape(-1, given.shape[-1])
    return rows if layer.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], 1)

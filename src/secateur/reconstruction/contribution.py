"""Readers whose normal equations cannot be had: what each unit adds to the output, and how far others can stand in.

Where a layer has too many columns, is called several times or is of another kind, all that a unit sends to one output
is scaled by a single number. The error is then that of the best scales, which is no less than that of the best weights
(Luo et al., *ThiNet*, 2017, section 3.2, choose channels by the same sums).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.surgery import Inputs, run
from secateur.measure.forward import device_of, moved
from secateur.reconstruction.elimination import Reader
from secateur.reconstruction.least_squares import inverted, ridged
from secateur.reconstruction.reading import columns, units_read
from secateur.reconstruction.sites import hooked

PLACES = 4096
"""Values of the output, over images and places, that contributions are compared at."""
_CONVOLUTIONS: Mapping[type[nn.Module], Any] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


def contributions(
    model: nn.Module, graph: Graph, layers: Sequence[str], inputs: Inputs, *, pull: float, seed: int
) -> dict[str, list[Reader]]:
    """Return for each group what these layers say of it.

    Args:
        model: run once in evaluation mode.
        graph: its graph.
        layers: names of layers; those that are no plain convolution (transposed or not, of any dimension) and no
            linear layer say nothing.
        inputs: what the forward takes.
        pull: ridge, as a share of the mean square of the contributions.
        seed: of the values that are drawn.
    """
    wanted, found = set(layers), dict[str, list[Reader]]()
    generator = torch.Generator().manual_seed(seed)

    def enter(name: str, module: nn.Module, given: Any) -> None:
        if name not in wanted or not given or not isinstance(given[0], Tensor):
            return
        for group, sent in _sent(module, graph, name, given[0], generator):
            square = sent @ sent.T
            total = float(sent.sum(0).var(correction=0)) * sent.shape[1]
            inverse = inverted(ridged(square[None], pull))[0]
            ones = square.new_ones(len(square), 1)
            found.setdefault(group, []).append(Reader(inverse, ones, max(total, 1e-30)))

    with hooked(model, enter, lambda *_: None):
        run(model, moved(inputs, device_of(model)))
    return found


def _sent(
    layer: nn.Module, graph: Graph, name: str, given: Tensor, generator: torch.Generator
) -> list[tuple[str, Tensor]]:
    """Return for each group what its units add to some values of the output, ``(units, values)`` without means."""
    read = units_read(graph, name)
    base = next((kind for kind in (*_CONVOLUTIONS, nn.Linear) if isinstance(layer, kind)), None)
    if read is None or base is None or getattr(layer, "groups", 1) > 1:
        return []
    out: list[tuple[str, Tensor]] = []
    chosen: Tensor | None = None
    for own in columns(graph, read, 1):
        group, rows = graph.group(own.group), list[Tensor]()
        for unit in range(group.size):
            made = _alone(layer, base, given, own.columns[own.units == unit]).flatten()
            if chosen is None:
                some = min(PLACES, len(made))
                chosen = torch.randperm(len(made), generator=generator)[:some].to(made.device)
            rows.append(made[chosen].double().cpu())
        sent = torch.stack(rows)
        if not bool(sent.isfinite().all()):
            continue
        out.append((own.group, sent - sent.mean(1, keepdim=True)))
    return out


def _alone(layer: Any, base: type[nn.Module], given: Tensor, inputs: Tensor) -> Tensor:
    """Return what a layer puts out if it reads some of its inputs only, its bias left out."""
    inputs = inputs.to(given.device)
    if base is nn.Linear:
        return F.linear(given[..., inputs], layer.weight.detach()[:, inputs])
    weight, some = layer.weight.detach(), given[:, inputs]
    if layer.transposed:
        return _CONVOLUTIONS[base](some, weight[inputs], None, layer.stride, layer.padding, 0, 1, layer.dilation)
    return _CONVOLUTIONS[base](some, weight[:, inputs], None, layer.stride, layer.padding, layer.dilation)

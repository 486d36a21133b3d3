"""A layer of the pruned network as a least squares problem sees it: rows of inputs in, changes of weights out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.sizes.size import zero_masks
from secateur.core.zeros.blocks import BlockConv2d, BlockLayer
from secateur.reconstruction import rows
from secateur.reconstruction.least_squares import Fit, Solution
from secateur.reconstruction.sites import Site, is_layer, norm_scale


class Fitted:
    """A layer that is to be fitted, of whatever kind surgery has left it.

    Attributes:
        site: where it stands.
        plain: a plain layer that computes the same; the layer itself unless it is of blocks.
        scale: by how much a batch norm behind it scales each output, ``(outputs,)`` float64 on the CPU.
        offset: whether a bias, or a running mean that can stand in for one, is fitted with the weights.
        free: ``(groups, columns, outputs of a group)`` bool, the weights that may change; None: all.
    """

    def __init__(self, thin: nn.Module, site: Site, mask: Tensor | None) -> None:
        self.site, self._thin = site, thin
        self.layer: Any = thin.get_submodule(site.layer)
        self.plain: Any = plain(self.layer)
        self.groups = rows.groups(self.plain)
        self.scale = norm_scale(thin, site.norm, len(self.plain.weight))
        self.offset = bool(site.norm) or self.plain.bias is not None
        self.free: Tensor | None = None
        if isinstance(self.layer, BlockLayer):
            own = self.layer.layout().mask()
            taps = self.plain.weight[0, 0].numel()
            own = own.repeat_interleave(taps, 1).view(self.plain.weight.shape)
            mask = own if mask is None else mask & own
        if mask is not None:
            free = mask.cpu().flatten(1).view(self.groups, -1, mask[0].numel()).transpose(1, 2)
            ones = torch.ones(self.groups, 1, free.shape[2], dtype=torch.bool)
            self.free = torch.cat([free, ones], 1) if self.offset else free

    def put_out(self, inputs: Tensor) -> Tensor:
        """Return the outputs, ``(rows, outputs)``, of rows of inputs ``(groups, rows, columns)``."""
        made = _product(inputs, self.plain.weight.detach())
        return made if self.plain.bias is None else made + self.plain.bias.detach().to(made)

    def add(self, fit: Fit, inputs: Tensor, missing: Tensor, image: Tensor) -> None:
        """Add rows to a problem: inputs ``(groups, rows, columns)``, what is missing ``(rows, outputs)``."""
        if self.offset:
            inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], 2)
        fit.add(inputs, missing.reshape(len(missing), self.groups, -1).transpose(0, 1), image)

    def take(self, solution: Solution) -> tuple[Tensor, Tensor | None]:
        """Change the weights, in place, and return by how much: of the shapes of weight and bias, float64."""
        change = solution.change.transpose(1, 2)
        bias = change[:, :, -1].flatten() if self.offset else None
        weight = (change[:, :, :-1] if self.offset else change).reshape(self.plain.weight.shape)
        with torch.no_grad():
            self.plain.weight += weight.to(self.plain.weight)
            if bias is not None and self.plain.bias is not None:
                self.plain.bias += bias.to(self.plain.bias)
            elif bias is not None:
                norm: Any = self._thin.get_submodule(self.site.norm)
                norm.running_mean -= bias.to(norm.running_mean)
            if isinstance(self.layer, BlockLayer):
                self.layer.assign(self.plain.weight, self.plain.bias)
        return weight, bias

    def moved(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what a change of the weights adds to the outputs of some rows, behind the batch norm."""
        made = _product(inputs, weight.to(inputs))
        made = made if bias is None else made + bias.to(made)
        return made * self.scale.to(made)

    def moved_map(self, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the same for whole inputs of the layer."""
        scale = self.scale.to(weight)  # of the weights, which are smaller than the map
        weight = (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(given)
        return rows.changed(self.plain, given, weight, None if bias is None else (bias * scale).to(given))


def _product(inputs: Tensor, weight: Tensor) -> Tensor:
    by_group = weight.to(inputs).flatten(1).view(len(inputs), -1, inputs.shape[2])
    return (inputs @ by_group.transpose(1, 2)).transpose(0, 1).flatten(1)


def can_fit(module: nn.Module) -> bool:
    """Tell whether a layer of the pruned network can be fitted."""
    return is_layer(module) or isinstance(module, BlockLayer)


def plain(layer: Any) -> nn.Module:
    """Return a convolution or linear layer that computes what a layer of blocks does; any other as it is."""
    if not isinstance(layer, BlockLayer):
        return layer
    weight, bias, like = layer.weight.detach(), layer.bias, layer.parts[0]
    with torch.device(weight.device):
        if isinstance(layer, BlockConv2d):
            made: Any = nn.Conv2d(
                layer.inputs, layer.outputs, like.kernel_size, like.stride, like.padding, like.dilation, 1,
                bias is not None, like.padding_mode,
            )  # fmt: skip
        else:
            made = nn.Linear(layer.inputs, layer.outputs, bias is not None)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made


def masks(graph: Graph, plan: Plan) -> dict[str, Tensor]:
    """Return for each layer with weights that must stay zero which may change, in the shape after removal."""
    return {
        tensor.removesuffix(".weight"): mask
        for tensor, mask in zero_masks(graph, plan, graph.kept(plan)).items()
        if tensor.endswith(".weight")
    }

"""Weight norm through a cut: what goes takes its share of the length along, which the gain must make up for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from secateur.core.graph import Graph, tensor_of
from secateur.core.plan import Plan
from secateur.core.sizes.size import sliced, zero_masks


def follow_gains(model: nn.Module, graph: Graph, plan: Plan, keep: Tensor, thin: Mapping[str, Tensor]) -> None:
    """Set the gains so that the weights that are left have the values that they had.

    A weight is ``g v / |v|``. Without some of the entries of ``v`` its length is another, and ``g`` shrinks alike.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what goes.
        keep: the units that stay.
        thin: the tensors that are left by name; gains, and directions that are all zero, are changed in place.
    """
    masks = zero_masks(graph, plan, torch.ones_like(keep)) if graph.gains else {}
    with torch.no_grad():
        for each in graph.gains:
            whole = tensor_of(model, each.direction).detach()
            if each.direction in masks:
                whole = whole * masks[each.direction].to(whole.device)
            direction, gain = thin[each.direction], thin[each.gain]
            before = sliced(
                _lengths(whole, each.dim).view(graph.tensors[each.gain][0]), graph.tensors[each.gain][1], keep
            )
            after = _lengths(direction, each.dim).view(gain.shape)
            gain.mul_(torch.where(after > 0, after / before, 0.0))
            empty = after == 0
            if bool(empty.any()):  # a length of zero cannot be divided by: the gain alone makes the weight zero
                direction.copy_(torch.where(empty, torch.ones_like(direction), direction))


def _lengths(direction: Tensor, dim: int) -> Tensor:
    return torch.norm_except_dim(direction, 2, dim)


def refresh(thin: nn.Module) -> None:
    """Compute anew the weights that hooks of ``torch.nn.utils.weight_norm`` keep as attributes."""
    for module in thin.modules():
        for hook in module._forward_pre_hooks.values():  # pyright: ignore[reportPrivateUsage]
            if isinstance(hook, WeightNorm):
                with torch.no_grad():
                    hook(module, None)

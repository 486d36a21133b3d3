"""Fold the order of a block layer's outputs into its neighbours, so that nothing restores it at run time.

A block layer computes its outputs block by block. Where those channels belong to nobody else, and everything behind
takes each of them at its own place, batch norms and readers can take them in that order as well.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from secateur.core.channel_statistics import NEIGHBOURS
from secateur.core.graph import Graph, Group, Member, layer_of, tensor_of
from secateur.core.zeros.blocks import BlockLayer


def fold_orders(thin: nn.Module, graph: Graph, regrouped: Collection[str], held: Collection[str]) -> None:
    """Let block layers emit their outputs block by block where all that read them can follow exactly.

    Args:
        thin: the network after everything else, changed in place.
        graph: of the network before.
        regrouped: names of the layers that became block layers.
        held: names of tensors with zeros at places of the old order; their channels keep it.
    """
    for group in graph.groups:
        layers = {layer_of(member.tensor) for member in group.members if member.role == "makes"}
        if len(layers) != 1 or not layers <= set(regrouped):
            continue
        (layer,) = layers
        maker = thin.get_submodule(layer)
        if not isinstance(maker, BlockLayer) or maker.ordered:
            continue
        others = [member for member in group.members if layer_of(member.tensor) != layer]
        touched = {member.tensor for member in group.members}
        if not touched & set(held) and _whole(graph, group) and all(_follows(thin, member) for member in others):
            placed = torch.argsort(maker.order)
            for member in others:
                _reorder(thin, member, placed)
            maker.order = torch.arange(maker.outputs, device=maker.order.device)
            maker.ordered = True


def _whole(graph: Graph, group: Group) -> bool:
    """Tell whether every dimension holds each unit once, in order, and that no code minds which it is."""
    if any(not torch.equal(member.unit.cpu(), torch.arange(group.size)) for member in group.members):
        return False
    first = graph.offsets[group.name]
    beside = [entry.units for entry in graph.statistics if entry.kind == NEIGHBOURS]
    if any(bool(((units >= first) & (units < first + group.size)).any()) for units in beside):
        return False
    axes = [size.axis.units for entry in graph.rewrites for size in entry.literals]
    axes += [entry.units for entry in graph.statistics]
    own = [units[(units >= first) & (units < first + group.size)] for units in axes]
    return all(len(units) in (0, group.size) for units in own)


def _follows(thin: nn.Module, member: Member) -> bool:
    """Tell whether a tensor can be put into another order: a vector of a batch norm, or the columns of a reader."""
    owner = thin.get_submodule(layer_of(member.tensor))
    if member.role == "scales":
        return isinstance(owner, (nn.BatchNorm1d, nn.BatchNorm2d)) and member.dim == 0
    if member.role != "reads" or member.dim != 1:
        return False
    return isinstance(owner, (BlockLayer, nn.Linear)) or (type(owner) is nn.Conv2d and owner.groups == 1)


def _reorder(thin: nn.Module, member: Member, placed: Tensor) -> None:
    """Put positions into the order in which the maker now emits them: place ``i`` holds what ``placed[i]`` held."""
    owner = thin.get_submodule(layer_of(member.tensor))
    if not isinstance(owner, BlockLayer):
        tensor = tensor_of(thin, member.tensor)
        with torch.no_grad():
            tensor.copy_(tensor.index_select(member.dim, placed.to(tensor.device)))
        return
    now = torch.argsort(placed)
    for number in range(len(owner.blocks)):
        setattr(owner, f"inputs{number}", now.to(owner.order.device)[owner.chosen(number)])

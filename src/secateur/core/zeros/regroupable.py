"""Which layers of a network can be regrouped, and which of them are projection shortcuts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.sizes.regrouped import why_not
from secateur.core.zeros.blocks import BlockLayer


def layers_of(model: nn.Module, graph: Graph) -> list[str]:
    """Return all layers with multiply-accumulates in the order of execution; a block layer counts as one."""
    return list(dict.fromkeys(_whole(model, cost.layer) for cost in graph.costs))


def _whole(model: nn.Module, name: str) -> str:
    """Return the block layer that a layer is part of, or the layer itself."""
    holder, _, number = name.rpartition(".blocks.")
    return holder if number.isdigit() and holder and isinstance(model.get_submodule(holder), BlockLayer) else name


def is_convolution(module: nn.Module) -> bool:
    """Say whether a layer is a 2-d convolution, in blocks or not."""
    return isinstance(module, nn.Conv2d) or (isinstance(module, BlockLayer) and module.dim == -3)


def can_be_regrouped(model: nn.Module, graph: Graph, name: str) -> bool:
    """Say whether a layer, or each block of a block layer, can be regrouped, and was not to be left alone."""
    module = model.get_submodule(name)
    if graph.leaves(name):
        return False
    if isinstance(module, BlockLayer):
        return all(not why_not(model, graph, f"{name}.blocks.{i}") for i in range(len(module.blocks)))
    return not why_not(model, graph, name) and graph.tensors[f"{name}.weight"][0][1] >= 2


def is_projection(model: nn.Module, graph: Graph, name: str) -> bool:
    """Say whether a layer is a plain 1x1 convolution into a sum, reading what another layer of the block reads too.

    What reads single channels is pinned, so behind block layers every plain 1x1 convolution may be one.
    """
    shape, dims = graph.tensors.get(f"{name}.weight", ((), ()))
    if isinstance(model.get_submodule(name), BlockLayer) or len(shape) != 4 or shape[2:] != (1, 1):
        return False
    if dims[0] is None or dims[1] is None:
        return any(isinstance(module, BlockLayer) for module in model.modules())
    makers = _owners(model, graph, dims[0], lambda role: role == "makes")
    readers = _owners(model, graph, dims[1], lambda role: role == "reads")
    return len(makers) > 1 and len(readers) > 1


def _owners(model: nn.Module, graph: Graph, units: torch.Tensor, wanted: Callable[[str], bool]) -> set[str]:
    """Return the layers with such a role in the groups of these units."""
    groups = [group for group in graph.groups if _in(graph, group.name, units)]
    return {_whole(model, m.tensor.rpartition(".")[0]) for g in groups for m in g.members if wanted(m.role)}


def _in(graph: Graph, group: str, units: torch.Tensor) -> bool:
    first = graph.offsets[group]
    return bool(((units >= first) & (units < first + graph.group(group).size)).any())

"""Put block layers in the place of regrouped ones, and keep their numbering when channels go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, staying, tensor_of
from secateur.core.plan import Block
from secateur.core.sizes.regrouped import Layout, merged
from secateur.core.zeros.blocks import BlockConv2d, BlockLayer, BlockLinear


def regroup(model: nn.Module, found: Mapping[str, Layout]) -> None:
    """Replace layers of a network by block layers.

    A block of a block layer can be regrouped again: the layer that holds it is made anew with finer blocks.

    Args:
        model: changed in place.
        found: the blocks of each layer by its name.
    """
    finer: dict[str, dict[int, Layout]] = {}
    for name, layout in found.items():
        if layout.pairs == layout.outputs * layout.inputs:
            continue  # every output reads every input: an ordinary layer is all it takes
        holder, inner, number = _inside(model, name)
        if inner:
            finer.setdefault(holder, {})[number] = layout
        else:
            layer = model.get_submodule(name)
            kind = BlockLinear if isinstance(layer, nn.Linear) else BlockConv2d
            _replace(model, layer, kind.of(layer, layout))
    for holder, parts in finer.items():
        layer = model.get_submodule(holder)
        assert isinstance(layer, BlockLayer)
        _replace(model, layer, type(layer).of(layer, _refined(layer, parts)))


def _inside(model: nn.Module, name: str) -> tuple[str, bool, int]:
    """Return the block layer that a layer is a block of, whether there is one, and the number of the block."""
    holder, _, number = name.rpartition(".blocks.")
    inner = bool(holder) and number.isdigit() and isinstance(model.get_submodule(holder), BlockLayer)
    return holder, inner, int(number) if inner else 0


def _refined(layer: BlockLayer, parts: Mapping[int, Layout]) -> Layout:
    """Return the blocks of a block layer, some of them cut into finer ones."""
    whole = layer.layout()
    blocks: list[Block] = []
    # a grouped convolution cannot be regrouped, so the blocks of the layout are the layer's modules in order
    for number, block in enumerate(whole.blocks):
        inner = parts.get(number)
        if inner is None:
            blocks.append(block)
            continue
        inputs = layer.chosen(number).tolist()
        blocks += [
            Block(tuple(block.outputs[o] for o in own.outputs), tuple(sorted(inputs[i] for i in own.inputs)))
            for own in inner.blocks
        ]
    return Layout(whole.outputs, whole.inputs, merged(blocks))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever the network holds ``old``."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def renumber(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    """Bring the numbers in block layers in line with tensors from which channels were removed.

    Args:
        thin: a network whose tensors and size attributes have been cut, changed in place.
        graph: of the network before the cut.
        keep: boolean over all units.
    """
    for name, layer in list(thin.named_modules()):
        if isinstance(layer, BlockLayer):
            _renumber(name, layer, graph, keep)
            if any(0 in block.weight.shape[:2] for block in layer.parts):
                _replace(thin, layer, type(layer).of(layer, layer.layout()))


def _renumber(name: str, layer: BlockLayer, graph: Graph, keep: Tensor) -> None:
    place = torch.full((layer.inputs,), -1, device=layer.channels.device)
    place[layer.channels] = torch.arange(len(layer.channels), device=place.device)
    left: list[Tensor] = []
    for number in range(len(layer.blocks)):
        weight = f"{name}.blocks.{number}.weight"
        rows, columns = (_stays(graph, weight, d, keep) for d in (0, 1))
        grouped = graph.convolutions.get(f"{name}.blocks.{number}")
        columns = columns if grouped is None else staying(grouped, keep)
        setattr(layer, f"inputs{number}", place[layer.chosen(number)[columns.to(place.device)]])
        left.append(rows)
    if f"{name}.constant" in graph.tensors:
        left.append(_stays(graph, f"{name}.constant", 0, keep))
    placed = torch.argsort(layer.order)[torch.cat(left).to(place.device)]
    layer.order = torch.argsort(placed)
    layer.silent = len(layer.constant)
    layer.inputs, layer.outputs = len(layer.channels), len(placed)
    layer.ordered = bool((placed[1:] > placed[:-1]).all())
    layer.channels = torch.arange(layer.inputs, device=place.device)


def _stays(graph: Graph, tensor: str, dim: int, keep: Tensor) -> Tensor:
    shape, dims = graph.tensors[tensor]
    units = dims[dim]
    return torch.ones(shape[dim], dtype=torch.bool) if units is None else staying(units, keep)


def held(model: nn.Module, name: str, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the parameters that a mask (True = keep) of a tensor concerns, each with its part of the mask.

    A tensor of the dense network is one parameter, that of a regrouped layer one for each of its blocks.
    """
    owner, _, leaf = name.rpartition(".")
    layer = model.get_submodule(owner)
    if not isinstance(layer, BlockLayer) or leaf not in ("weight", "bias"):
        return [(tensor_of(model, name), mask)]
    pairs: list[tuple[Tensor, Tensor]] = []
    sizes = [*(block.weight.shape[0] for block in layer.parts), len(layer.constant)]
    placed = torch.argsort(layer.order).cpu().split(sizes)
    for number, block in enumerate(layer.parts):
        groups = getattr(block, "groups", 1)
        rows, columns = placed[number].chunk(groups), layer.chosen(number).cpu().chunk(groups)
        part = [mask[r] if leaf == "bias" else mask[r][:, c] for r, c in zip(rows, columns, strict=True)]
        pairs.append((getattr(block, leaf), torch.cat(part)))
    if leaf == "bias" and len(layer.constant):
        pairs.append((layer.constant, mask[placed[-1]]))
    return pairs

"""What a regrouped layer looks like after removal: its distinct blocks, their size, and who reads nothing any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group, staying
from secateur.core.graph.written_sizes import count
from secateur.core.plan import Block, DropUnits, Plan, Regroup
from secateur.core.sizes.limits import Limits
from secateur.errors import PlanError


@dataclass(frozen=True)
class Layout:
    """The blocks of one layer; every output is in exactly one of them.

    Attributes:
        outputs: number of outputs of the layer.
        inputs: number of inputs of the layer.
        blocks: no two of them read the same inputs; at most one reads nothing.
    """

    outputs: int
    inputs: int
    blocks: tuple[Block, ...]

    @property
    def pairs(self) -> int:
        """How many (output, input) pairs are computed."""
        return sum(len(block.outputs) * len(block.inputs) for block in self.blocks)

    def mask(self) -> Tensor:
        """Return which output reads which input, boolean ``(outputs, inputs)``."""
        keep = torch.zeros(self.outputs, self.inputs, dtype=torch.bool)
        for block in self.blocks:
            keep[torch.tensor(block.outputs)[:, None], torch.tensor(block.inputs, dtype=torch.long)[None, :]] = True
        return keep


def blocks_of(mask: Tensor) -> tuple[Block, ...]:
    """Return the blocks of a boolean ``(outputs, inputs)`` mask: outputs with the same inputs go together."""
    patterns, which = torch.unique(mask.bool().cpu(), dim=0, return_inverse=True)
    members: dict[int, list[int]] = {}
    for output, pattern in enumerate(which.tolist()):
        members.setdefault(pattern, []).append(output)
    return tuple(
        Block(tuple(outputs), tuple(torch.nonzero(patterns[pattern]).flatten().tolist()))
        for pattern, outputs in members.items()
    )


def merged(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Join blocks that read the same inputs; blocks without outputs vanish."""
    members: dict[tuple[int, ...], list[int]] = {}
    for block in blocks:
        if block.outputs:
            members.setdefault(block.inputs, []).extend(block.outputs)
    return tuple(Block(tuple(sorted(outputs)), inputs) for inputs, outputs in members.items())


def layouts(graph: Graph, plan: Plan, keep: Tensor | None = None) -> dict[str, Layout]:
    """Return the blocks of every regrouped layer.

    Args:
        graph: the traced network.
        plan: a plan for it; several edits of one layer let an output read what all of them allow.
        keep: boolean over all units; blocks are numbered as in the network without the other units. None: all stay.

    Raises:
        PlanError: if a layer is unknown, cannot be regrouped, or its blocks do not hold each output once.
    """
    blocks: dict[str, tuple[Block, ...]] = {}
    for edit in plan.edits:
        if isinstance(edit, Regroup):
            _check(graph, edit)
            known = blocks.get(edit.layer)
            blocks[edit.layer] = edit.blocks if known is None else _both(known, edit.blocks)
    return {layer: _layout(graph, layer, found, keep) for layer, found in blocks.items()}


def _layout(graph: Graph, layer: str, blocks: tuple[Block, ...], keep: Tensor | None) -> Layout:
    shape, dims = graph.tensors[f"{layer}.weight"]
    places = [_places(size, units, keep) for size, units in zip(shape[:2], dims[:2], strict=True)]
    sizes = [sum(place >= 0 for place in numbers) for numbers in places]
    moved = [
        Block(*(tuple(n for i in old if (n := new[i]) >= 0) for old, new in zip(pair, places, strict=True)))
        for pair in ((block.outputs, block.inputs) for block in blocks)
    ]
    return Layout(sizes[0], sizes[1], merged(moved))


def _places(size: int, units: Tensor | None, keep: Tensor | None) -> list[int]:
    """Return the new number of each position of a dimension, -1 where it is removed."""
    if units is None or keep is None:
        return list(range(size))
    stays = staying(units, keep)
    return torch.where(stays, stays.cumsum(0) - 1, -1).tolist()


def _both(one: Sequence[Block], two: Sequence[Block]) -> tuple[Block, ...]:
    pairs = [(set(a.outputs) & set(b.outputs), set(a.inputs) & set(b.inputs)) for a in one for b in two]
    return tuple(Block(tuple(sorted(outs)), tuple(sorted(ins))) for outs, ins in pairs if outs)


def _check(graph: Graph, edit: Regroup) -> None:
    name = f"{edit.layer}.weight"
    if name not in graph.tensors:
        raise PlanError(f"the plan regroups '{edit.layer}', which this network does not have")
    shape = graph.tensors[name][0]
    if edit.layer in graph.convolutions or len(shape) not in (2, 4):
        raise PlanError(f"the plan regroups '{edit.layer}', which is no plain 2-d convolution or linear layer")
    if sorted(output for block in edit.blocks for output in block.outputs) != list(range(shape[0])):
        raise PlanError(f"the blocks of '{edit.layer}' must hold each of its {shape[0]} outputs exactly once")
    for block in edit.blocks:
        if list(block.inputs) != sorted(set(block.inputs)) or (
            block.inputs and not 0 <= block.inputs[0] <= block.inputs[-1] < shape[1]
        ):
            raise PlanError(f"the inputs of a block of '{edit.layer}' must be ascending and below {shape[1]}")
    if not any(block.inputs for block in edit.blocks):
        raise PlanError(f"the blocks of '{edit.layer}' read no input at all; let at least one of them read something")


def why_not(model: nn.Module, graph: Graph, layer: str) -> str:
    """Return why a layer cannot be regrouped, an empty string if it can.

    Regrouping replaces the module: it must be a plain convolution or linear layer that owns its weight alone.
    """
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        return "there is no such layer"
    plain = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
    if not plain or f"{layer}.weight" not in graph.tensors:
        return f"a {type(module).__name__} is no plain 2-d convolution or linear layer"
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return "its weight is computed from others (weight norm, parametrization)"
    if "forward" in vars(module):
        return "its forward has been replaced"
    owners = [m for m in model.modules() if any(p is weight for p in m.parameters(recurse=False))]
    return "" if len(owners) == 1 else "another layer owns the same weight"


def saved_macs(graph: Graph, found: Mapping[str, Layout], keep: Tensor) -> int:
    """Return the multiply-accumulates that blocks save in the network without the units that are not kept."""
    saved = 0
    for cost in graph.costs:
        if cost.layer in found:
            layout, dense = found[cost.layer], cost.scale
            for axis in cost.axes:
                dense *= count(axis, keep)
            # outputs and inputs are two of the axes, so the division leaves no remainder
            saved += dense - dense // (layout.outputs * layout.inputs) * layout.pairs
    return saved


def saved_params(graph: Graph, found: Mapping[str, Layout]) -> int:
    """Return the parameters that blocks save."""
    saved = 0
    for layer, layout in found.items():
        kernel = torch.Size(graph.tensors[f"{layer}.weight"][0][2:]).numel()
        saved += (layout.outputs * layout.inputs - layout.pairs) * kernel
    return saved


def without_unread(graph: Graph, plan: Plan, limits: Limits = Limits()) -> Plan:  # noqa: B008  (frozen)
    """Add to a plan the removal of all units that no layer reads any more; the network's function stays the same.

    A unit is unread where every layer that reads it is regrouped and none of its blocks does. Removing it can
    leave others unread, so this goes on until nothing changes. Units that enter a mean or norm over channels stay.

    Args:
        graph: the traced network.
        plan: a plan with ``Regroup`` edits.
        limits: floors and multiples of widths.
    """
    keep = graph.kept(plan)
    if not any(isinstance(edit, Regroup) for edit in plan.edits):
        return plan
    start = keep.clone()
    while True:
        read = _read(graph, plan, keep)
        gone = [unit for group in graph.free for unit in droppable(graph, group, keep, read, limits)]
        if not gone:
            break
        keep[torch.tensor(gone)] = False
    return Plan((*_drops(graph, start & ~keep), *plan.edits))


def _drops(graph: Graph, gone: Tensor) -> list[DropUnits]:
    drops: list[DropUnits] = []
    for group in graph.groups:
        first = graph.offsets[group.name]
        units = torch.nonzero(gone[first : first + group.size]).flatten().tolist()
        if units:
            drops.append(DropUnits(group.name, tuple(units)))
    return drops


def droppable(graph: Graph, group: Group, keep: Tensor, needed: Tensor, limits: Limits) -> list[int]:
    """Return which of a group's units can go, of those that are kept and not needed; numbers are the graph's.

    Args:
        graph: the traced network.
        group: one of its groups.
        keep: boolean over all units.
        needed: boolean over all units.
        limits: floors and multiples of widths.
    """
    first = graph.offsets[group.name]
    inside = slice(first, first + group.size)
    unread = torch.nonzero(keep[inside] & ~needed[inside]).flatten()
    left = int(keep[inside].sum())
    lowest = max(left - len(unread), min(limits.min_units, group.size), 1)
    multiple = limits.multiple_of(group)
    goal = -(-lowest // multiple) * multiple
    return (first + unread[: left - goal]).tolist() if goal < left else []


def _read(graph: Graph, plan: Plan, keep: Tensor) -> Tensor:
    """Return which units any layer reads, boolean over all units."""
    read = torch.zeros(graph.units, dtype=torch.bool)
    found = layouts(graph, plan)
    for name, roles in graph.roles.items():
        _, dims = graph.tensors[name]
        layout = found.get(name.rpartition(".")[0]) if name.endswith(".weight") else None
        for d, (role, units) in enumerate(zip(roles, dims, strict=True)):
            if role != "reads" or units is None:
                continue
            used = units >= 0
            if layout is not None and d == 1:
                rows = dims[0]
                stays = torch.ones(layout.outputs, dtype=torch.bool) if rows is None else staying(rows, keep)
                used = used & _columns(layout, stays)
            read[units[used]] = True
    for entry in graph.statistics:
        read[entry.units[entry.units >= 0]] = True
    return read


def _columns(layout: Layout, stays: Tensor) -> Tensor:
    """Return which inputs are read by an output that stays."""
    columns = torch.zeros(layout.inputs, dtype=torch.bool)
    for block in layout.blocks:
        if bool(stays[torch.tensor(block.outputs)].any()):
            columns[torch.tensor(block.inputs, dtype=torch.long)] = True
    return columns

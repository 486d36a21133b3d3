"""Remove filters that read nothing, and give what they send to the layers behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, layer_of
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.regrouped import droppable, layouts
from secateur.core.surgery import TOLERANCE, apply, left, masked, relative_difference, run
from secateur.core.surgery.private_copies import apart
from secateur.repair.compensation import compensate


@apart("model")
def fold_constants(
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    inputs: Any,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> tuple[Plan, nn.Module] | None:
    """Drop the units that a plan leaves without any input, where the layers behind can stand in for them exactly.

    Such a unit sends the same number everywhere, so a bias or a batch norm behind can add what it sent. Behind zero
    padding it is no constant any more, unless a rectifier has made it zero; what cannot be folded exactly stays, and so
    does what layers read that run in training alone. See
    Guo et al., *Self-grouping Convolutional Neural Networks*, 2020, where such filters go on being computed.

    Args:
        model: the network before surgery, left as it is.
        graph: its graph.
        plan: with ``Regroup`` edits.
        inputs: what the network takes; exactness is checked on these and on random ones of the same shape.
        limits: floors and multiples of widths.

    Returns:
        The plan with these units dropped and the network without them, in the mode of the model; None if there is
        nothing to fold.

    Raises:
        PlanError: if the plan belongs to another network.
    """
    first = _first_tensor(inputs)
    if first is None:
        return None
    kept: list[DropUnits] = []
    thin: nn.Module | None = None
    for drop in _constant(graph, plan, limits):
        tried = _folded(model, graph, plan, [*kept, drop], first)
        if tried is not None:
            kept.append(drop)
            thin = tried
    return None if thin is None else (replace(plan, edits=(*kept, *plan.edits)), thin)


def _constant(graph: Graph, plan: Plan, limits: Limits) -> list[DropUnits]:
    """Return for each group the units all of whose makers read nothing, as far as the limits let them go."""
    keep, found = graph.kept(plan), layouts(graph, plan)
    reads: dict[str, Tensor] = {}
    for layer, layout in found.items():
        columns = graph.tensors[f"{layer}.weight"][1][1]
        left = layout.mask()
        if columns is not None:
            left &= (columns < 0) | keep[columns.clamp(min=0)]
        reads[layer] = left.any(1)
    drops: list[DropUnits] = []
    for group in graph.free:
        if any(member.tensor in graph.aside for member in group.members):
            continue  # what training alone runs would miss the constants, and nothing here could tell
        start = graph.offsets[group.name]
        needed = torch.zeros(graph.units, dtype=torch.bool)
        for member in group.members:
            if member.role == "makes" and member.tensor.endswith(".weight"):
                read = reads.get(layer_of(member.tensor), torch.ones(len(member.unit), dtype=torch.bool))
                needed[start + member.unit[read & (member.unit >= 0)]] = True
        units = droppable(graph, group, keep, needed, limits)
        if units:
            drops.append(DropUnits(group.name, tuple(unit - start for unit in units)))
    return drops


def _folded(model: nn.Module, graph: Graph, plan: Plan, drops: list[DropUnits], inputs: Tensor) -> nn.Module | None:
    """Return the network without these units if it computes what the one with them does."""
    wider = Plan((*drops, *plan.edits))
    thin = apply(model, graph, wider)
    other = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0)).to(inputs)
    with masked(model, graph, plan) as silenced:
        compensate(silenced, thin, graph, wider, [inputs])
        pairs = [(left(graph, wider, run(silenced, x)), run(thin, x)) for x in (inputs, other)]
        same = all(relative_difference(expected, found) <= TOLERANCE for expected, found in pairs)
    return thin if same else None


def _first_tensor(inputs: Any) -> Tensor | None:
    """Return the one tensor that a network of a single input takes; None for others."""
    if isinstance(inputs, (tuple, list)) and len(inputs) == 1:
        inputs = inputs[0]
    return inputs if isinstance(inputs, Tensor) and inputs.is_floating_point() else None

"""Give what removed units sent to the units that are left, by weights alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group, Member, layer_of, positions, tensor_of
from secateur.core.plan import Plan
from secateur.core.sizes.regrouped import layouts
from secateur.core.sizes.size import sliced, zero_masks
from secateur.core.surgery import Inputs
from secateur.core.surgery.private_copies import apart
from secateur.errors import PlanError
from secateur.reconstruction import shares


@apart("dense")
def fold(dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan, inputs: Sequence[Inputs]) -> tuple[str, ...]:
    """Let the kept units of each group stand in for those that went; no image is looked at.

    What removed units sent is given to the kept ones by the combination that leaves the least squared error, if inputs
    have equal variance and no correlation (``secateur.reconstruction.unit_similarity``); then the columns of whatever
    read them are added to those of the kept ones in these shares. Copies of a unit, and behind rectifiers its positive
    multiples, are replaced exactly. Wang et al., *Forget the Data and Fine-Tuning!*, 2025 (model folding), put the mean
    of similar units in their place and restore its variance, Kim et al., *Neuron Merging*, 2020, add the whole of a
    column to that of the nearest unit; both take more to the readers than what the units have in common.

    Whether units can stand in for each other is tried on a copy of the network, for each group. Left alone are groups
    in which not even copies can, as where statistics run over channels, or whose weights a plan has zeroed or split
    into blocks. Groups whose units come about in other ways than by layers that are added, with a rectifier or nothing
    behind them and at most one depthwise convolution in between, give up copies alone.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        inputs: batches of what the network takes; their values do not matter.

    Returns:
        Names of the layers whose weights have changed.
    """
    keep = graph.kept(plan)
    apart = {*zero_masks(graph, plan, keep), *(f"{layer}.weight" for layer in layouts(graph, plan))}
    open_groups = {
        name: units
        for name, units in plan.dropped().items()
        if not any(member.tensor in apart for member in graph.group(name).members)
        and _alike(graph.group(name), graph, thin, keep)
    }
    if not open_groups:
        return ()
    changes: dict[str, Tensor] = {}
    for name, (_, share) in shares(dense, graph, inputs[0], open_groups).items():
        for member in graph.group(name).members:
            if member.role == "reads":
                weight = tensor_of(dense, member.tensor).detach().double().cpu()
                more = _handed_over(weight, member, share)
                changes[member.tensor] = changes[member.tensor] + more if member.tensor in changes else more
    changed = list[str]()
    for tensor, change in changes.items():
        more = sliced(change, graph.tensors[tensor][1], keep)
        if bool(more.any()):
            own = tensor_of(thin, tensor)
            with torch.no_grad():
                own += more.to(own)
            changed.append(layer_of(tensor))
    return tuple(dict.fromkeys(changed))


def _handed_over(weight: Tensor, member: Member, share: Tensor) -> Tensor:
    """Return what the columns of a reader give to those of other units, ``weight``'s shape.

    Args:
        weight: of the reader.
        member: which of its columns reads which unit.
        share: ``(size, size)``, how much of a unit (row) each other unit (column) stands in for; what is on the
            diagonal does not count.
    """
    places = positions(member, len(share))
    there = places[:, 0] >= 0
    share = share * ~torch.eye(len(share), dtype=torch.bool) * there * there[:, None]
    gone, kept = share.any(1).nonzero().flatten(), share.any(0).nonzero().flatten()
    columns = weight.detach().double().cpu().movedim(member.dim, 0)
    out = torch.zeros_like(columns)
    given = share[gone][:, kept].T @ columns[places[gone]].flatten(1)
    out[places[kept]] = given.view(len(kept), places.shape[1], *columns.shape[1:])
    return out.movedim(0, member.dim)


def _alike(group: Group, graph: Graph, thin: nn.Module, keep: Tensor) -> bool:
    """Tell whether the thin network has all that reads a group, in the shape that the plan says."""
    for member in group.members:
        if member.role == "reads":
            try:
                own = tensor_of(thin, member.tensor)
            except PlanError:
                return False
            shape, dims = graph.tensors[member.tensor]
            if own.shape != sliced(torch.empty(shape, device="meta"), dims, keep).shape:
                return False
    return True

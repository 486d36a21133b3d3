"""Why can this channel go, and why can that one not: the account that a graph gives of itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.core.graph.names import maker_of
from secateur.core.graph.structure import Structure

UNREACHED = "not run by the example inputs"
STREAM = "added to the outputs of other layers, and only groups inside blocks are pruned"
REACH_IT = "give example inputs that run it, or delete it from the network if nothing does"
_MOST = 2  # layers that go together of which the names are given
_IN_TRAINING = "runs in training alone"


@dataclass(frozen=True)
class LayerRow:
    """One layer in the explanation: how many of its output channels can go, with whom, or why not.

    Attributes:
        layer: module name, or that of a parameter of the network itself.
        width: number of output channels; of a recurrent layer the hidden units of one direction.
        prunable: how many of them belong to a unit that may be removed.
        group: name of the group that holds most of them; empty if none.
        with_: the other layers that make the same units, in the order of execution.
        reason: why the others cannot be removed; empty if all can.
        remedy: what the user could do about it; may be empty.
    """

    layer: str
    width: int
    prunable: int
    group: str
    with_: tuple[str, ...]
    reason: str
    remedy: str

    @property
    def why(self) -> str:
        """With which layers the channels go, and why the others do not, in words."""
        more = len(self.with_) - _MOST
        names = [*self.with_[:_MOST], f"{more} more"] if more > 1 else self.with_
        parts = [f"with {', '.join(names)}"] if names and self.prunable else []
        if self.prunable < self.width:
            parts.append(f"{self.reason}: {self.remedy}" if self.remedy else self.reason)
        return "; ".join(parts)


@dataclass(frozen=True)
class Explanation:
    """What can be pruned and what cannot.

    Attributes:
        rows: one per convolution or linear layer that makes channels, in the order of execution; depthwise
            convolutions go with the layer before them. Layers that the example inputs do not run come last.
        reachable: smallest fraction of the MACs that can be kept (one unit left in every group).
        uncounted: operators that multiply and are in no count of MACs; empty if there are none.
    """

    rows: tuple[LayerRow, ...]
    reachable: float
    uncounted: str = ""

    def __str__(self) -> str:
        """Return the rows as a table for the eye."""
        cells = [("layer", "prunable", "together with / why not")]
        cells += [(row.layer, f"{row.prunable} of {row.width}", row.why) for row in self.rows]
        layer, prunable = (max(len(row[column]) for row in cells) for column in (0, 1))
        lines = [f"{row[0]:<{layer}}  {row[1]:>{prunable}}  {row[2]}".rstrip() for row in cells]
        lines.append(f"With one unit left in every group, {100 * self.reachable:.3g} % of the MACs stay.")
        return "\n".join([*lines, *([f"Not counted: {self.uncounted}."] if self.uncounted else [])])


def explain(graph: Structure) -> Explanation:
    """Account for every layer of the graph that makes channels."""
    rows: list[LayerRow] = []
    for tensor, roles in graph.roles.items():
        if "makes" in roles and tensor in graph.parameters:
            rows.append(_row(graph, tensor, roles.index("makes")))
    listed = {row.layer for row in rows}
    rows += [
        LayerRow(layer, each.width, 0, "", (), each.reason, each.remedy)
        for layer, each in graph.transformed.items()
        if each.width and layer not in listed
    ]
    rows += [LayerRow(layer, width, 0, "", (), UNREACHED, REACH_IT) for layer, width in graph.unreached.items()]
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.free:
        first = graph.offsets[group.name]
        keep[first : first + group.size - 1] = False
    rows = list(dict.fromkeys(rows))  # of a recurrent layer all weights say the same
    reachable = _macs(graph, keep) / max(1, _macs(graph, torch.ones_like(keep)))
    return Explanation(tuple(rows), reachable, ", ".join(map(str, graph.uncounted)))


def _row(graph: Structure, tensor: str, dim: int) -> LayerRow:
    layer = maker_of(tensor)
    shape, _ = graph.tensors[tensor]
    holders = {
        group.name: (int((member.unit >= 0).sum()), group)
        for group in graph.groups
        for member in group.members
        if member.tensor == tensor and member.dim == dim
    }
    free = {name: (n, group) for name, (n, group) in holders.items() if name not in graph.left}
    width = graph.width(tensor, shape[dim])
    prunable = graph.width(tensor, sum(n for n, _ in free.values()))
    name, (_, group) = max(free.items(), key=lambda item: item[1][0]) if free else ("", (0, None))
    others = tuple(other for other in (group.layers if group else ()) if other != layer)
    reason = remedy = ""
    if prunable < width:
        if len(free) < len(holders):
            reason, remedy = "left alone as asked", "drop the pattern that names it"
            if graph.inside and not graph.leaves(layer) and any(name in graph.streams for name in holders):
                reason, remedy = STREAM, "take groups = all"
        for pin in graph.pins:
            if pin.tensor == tensor and pin.dim == dim:
                reason, remedy = pin.reason, pin.remedy
                break
        if not reason and tensor in graph.aside:
            reason = _IN_TRAINING
        if not reason:
            reason = "a single channel cannot be removed" if width == 1 else "a single unit, which must stay"
    return LayerRow(layer, width, prunable, name, others, reason, remedy)


def _macs(graph: Structure, keep: torch.Tensor) -> int:
    total = 0
    for cost in graph.costs:
        product = cost.scale
        for axis in cost.axes:
            product *= axis.fixed + int(keep[axis.units].sum())
        total += product
    return total

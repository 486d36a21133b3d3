"""What becomes of units before they are read, found by trying: are copies and multiples of a unit as good as it?

Nothing is assumed of the code between: some units of a copy of the network are made multiples of others, and the
network must put out the same when the others stand in for them.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group, Member, tensor_of
from secateur.core.surgery import Inputs, relative_difference, run, tensors_in
from secateur.measure.forward import device_of, evaluating, moved, tensors
from secateur.reconstruction.likeness import Behaviour, Course

MULTIPLE = 0.125
"""Times a unit that its multiples are: small, so that rectifiers with a limit, such as that at 6, pass."""
NEAR = 1e-4
"""Relative difference of outputs up to which they are the same."""
_NEARLY = 2e-2  # for multiples, which need not be exact


def positions(member: Member, size: int) -> list[list[int]]:
    """Return the positions of each unit along the dimension of a member, in their order."""
    places: list[list[int]] = [[] for _ in range(size)]
    for place, unit in enumerate(member.unit.tolist()):
        if unit >= 0:
            places[unit].append(place)
    return places


def handed_over(weight: Tensor, member: Member, share: Tensor) -> Tensor:
    """Return the weights of a reader whose columns are added to those of other units, ``weight``'s shape.

    Args:
        weight: of the reader.
        member: which of its columns reads which unit.
        share: ``(size, size)``, how much of a unit (row) each unit (column) stands in for.
    """
    places = positions(member, len(share))
    place = torch.tensor([each for each in places if each])  # (units, slots): units of a group have equally many
    units = torch.tensor([unit for unit, each in enumerate(places) if each])
    moved_weight = weight.detach().double().cpu().movedim(member.dim, 0)
    columns = moved_weight[place].flatten(1)
    out = moved_weight.clone()
    out[place] = (share[units][:, units].T @ columns).view(len(units), place.shape[1], *moved_weight.shape[1:])
    return out.movedim(0, member.dim)


def even(group: Group) -> bool:
    """Tell whether all units have equally many positions in every dimension that they touch."""
    for member in group.members:
        counts = {len(each) for each in positions(member, group.size)} - {0}
        if len(counts) > 1:
            return False
    return True


class Trials:
    """A copy of a network on which units are made multiples of others.

    Args:
        model: the network, left as it is.
        graph: its graph.
        inputs: what its forward takes; only shapes and types are looked at.
    """

    def __init__(self, model: nn.Module, graph: Graph, inputs: Inputs) -> None:
        self.graph = graph
        self.model = copy.deepcopy(model)
        if any(it.dtype in (torch.float16, torch.bfloat16) for it in self.model.parameters()):
            self.model.float()
        self.inputs = noise(self.model, inputs)
        self.over_channels = {
            int(unit) for one in graph.statistics for unit in one.units[one.units >= 0].unique().tolist()
        }

    def behaviour(self, group: Group, found: Course, pairs: Sequence[tuple[int, int]]) -> Behaviour | None:
        """Return what becomes of the units of a group; None where not even copies can stand in for each other.

        Args:
            group: of the graph.
            found: how its units come about.
            pairs: units, and others of them that stand in for them; the first are made multiples of the second.
        """
        first = self.graph.offsets[group.name]
        if not pairs or not even(group) or self.over_channels.intersection(range(first, first + group.size)):
            return None
        with evaluating(self.model), torch.no_grad():
            if found.plain and self.same(group, found, pairs, -MULTIPLE, NEAR):
                return "linear"
            near = (
                _NEARLY if len(found.makers) == 1 else NEAR
            )  # a product of two is nearly a sum where one hardly varies
            if found.plain and self.same(group, found, pairs, MULTIPLE, near):
                return "rectified"
            return "other" if self.same(group, found, pairs, 1.0, NEAR) else None

    def same(
        self, group: Group, found: Course, pairs: Sequence[tuple[int, int]], times: float, tolerance: float
    ) -> bool:
        """Tell whether the others can stand in for multiples of them."""
        share = torch.eye(group.size, dtype=torch.float64)
        for gone, kept in pairs:
            share[gone, gone], share[gone, kept] = 0.0, times
        reads = [member for member in group.members if member.role == "reads"]
        with self._restored(group):
            for gone, kept in pairs:
                self._copy_unit(group, gone, kept)
                self._multiply(group, found, gone, times)
            for member in reads:  # so that what is read of a multiple is neither more nor less than before
                self._scale(member.tensor, member, [gone for gone, _ in pairs], 1 / abs(times))
            wanted = self._put_out()
            for member in reads:
                tensor = tensor_of(self.model, member.tensor)
                tensor.copy_(handed_over(tensor, member, share).to(tensor))
            return relative_difference(wanted, self._put_out()) <= tolerance

    def _put_out(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in tensors_in(run(self.model, self.inputs))]

    @contextmanager
    def _restored(self, group: Group) -> Generator[None]:
        before = {member.tensor: tensor_of(self.model, member.tensor).detach().clone() for member in group.members}
        try:
            yield
        finally:
            for name, tensor in before.items():
                tensor_of(self.model, name).copy_(tensor)

    def _copy_unit(self, group: Group, gone: int, kept: int) -> None:
        for member in group.members:
            if member.role != "reads":
                places = positions(member, group.size)
                tensor = tensor_of(self.model, member.tensor).movedim(member.dim, 0)
                if len(places[gone]) == len(places[kept]):
                    tensor[places[gone]] = tensor[places[kept]].clone()

    def _multiply(self, group: Group, found: Course, unit: int, times: float) -> None:
        if times == 1.0:
            return
        for number, stage in enumerate((*found.makers, *found.later)):
            layer: Any = self.model.get_submodule(stage.layer)
            if stage.norm:
                norm: Any = self.model.get_submodule(stage.norm)
                parts = ("weight", "bias") if number < len(found.makers) else ("running_mean", "bias")
                own = [f"{stage.norm}.{part}" for part in parts if getattr(norm, part) is not None]
                if number >= len(found.makers):
                    own.append(f"{stage.layer}.bias")
                elif norm.weight is None:
                    own = [f"{stage.layer}.weight", f"{stage.layer}.bias", f"{stage.norm}.running_mean"]
            else:
                own = [f"{stage.layer}.bias"]
                own += [f"{stage.layer}.weight"] if number < len(found.makers) else []
            for name in own:
                dim = stage.weight.dim if name == f"{stage.layer}.weight" else 0
                if name != f"{stage.layer}.bias" or layer.bias is not None:
                    self._scale(name, Member(name, dim, "scales", stage.weight.unit), [unit], times)

    def _scale(self, name: str, member: Member, units: Sequence[int], times: float) -> None:
        size = int(member.unit.max()) + 1
        places = positions(member, size)
        tensor = tensor_of(self.model, name).movedim(member.dim, 0)
        tensor[[place for unit in units if unit < size for place in places[unit]]] *= times


def noise(model: nn.Module, inputs: Inputs) -> Any:
    """Return random inputs of the same shapes, in float32 or float64 as they are; integers stay."""
    generator = torch.Generator().manual_seed(0)

    def like(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point():
                return value
            # half precision is tried in float32
            return torch.randn(value.shape, generator=generator).to(torch.promote_types(value.dtype, torch.float32))
        if isinstance(value, Mapping):
            return {name: like(each) for name, each in value.items()}
        return type(value)(like(each) for each in value) if isinstance(value, (tuple, list)) else value

    return moved(like(inputs), device_of(model)) if list(tensors(inputs)) else inputs

"""From components to groups of units, and to the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.graph import Cost, Graph, Group, Member, Pin, Statistic, maker_of
from secateur.core.graph.outputs import Output
from secateur.core.graph.written_sizes import Axis, Rewrite
from secateur.core.operator_macs import by_operator
from secateur.core.trace.calls_made import Call
from secateur.core.trace.components import NOT_PRUNABLE, Components
from secateur.core.trace.returned import Returned
from secateur.core.trace.state import State


class Units:
    """The prunable components, grouped by the tensors that they touch and numbered over the whole graph."""

    def __init__(self, state: State, components: Components) -> None:
        self._state = state
        self._components = components
        self._owner = [components.prunable(torch.arange(s.start, s.start + s.size)) for s in state.slots]
        self._unit_of = torch.full((int(components.of.max()) + 1,), NOT_PRUNABLE)
        self.streams: set[str] = set()  # groups whose units several layers put out, which are added up
        self.groups = self._groups()

    def of(self, atoms: Tensor) -> Tensor:
        """Return the graph-wide unit of each atom, -1 where it stays."""
        return self._numbers(self._components.prunable(atoms))

    def axis(self, atoms: int | Tensor) -> Axis:
        """Split positions into those that can vanish and those that stay."""
        if isinstance(atoms, int):
            return Axis(atoms, torch.zeros(0, dtype=torch.long))
        units = self.of(atoms.reshape(-1))
        return Axis(int((units < 0).sum()), units[units >= 0])

    def output(self, returned: Returned) -> Output:
        """Say along which dimensions an output loses which units."""
        axes: list[tuple[int, Tensor]] = []
        for layer in returned.layers:
            units = self.of(layer)
            if bool((units >= 0).any()):
                dim = (L.varying(L.compact(units)) or L.varying(layer))[-1]
                axes.append((dim, L.along(units, dim)[:, 0]))  # alike beside it, where channels meet in a grid
        return Output(returned.path, tuple(axes))

    def along(self, slot: int) -> Tensor | None:
        """Return the unit of each position of a slot, None if all stay."""
        units = self._numbers(self._owner[slot])
        return units if bool((units >= 0).any()) else None

    def _numbers(self, component: Tensor) -> Tensor:
        return torch.where(component >= 0, self._unit_of[component.clamp(min=0)], NOT_PRUNABLE)

    def _groups(self) -> tuple[Group, ...]:
        """Units that touch the same tensors form a group; groups and units are ordered as they are first met."""
        state, signature, slots = self._state, *self._signatures()
        everything = torch.cat([*self._owner, torch.tensor([NOT_PRUNABLE])])
        met, first = _first_places(everything[everything >= 0])
        order = met[torch.argsort(first)]
        chosen: list[tuple[int, int, int]] = []  # signature, first unit, size
        total = 0
        for number, places in _alike(signature[order]):
            components = order[places]
            weighs = any(state.slots[i].tensor in state.parameters - state.aside for i in slots[number])
            if len(components) < 2 or not weighs:
                continue
            self._unit_of[components] = torch.arange(total, total + len(components))
            chosen.append((number, total, len(components)))
            total += len(components)
        units = [self._numbers(owner) for owner in self._owner]
        names: dict[str, int] = {}
        groups: list[Group] = []
        padding = torch.cat([torch.zeros(0, dtype=torch.long), *state.padding])
        padded = torch.stack([self.of(padding), self._components.apart[padding]], 1)
        for number, first_unit, size in chosen:
            self._components.clock.check("putting units in groups")
            members = tuple(self._member(i, units[i] - first_unit, size) for i in slots[number])
            groups.append(Group(_name(members, names), size, members))
            inside = (padded[:, 0] >= first_unit) & (padded[:, 0] < first_unit + size)
            if self._is_sum(slots[number], members, padded[inside] - torch.tensor([first_unit, 0])):
                self.streams.add(groups[-1].name)
        return tuple(groups)

    def _is_sum(self, slots: Sequence[int], members: Sequence[Member], padded: Tensor) -> bool:
        """Tell whether additions alone tie what makes the same unit: layers, or a layer and a padding with zeros."""
        made = [padded]
        for index, member in zip(slots, members, strict=True):
            if member.role == "makes" and member.tensor in self._state.parameters:
                start = self._state.slots[index].start
                apart = self._components.apart[start : start + len(member.unit)]
                made.append(torch.stack([member.unit, apart], 1)[member.unit >= 0])
        units = torch.unique(torch.cat(made), dim=0)[:, 0]
        return bool((torch.bincount(units) > 1).any())

    def _signatures(self) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Number the sets of slots that components touch, by refining one slot after the other."""
        signature = torch.zeros(len(self._unit_of), dtype=torch.long)
        slots: list[tuple[int, ...]] = [()]
        for index, owner in enumerate(self._owner):
            self._components.clock.check("finding units that touch the same tensors")
            touched = torch.unique(owner[owner >= 0])
            old, place = torch.unique(signature[touched], return_inverse=True)
            signature[touched] = len(slots) + place
            slots += [(*slots[number], index) for number in old.tolist()]
        return signature, slots

    def _member(self, index: int, unit: Tensor, size: int) -> Member:
        slot = self._state.slots[index]
        inside = (unit >= 0) & (unit < size)
        role = self._state.roles[slot.tensor][slot.dim]
        gain = self._state.gains.get(slot.tensor)
        return Member(slot.tensor, slot.dim, role, torch.where(inside, unit, NOT_PRUNABLE), gain)


def _alike(values: Tensor) -> list[tuple[int, Tensor]]:
    """Return the distinct values in the order in which they are met, each with all its places."""
    order = torch.argsort(values, stable=True)
    distinct, counts = torch.unique_consecutive(values[order], return_counts=True)
    places = dict(zip(distinct.tolist(), order.split(counts.tolist()), strict=True))
    return [(value, places[value]) for value in dict.fromkeys(values.tolist())]


def _first_places(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct values and where each occurs first."""
    distinct, place = torch.unique(values, return_inverse=True)
    first = torch.full((len(distinct),), len(values))
    return distinct, first.scatter_reduce(0, place, torch.arange(len(values)), "amin")


def _name(members: Sequence[Member], taken: dict[str, int]) -> str:
    """Name a group after the layer that makes it first; a second group of that layer gets a number."""
    makers = [m for m in members if m.role == "makes"] or list(members)
    name = maker_of(makers[0].tensor)
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"


def build(state: State, components: Components, units: Units, rewrites: Sequence[Rewrite]) -> Graph:
    """Assemble the graph from a finished trace."""
    return Graph(
        groups=units.groups,
        pins=_pins(state, components),
        tensors=_tensors(state, units),
        parameters=state.parameters,
        costs=tuple(_cost(call, units) for call in state.calls),
        convolutions={name: units.of(atoms) for name, atoms in state.convolutions.items()},
        rewrites=tuple(rewrites),
        statistics=tuple(Statistic(d.module, d.call, d.dim, units.of(d.atoms), d.kind) for d in state.dependences),
        roles={name: tuple(roles) for name, roles in state.roles.items()},
        gates=state.gates,
        uncounted=by_operator(state.uncounted),
        unreached=state.unreached,
        untrained=state.untrained,
        aside=state.aside,
        gains=tuple(state.gains.values()),
        transformed=state.transformed,
        tied=frozenset(state.tied),
        streams=frozenset(units.streams),
        free_outputs=state.outputs.patterns,
        outputs=tuple(units.output(each) for each in state.outputs.evaluated),
        trained_outputs=tuple(units.output(each) for each in state.outputs.trained),
        indices={name: units.of(atoms) for name, atoms in state.indices.items()},
    )


def _tensors(state: State, units: Units) -> dict[str, tuple[tuple[int, ...], tuple[Tensor | None, ...]]]:
    """Return for every parameter and buffer its shape and the unit of each position; unused ones are fixed."""
    shapes = {**state.shapes, **{n: tuple(t.shape) for n, t in state.names.values() if n not in state.shapes}}
    dims: dict[str, list[Tensor | None]] = {name: [None] * len(shape) for name, shape in shapes.items()}
    for index, slot in enumerate(state.slots):
        dims[slot.tensor][slot.dim] = units.along(index)
    return {name: (shape, tuple(dims[name])) for name, shape in shapes.items()}


def _cost(call: Call, units: Units) -> Cost:
    return Cost(call.layer, call.scale, tuple(units.axis(atoms) for atoms in call.axes))


def _pins(state: State, components: Components) -> tuple[Pin, ...]:
    """Say for every dimension with pinned positions how many and why (the most common reason)."""
    pins: list[Pin] = []
    for slot in state.slots:
        reasons = components.why_pinned(torch.arange(slot.start, slot.start + slot.size))
        if reasons:
            reason, remedy = max(dict.fromkeys(reasons), key=reasons.count)
            pins.append(Pin(slot.tensor, slot.dim, len(reasons), reason, remedy))
    return tuple(pins)

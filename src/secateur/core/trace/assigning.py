"""Numbers in attributes that the code compares with a width, or makes a tensor of, without any reshaping call.

``assert x.shape[1] == self.channels`` breaks in a thinner network. Where the code breaks, each number among the
attributes that is as large as a width there was in the whole network is set to that width, on trial; those with which
the network comes further are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from secateur.core.attention import is_attention
from secateur.core.graph import Graph
from secateur.core.graph.written_sizes import Assignment, count
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.core.surgery.attributes import INDIRECT, Number, assign, mentioned, numbers
from secateur.core.trace.calls_made import Layers
from secateur.core.trace.clock import Clock
from secateur.core.trace.resolve import Units
from secateur.core.trace.state import State
from secateur.core.trace.steps import Progress, above, progress
from secateur.errors import SecateurError

MOST = 96  # trials at one place
REFUSALS = (SecateurError, RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError)


@dataclass(frozen=True)
class Place:
    """A number in an attribute of a module."""

    module: str
    number: Number


@dataclass(frozen=True, eq=False)
class Width:
    """The labels of a width that the code of a module has at hand.

    Attributes:
        where: number of the step (below 0: what enters the module), layer, dimension.
        atoms: its labels.
    """

    where: tuple[int, int, int]
    atoms: Tensor


Assigned = dict[Place, Width]


def assignments(assigned: Mapping[Place, Width], units: Units) -> tuple[Assignment, ...]:
    """Describe how each number follows from the widths."""
    return tuple(
        Assignment(place.module, place.number.name, place.number.path, units.axis(width.atoms))
        for place, width in assigned.items()
    )


@dataclass(frozen=True)
class Search:
    """Looks for numbers that must follow the widths.

    Attributes:
        model: the network before the cut.
        state: what was learned of it.
        inputs: of the trials.
        clock: how long they may take.
    """

    model: nn.Module
    state: State
    inputs: Inputs
    clock: Clock

    def further(
        self, thin: nn.Module, reached: Progress, graph: Graph, plan: Plan, units: Units, assigned: Assigned
    ) -> Assigned:
        """Return what is to be assigned so that the thin network comes further than it did; nothing if nothing does.

        Args:
            thin: breaks somewhere; changed in place.
            reached: how far it came.
            graph: of the network before the cut.
            plan: what was cut.
            units: of the graph.
            assigned: what is assigned already; left as it is.
        """
        keep = graph.kept(plan)
        for module in above(reached.module or ""):
            options = list(self._options(module, reached.done.get(module, 0), units, assigned))
            singles = [(option,) for option in options]
            pairs = [pair for pair in itertools.combinations(options, 2) if pair[0][0] != pair[1][0]]
            for chosen in [*singles, *pairs][:MOST]:
                self.clock.check("a trial of a thinner network")
                values = {place.number: count(units.axis(width.atoms), keep) for place, width in chosen}
                if all(number.value == value for number, value in values.items()):
                    continue
                if self._helps(thin.get_submodule(module), values, thin, reached):
                    return {place: width for chosen_one in chosen for place, width in self._alike(*chosen_one)}
        return {}

    def _helps(self, module: nn.Module, values: Mapping[Number, int], thin: nn.Module, reached: Progress) -> bool:
        before = {number: vars(module).get(number.name, self) for number in values}
        try:
            assign(module, values)
            return progress(thin, self.inputs).beyond(reached)
        except REFUSALS:
            return False
        finally:
            for number, value in before.items():
                if value is self:
                    vars(module).pop(number.name, None)
                else:
                    vars(module)[number.name] = value

    def _options(self, name: str, step: int, units: Units, assigned: Assigned) -> Iterator[tuple[Place, Width]]:
        """Yield numbers and the widths that they may stand for, those that are used nearest to a step first."""
        module = self.model.get_submodule(name)
        if type(module).__module__.startswith("torch.") and (is_attention(module) or not any(module.children())):
            return  # surgery sets what single layers hold
        used = mentioned(type(module))
        for number in numbers(module):
            if number.value < 2 or not (number.name in used or used & INDIRECT):
                continue
            place, seen = Place(name, number), set[bytes]()
            if place in assigned:
                seen.add(units.of(assigned[place].atoms).numpy().tobytes())
            for width in sorted(self._widths(name, number.value), key=lambda w: abs(w.where[0] - step)):
                found = units.of(width.atoms)
                key = found.numpy().tobytes()
                if bool((found >= 0).any()) and key not in seen:
                    seen.add(key)
                    yield place, width

    @cached_property
    def _arriving(self) -> dict[str, list[Layers]]:
        """What enters each module, call by call."""
        found: dict[str, list[Layers]] = {}
        for step in itertools.chain.from_iterable(self.state.did.values()):
            if step.called:
                found.setdefault(step.called, []).append(step.given)
        return found

    def _widths(self, name: str, size: int) -> Iterator[Width]:
        own = [(*step.given, *step.made) for step in self.state.did.get(name, ())]
        before = self._arriving.get(name, [])
        for number, layers in [*enumerate(own), *((-1 - call, layers) for call, layers in enumerate(before))]:
            for index, layer in enumerate(layers):
                for dim in range(layer.dim()):
                    if layer.shape[dim] == size:
                        rows = layer.movedim(dim, 0).reshape(size, -1)
                        if bool((rows[:, :1] != rows[:1, :1]).any()):
                            yield Width((number, index, dim), rows[:, 0])

    def _alike(self, place: Place, width: Width) -> Iterator[tuple[Place, Width]]:
        """Yield the same for all modules of the class, whose code is the same."""
        yield place, width
        kind = type(self.model.get_submodule(place.module))
        for name, other in self.model.named_modules():
            if type(other) is not kind or name == place.module:
                continue
            for number in numbers(other):
                if (number.name, number.path) == (place.number.name, place.number.path):
                    same = [each for each in self._widths(name, number.value) if each.where == width.where]
                    if same:
                        yield Place(name, number), same[0]

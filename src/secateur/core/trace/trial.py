"""Which sizes in the code must follow the widths: a thinner network is tried, and mended where it breaks.

Nothing that the code says about sizes is believed. The first trial changes as little as possible: written constants
in the network's own code. Where it breaks, in a module of some class, that class is treated with more force, step by
step, up to giving up on the channels that its sizes speak of.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import Inputs, apply, check_batches, other_batches, verified
from secateur.core.trace import sites
from secateur.core.trace.assigning import REFUSALS, Assigned, Search, assignments
from secateur.core.trace.clock import Clock
from secateur.core.trace.closing import Break, Closing, place_of
from secateur.core.trace.components import Components
from secateur.core.trace.resolve import Units, build
from secateur.core.trace.state import Site, State
from secateur.core.trace.steps import Progress, progress
from secateur.errors import TraceError, VerificationError

ATTEMPTS = 64


class Force(IntEnum):
    """What is done about the sizes in the code of one class of modules; each step includes those before."""

    WRITTEN = 0  # constants are rewritten, except in standard layers, whose attributes surgery sets
    STANDARD = 1  # in standard layers too
    COMPUTED = 2  # so are sizes that the code computes, as from the width of another tensor
    UNKNOWN = 3  # what could not be recorded is pinned
    EVERYTHING = 4  # all is pinned
    ARRIVING = 5  # and so is what enters these modules, from where the code may take a width


def settle(model: nn.Module, state: State, example_inputs: Inputs, clock: Clock) -> Graph:
    """Return the graph of the first thinner network that runs and agrees with the silenced one.

    Raises:
        TraceError: if even a network with all doubtful channels pinned does not, or time is up.
    """
    components = Components(state)
    found = sites.following(model, state, components)
    trial = _Trial(model, state, example_inputs, clock, found)
    first: Graph | None = None
    for _ in range(ATTEMPTS):
        clock.check("a trial of a thinner network")
        graph, units, components = trial.graph()
        first = first or graph
        plan = _uneven(graph)
        broken, reached, thin = trial.breaks_at(graph, plan)
        if broken is None:
            return graph
        if thin is not None and reached is not None and reached.module is not None:
            more = trial.search.further(thin, reached, graph, plan, units, trial.assigned)
            if more:
                trial.assigned |= more
                continue
        if not trial.give_way(broken, components):
            break
    if not found.all and first is not None:
        return first  # what is wrong with it is no matter of sizes, and is said when it is pruned
    raise TraceError(
        f"{type(model).__name__} cannot be made thinner: sizes are written into its code in a way that was not "
        "understood; compute them from the inputs' shapes"
    )


class _Trial:
    """What is done about the sizes in the code so far."""

    def __init__(
        self, model: nn.Module, state: State, inputs: Inputs, clock: Clock, found: sites.Following
    ) -> None:
        self._model, self._state, self._inputs, self._found = model, state, inputs, found
        self._classes = {name: type(model.get_submodule(name)) for name in {site.module for site in found.all}}
        self._force = dict.fromkeys(self._classes.values(), Force.WRITTEN)
        self._closing = Closing(model, state)
        self.assigned: Assigned = {}
        self.search = Search(model, state, inputs, clock)

    def graph(self) -> tuple[Graph, Units, Components]:
        """Return the graph in which all that was decided is done."""
        found, classes, force = self._found, self._classes, self._force
        pinned = [s for s in found.all if _is_pinned(found, s, force[classes[s.module]])]
        closed = [name for name, owner in classes.items() if force[owner] == Force.ARRIVING]
        pinnings = [*sites.pinnings(pinned, self._state, closed), *self._closing.pinnings]
        components = Components(self._state.with_pins(pinnings) if pinnings else self._state)
        rewritten = [s for s in found.all if s not in pinned and _is_rewritten(found, s, force[classes[s.module]])]
        units = Units(self._state, components)
        graph = build(self._state, components, units, sites.rewrites(rewritten, units))
        return replace(graph, assignments=assignments(self.assigned, units)), units, components

    def breaks_at(self, graph: Graph, plan: Plan) -> tuple[Break | None, Progress | None, nn.Module | None]:
        """Thin the network on trial; say where it breaks or first differs (None: nowhere), and how far it came."""
        try:
            thin = apply(self._model, graph, plan)
        except REFUSALS:
            return Break(""), None, None
        inputs = self._inputs
        try:
            result, outputs = verified(self._model, graph, plan, thin, inputs)
            if result.exact:
                check_batches(self._model, graph, plan, thin, inputs, outputs)
        except VerificationError:
            for other in other_batches(inputs):
                reached = progress(thin, other)
                if reached.module is not None:
                    return Break(reached.module), None, None
            return Break(""), None, None
        except REFUSALS:
            reached = progress(thin, inputs)
            return place_of(reached), reached, thin
        known = result.layer in self._state.stack.named().values()
        return (None if result.exact else Break(result.layer if known else "")), None, None

    def give_way(self, place: Break, components: Components) -> bool:
        """Take the next step with the code that is nearest to the break; False if nothing is left to do."""
        near = sorted((n for n in self._classes if _contains(n, place.module)), key=len, reverse=True)
        own = place.module in self._classes
        if any(self._step(self._classes[name], Force.COMPUTED) for name in near):
            return True
        if not own and self._closing.near(place, components):
            return True
        if any(self._step(self._classes[name]) for name in near):
            return True
        if self._closing.near(place, components) or self._closing.around(place, components):
            return True
        steps = [self._step(owner) for owner in self._force]
        return any(steps)

    def _step(self, owner: type[nn.Module], most: Force = Force.ARRIVING) -> bool:
        return _step(self._found, self._classes, self._force, owner, most)


def _is_pinned(found: sites.Following, site: Site, force: Force) -> bool:
    return force >= Force.EVERYTHING or (force >= Force.UNKNOWN and site in found.unknown)


def _is_rewritten(found: sites.Following, site: Site, force: Force) -> bool:
    if site in found.constants:
        return force >= Force.STANDARD or site.module not in found.standard
    return force >= Force.COMPUTED and site in found.computed


def _step(
    found: sites.Following, classes: dict[str, type], force: dict[type, Force], owner: type, most: Force
) -> bool:
    """Use the next force that changes anything for this class."""
    own = [site for site in found.all if classes[site.module] is owner]

    def outcome(force: Force) -> object:
        decided = [(_is_rewritten(found, site, force), _is_pinned(found, site, force)) for site in own]
        return decided, force == Force.ARRIVING

    before, now = force[owner], outcome(force[owner])
    for more in [f for f in Force if force[owner] < f <= most]:
        force[owner] = more
        if outcome(more) != now:
            return True
    force[owner] = before
    return False


def _contains(module: str, place: str) -> bool:
    return module == "" or place == module or place.startswith(f"{module}.")


def _uneven(graph: Graph) -> Plan:
    """Drop about a third, one unit more from each group to the next: groups of one size end with different ones.

    The first unit always goes: it is what a size taken from the first of several parts would speak of.
    """
    rng = torch.Generator().manual_seed(0)
    edits: list[DropUnits] = []
    for number, group in enumerate(graph.groups):
        others = 1 + torch.randperm(group.size - 1, generator=rng)
        units = others[: (group.size // 3 + number) % (group.size - 1)]
        edits.append(DropUnits(group.name, (0, *sorted(units.tolist()))))
    return Plan(tuple(edits))

"""Which sizes in the code must follow the widths: a thinner network is tried, and mended where it breaks.

Nothing that the code says about sizes is believed. The first trial changes as little as possible: written constants
in the network's own code. Where it breaks, in a module of some class, that class is treated with more force, step by
step, up to giving up on the channels that its sizes speak of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from secateur.core import channel_labels as L
from secateur.core.graph import Graph, layer_of
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.core.trace import sites
from secateur.core.trace.assigning import Assigned, Search, assignments
from secateur.core.trace.breaks import Break, breaks_at, place_in_training
from secateur.core.trace.clock import Clock
from secateur.core.trace.components import Components
from secateur.core.trace.force import Force, is_pinned, is_rewritten
from secateur.core.trace.narrowing import culprits
from secateur.core.trace.parameterless_norms import bare_widths
from secateur.core.trace.pinning import Closing
from secateur.core.trace.resolve import Units, build
from secateur.core.trace.scores import keeping_scores
from secateur.core.trace.slots import Pinning
from secateur.core.trace.state import State
from secateur.core.trace.steps import above, calls
from secateur.core.trace.uneven_plans import Gone, gone_in, plan_for, uneven
from secateur.errors import TraceError

ATTEMPTS = 64
Trials: TypeAlias = Literal["always", "where needed"]


def settle(
    model: nn.Module,
    state: State,
    example_inputs: Inputs,
    clock: Clock,
    tried: Sequence[Plan] = (),
    trials: Trials = "always",
) -> Graph:
    """Return the graph of the first thinner networks that run and agree with the silenced one.

    Args:
        model: the network.
        state: what its run has told.
        example_inputs: that it ran on.
        clock: how long this may take.
        tried: further plans to try, each for the graph that those before it lead to.
        trials: ``"where needed"`` leaves the first ones out where they could only show that an operator was misread.

    Raises:
        PlanError: if one of these plans is of another network.
        SettingError: if free outputs leave no class scores.
        TraceError: if even a network with all doubtful channels pinned does not run or agree, or time is up.
    """
    settling = _Settling(model, state, example_inputs, clock)
    if trials == "where needed" and not tried and settling.sure:
        return settling.graph()
    graph = settling.settled()
    for number, plan in enumerate(tried, 1):
        settling.gone.append(gone_in(graph, plan))
        graph = replace(settling.settled(), tried=tuple(tried[:number]))
    return graph


class _Settling:
    """Finds out with how little force the network can be made thinner.

    Attributes:
        gone: what goes in trials beside the usual ones.
    """

    def __init__(self, model: nn.Module, state: State, example_inputs: Inputs, clock: Clock) -> None:
        state, self._components = keeping_scores(state, clock)
        self._model, self._state, self._inputs, self._clock = model, state, example_inputs, clock
        self.gone: list[Gone] = []
        self._found = sites.following(model, state, self._components)
        self._classes = {name: type(model.get_submodule(name)) for name in {site.module for site in self._found.all}}
        self._force = dict.fromkeys(self._classes.values(), Force.WRITTEN)
        self._closing = Closing(model, state)  # where more than a size in the code is in the way
        self._search, self._assigned = Search(model, state, example_inputs, clock), Assigned()
        self._trained: dict[str, Sequence[Pinning]] = {}  # what is given up on for what training does there

    @property
    def sure(self) -> bool:
        """Whether no size in the code and no run in training could be in the way of a cut."""
        return not self._found.all and self._state.training is None

    def settled(self) -> Graph:
        """Try, and use more force where a trial breaks."""
        first: Graph | None = None
        for _ in range(ATTEMPTS):
            self._clock.check("a trial of a thinner network")
            graph = self.graph()
            first = first or graph
            broken = self._breaks_at(graph)
            if broken is None and self._give_up():
                continue
            if broken is None:
                culprit = self._breaks_in_training(graph)
                if culprit is None:
                    return graph
                self._pin_more(culprit, graph)
            elif not (self._assign_more(broken, graph) or self._give_up() or self._force_more(broken, graph)):
                break
        self._clock.check("a trial of a thinner network")
        if first is not None and not self._found.all and not self.gone:
            return first  # what is wrong with it is no matter of sizes, and is said when it is pruned
        raise TraceError(
            f"{type(self._model).__name__} cannot be made thinner: sizes are written into its code in a way that was "
            "not understood; compute them from the inputs' shapes"
        )

    def _give_up(self) -> bool:
        """Pin what is written as a number that nothing changes: that it fitted is chance. False if there is none."""
        moved = {place.module for place in self._assigned}
        owners = {self._classes[site.module] for site in self._found.stuck if site.module not in moved}
        more = {owner for owner in owners if self._force[owner] < Force.UNKNOWN}
        self._force |= dict.fromkeys(more, Force.UNKNOWN)
        return bool(more)

    def graph(self) -> Graph:
        """Return what was read, with as much force as was used up to now."""
        found, state, force = self._found, self._state, self._force
        pinned = [s for s in found.all if is_pinned(found, s, force[self._classes[s.module]])]
        closed = [name for name, owner in self._classes.items() if force[owner] == Force.ARRIVING]
        if pinned or closed or self._closing.pinnings or self._trained:
            pins = [*sites.pinnings(pinned, state, closed), *self._closing.pinnings]
            trained = [pinning for pinnings in self._trained.values() for pinning in pinnings]
            self._components = Components(state.with_pins([*pins, *trained]), self._clock)
        rewritten = [s for s in found.all if s not in pinned and is_rewritten(found, s, force[self._classes[s.module]])]
        self._units = units = Units(state, self._components)
        graph = build(state, self._components, units, sites.rewrites(rewritten, units))
        bare = bare_widths(self._model, state, units)
        return replace(graph, assignments=(*assignments(self._assigned, units), *bare))

    def _breaks_at(self, graph: Graph) -> Break | None:
        """Return where the first trial breaks; None if none does."""
        plans = uneven(graph, self._together(graph))
        for number, plan in enumerate([*plans, *(plan_for(graph, gone) for gone in self.gone)]):
            again = number >= len(plans)
            trial = partial(
                breaks_at, self._model, graph, inputs=self._inputs, batches=again or not number, sizes=again
            )
            with self._clock.running():
                found = trial(plan=plan)
            if found is not None:
                self._broken = plan, trial
                return found
        return None

    def _breaks_in_training(self, graph: Graph) -> str | None:
        """Return where a trial breaks in training mode; None if it does not, or training is not another run."""
        if self._state.training is None:
            return None
        plans = [uneven(graph, self._together(graph))[0], *(plan_for(graph, gone) for gone in self.gone)]
        trial = partial(place_in_training, self._model, graph, state=self._state)
        for plan in plans:
            with self._clock.running():
                place = trial(plan=plan)
            if place is not None:
                self._broken = plan, trial
                return place
        return None

    def _pin_more(self, culprit: str, graph: Graph) -> None:
        """Give up on what alone breaks in training, else on what enters the module that does, or on all that it has.

        Raises:
            TraceError: if that was done already.
        """
        state = self._state
        place = culprit if culprit in dict(self._model.named_modules()) else ""
        where = f" in '{place}'" if place else ""
        reason = f"training uses it{where} in a way that was not understood"
        if self._closing.is_alone(place) and self._narrow(graph, reason):
            return
        remedy = "take sizes from the shapes of the tensors there"
        entering = [Pinning(layer[layer != L.FIXED], reason, remedy) for layer in state.arrivals.get(place, [])]
        inside = [s for s in state.slots if place and _contains(place, layer_of(s.tensor))]
        own = [Pinning(torch.arange(s.start, s.start + s.size), reason, remedy) for s in inside]
        pinnings = entering if place not in self._trained and entering else [*entering, *own]
        if len(pinnings) == len(self._trained.get(place, ())):
            where = f", at '{culprit}'" if culprit else ""
            raise TraceError(
                f"{type(self._model).__name__} cannot be made thinner: a thinner network runs in evaluation mode but "
                f"breaks in training mode{where}; compute sizes in the code that only training runs from the "
                "inputs' shapes"
            )
        self._trained[place] = pinnings

    def _together(self, graph: Graph) -> list[set[str]]:
        """Return for each module with sizes in its code the groups whose channels it has at hand."""
        names = [group.name for group in graph.groups]
        starts = torch.tensor([graph.offsets[name] for name in names], dtype=torch.long)
        group_of: dict[int, set[str]] = {}
        units = self._units

        def groups(layer: Tensor) -> set[str]:
            if id(layer) not in group_of:
                own = torch.unique(units.of(layer.reshape(-1)))
                place = torch.unique(torch.searchsorted(starts, own[own >= 0], right=True) - 1)
                group_of[id(layer)] = {names[i] for i in place.tolist()}
            return group_of[id(layer)]

        at_hand: dict[str, set[str]] = {name: set() for name in self._classes}
        for site in self._found.all:
            at_hand[site.module] |= groups(site.layer)
        for name, layers in self._state.arrivals.items():  # what it gives to its children, it has
            for module in {name, name.rpartition(".")[0]} & at_hand.keys():
                for layer in layers:
                    at_hand[module] |= groups(layer)
        return [found for found in at_hand.values() if len(found) > 1]

    def _assign_more(self, broken: Break, graph: Graph) -> bool:
        """Look for numbers in attributes with which the network comes further; False if there are none."""
        if broken.thin is None or broken.reached is None or broken.reached.module is None:
            return False
        plan, _ = self._broken
        with self._clock.running():
            more = self._search.further(broken.thin, broken.reached, graph, plan, self._units, self._assigned)
        self._assigned |= more
        return bool(more)

    def _narrow(self, graph: Graph, reason: str) -> bool:
        """Let only those groups stay whose cut breaks what broke; False where all do."""
        plan, trial = self._broken

        def breaks(part: Plan) -> bool:
            self._clock.check("a trial of a thinner network")
            with self._clock.running():
                return trial(plan=part) is not None

        better = sites.pinnings(list(self._found.unknown), self._state, [])
        return self._closing.groups(graph, culprits(plan, breaks), reason, better, self._components)

    def _force_more(self, broken: Break, graph: Graph) -> bool:
        """Take the next step with the code that is nearest to the break; False if nothing is left to do."""
        near = sorted((n for n in self._classes if _contains(n, broken.module)), key=len, reverse=True)
        if broken.step is None:
            near = [*self._before(broken.module), *near]
        if any(self._step(self._classes[name], Force.COMPUTED) for name in near):
            return True
        closing, components, own = self._closing, self._components, broken.module in self._classes
        if not own and broken.step is not None and closing.near(broken.module, broken.step, components):
            return True
        if closing.is_alone(broken.module) and self._narrow(graph, closing.reason(broken.module)):
            return True
        if any(self._step(self._classes[name]) for name in near):
            return True
        if closing.near(broken.module, broken.step, components) or closing.around(broken.module, components):
            return True
        steps = [self._step(owner) for owner in self._force]
        return any(steps) or closing.everything(components)

    def _before(self, layer: str) -> Iterator[str]:
        """Yield the modules with sizes in their code in what ran just before a layer that differs."""
        for name in above(layer):
            for caller, number, _ in calls(self._state.did, name):
                called = self._state.did[caller][number - 1].called if number else ""
                if called:
                    yield from (module for module in self._classes if _contains(called, module))
                    return

    def _step(self, owner: type, most: Force = Force.ARRIVING) -> bool:
        """Use the next force that changes anything for this class."""
        found, force = self._found, self._force
        own = [site for site in found.all if self._classes[site.module] is owner]

        def outcome(force: Force) -> object:
            decided = [(is_rewritten(found, site, force), is_pinned(found, site, force)) for site in own]
            return decided, force == Force.ARRIVING

        before, now = force[owner], outcome(force[owner])
        for more in [f for f in Force if before < f <= most]:
            force[owner] = more
            if outcome(more) != now:
                return True
        force[owner] = before
        return False


def _contains(module: str, place: str) -> bool:
    return module == "" or place == module or place.startswith(f"{module}.")

"""Which sizes in the code must follow the widths: a thinner network is tried, and mended where it breaks.

Nothing that the code says about sizes is believed. The first trial changes as little as possible: written constants
in the network's own code. Where it breaks, in a module of some class, that class is treated with more force, step by
step, up to giving up on the channels that its sizes speak of.
"""

from __future__ import annotations

import contextlib
from enum import IntEnum

import torch
from torch import nn

from secateur.core.calls import ModuleStack
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import Inputs, apply, check_batches, other_batches, run, verified
from secateur.core.trace import sites
from secateur.core.trace.clock import Clock
from secateur.core.trace.components import Components
from secateur.core.trace.resolve import Units, build
from secateur.core.trace.state import Site, State
from secateur.errors import SecateurError, TraceError, VerificationError

ATTEMPTS = 12
REFUSALS = (SecateurError, RuntimeError, ValueError, IndexError, TypeError, AssertionError)


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
    components = Components(state, clock)
    found = sites.following(model, state, components)
    classes = {name: type(model.get_submodule(name)) for name in {site.module for site in found.all}}
    force = dict.fromkeys(classes.values(), Force.WRITTEN)
    for _ in range(ATTEMPTS):
        clock.check("a trial of a thinner network")
        pinned = [s for s in found.all if _is_pinned(found, s, force[classes[s.module]])]
        closed = [name for name, owner in classes.items() if force[owner] == Force.ARRIVING]
        if pinned:
            components = Components(state.with_pins(sites.pinnings(pinned, state, closed)), clock)
        rewritten = [s for s in found.all if s not in pinned and _is_rewritten(found, s, force[classes[s.module]])]
        units = Units(state, components)
        graph = build(state, components, units, sites.rewrites(rewritten, units))
        culprit = _breaks_at(model, graph, example_inputs) if found.all else None
        if culprit is None:
            return graph
        if not _force_more(found, classes, force, culprit):
            break
    raise TraceError(
        f"{type(model).__name__} cannot be made thinner: sizes are written into its code in a way that was not "
        "understood; compute them from the inputs' shapes"
    )


def _is_pinned(found: sites.Following, site: Site, force: Force) -> bool:
    return force >= Force.EVERYTHING or (force >= Force.UNKNOWN and site in found.unknown)


def _is_rewritten(found: sites.Following, site: Site, force: Force) -> bool:
    if site in found.constants:
        return force >= Force.STANDARD or site.module not in found.standard
    return force >= Force.COMPUTED and site in found.computed


def _force_more(found: sites.Following, classes: dict[str, type], force: dict[type, Force], culprit: str) -> bool:
    """Take the next step with the class whose code is nearest to the break; False if nothing is left to do."""
    near = sorted((name for name in classes if _contains(name, culprit)), key=len, reverse=True)
    for name in near:
        if _step(found, classes, force, classes[name]):
            return True
    steps = [_step(found, classes, force, owner) for owner in force]
    return any(steps)


def _step(found: sites.Following, classes: dict[str, type], force: dict[type, Force], owner: type) -> bool:
    """Use the next force that changes anything for this class."""
    own = [site for site in found.all if classes[site.module] is owner]

    def outcome(force: Force) -> object:
        decided = [(_is_rewritten(found, site, force), _is_pinned(found, site, force)) for site in own]
        return decided, force == Force.ARRIVING

    now = outcome(force[owner])
    for more in [f for f in Force if f > force[owner]]:
        force[owner] = more
        if outcome(more) != now:
            return True
    return False


def _contains(module: str, place: str) -> bool:
    return module == "" or place == module or place.startswith(f"{module}.")


def _breaks_at(model: nn.Module, graph: Graph, example_inputs: Inputs) -> str | None:
    """Thin the network on trial; None if all is well, else the module where it breaks or first differs.

    Equal groups lose different numbers, or a width that is taken for another would go unnoticed.
    """
    plan = _uneven(graph)
    try:
        thin = apply(model, graph, plan)
    except REFUSALS:
        return ""
    try:
        result, outputs = verified(model, graph, plan, thin, example_inputs)
        if result.exact:
            check_batches(model, graph, plan, thin, example_inputs, outputs)
    except VerificationError:
        return next((place for other in other_batches(example_inputs) if (place := _place_of_failure(thin, other))), "")
    except REFUSALS:
        return _place_of_failure(thin, example_inputs)
    finally:
        for module in thin.modules():  # a forward of its own refers back to its module: free both now
            vars(module).pop("forward", None)
    return None if result.exact else result.layer


def _place_of_failure(thin: nn.Module, inputs: Inputs) -> str:
    stack = ModuleStack(thin)
    with contextlib.suppress(*REFUSALS), stack:
        run(thin, inputs)
    return stack.current


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

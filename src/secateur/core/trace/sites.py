"""Sizes in the arguments of reshaping calls: which of them are written into the code and must follow the widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.core.channel_labels import FIXED
from secateur.core.code.source import Spot
from secateur.core.code.written_numbers import at, call_name, is_written, record
from secateur.core.graph.written_sizes import Rewrite, WrittenSize
from secateur.core.layer_families import SIZED
from secateur.core.surgery.recordable import is_recordable
from secateur.core.surgery.untouched import untouched
from secateur.core.trace.calls_made import Place, Site
from secateur.core.trace.components import Components
from secateur.core.trace.places import ARGUMENT, CHOICE, SEVERAL, Places
from secateur.core.trace.resolve import Units
from secateur.core.trace.size_arguments import sizes_in
from secateur.core.trace.slots import Pinning
from secateur.core.trace.state import State


def note(
    state: State, call: int, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    """Remember every integer of a reshaping call that speaks of a dimension along which labels vary."""
    name, places = call_name(func), None
    if name.startswith("conv") and state.module in state.kinds.convolutions:
        return  # whose attributes say how many groups it has
    for path, tensor, dim, window, sign in sizes_in(name, args, kwargs, out):
        for layer in state.labels(tensor):
            if layer.shape[dim] > 1:
                places = places or Places(state.stack.named(), func, len(args))
                spot = places.spot(path, at({"args": args, "kwargs": kwargs}, path))
                state.sites.append(Site(state.module, call, name, path, layer, dim, window, sign, spot))


@dataclass(frozen=True)
class Following:
    """The sizes in the code that change with the widths.

    Attributes:
        constants: written as numbers.
        computed: computed by the code; most follow by themselves.
        unknown: nobody can say, because the code cannot be recorded, or they cannot be changed alone.
        stuck: those of the unknown that are written as numbers.
        standard: the modules among them that are standard layers.
    """

    constants: tuple[Site, ...]
    computed: tuple[Site, ...]
    unknown: tuple[Site, ...]
    stuck: tuple[Site, ...]
    standard: frozenset[str]

    @property
    def all(self) -> tuple[Site, ...]:
        """All of them."""
        return (*self.constants, *self.computed, *self.unknown)


def following(model: nn.Module, state: State, components: Components) -> Following:
    """Sort the sizes that were noted by what their modules' own code says about them."""
    kinds: dict[bool | None, list[Site]] = {True: [], False: [], None: []}
    programs, stuck = _Programs(model), list[Site]()
    lending = {name for name in {site.module for site in state.sites} if _may_lend(name, model, state, components)}
    split = _parting(state.sites, components)
    for site in state.sites:
        components.clock.check(site.module)
        follows = _follows_units(site, components)
        if not follows and site.module not in lending:
            continue
        found = programs.say(site)
        if found and not follows:
            continue
        if site.place in split:
            site = replace(site, spot=SEVERAL)
        again = False
        if isinstance(site.spot, str):
            again = state.stack.entered.get(site.module, 0) > 1 or site.place in state.one_sided
            again = again or not found or site.spot in (ARGUMENT, CHOICE) or not programs.may_run(site.module)
        kinds[None if again else found].append(site)
        if again and found:
            stuck.append(site)
    standard = frozenset(name for name in programs.names if isinstance(model.get_submodule(name), SIZED))
    return Following(tuple(kinds[True]), tuple(kinds[False]), tuple(kinds[None]), tuple(stuck), standard)


class _Programs:
    """What the recordings of modules' own forwards tell about sizes."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._recorded: dict[tuple[str, bool], fx.Graph | None] = {}
        self._plain: dict[str, bool] = {}

    @property
    def names(self) -> set[str]:
        """The modules that were asked for."""
        return {name for name, _ in self._recorded}

    def say(self, site: Site) -> bool | None:
        """Tell whether a size is written as a number or computed; None if nobody can say."""
        key = (site.module, site.training)
        if key not in self._recorded:
            self._recorded[key] = recorded_in(self._model, site.module, training=site.training)
        if isinstance(site.spot, Spot) and site.spot.number is not None:
            return True
        return is_written(self._recorded[key], site.call, site.function, site.path)

    def may_run(self, name: str) -> bool:
        """Whether a recording of the module's forward may stand in for it."""
        if name not in self._plain:
            self._plain[name] = is_recordable(self._model.get_submodule(name))
        return self._plain[name]


def _parting(sites: Sequence[Site], components: Components) -> set[Place]:
    """Return the expressions in the source that give sizes of different channels, as they are run several times."""
    seen: dict[Place, tuple[int, Tensor]] = {}
    found: set[Place] = set()
    for site in sites:
        if isinstance(site.spot, Spot):
            rows = _rows(site, components.prunable(site.layer))
            here = site.sign, rows[site.window, 0]
            sign, known = seen.setdefault(site.place, here)
            if sign != here[0] or not torch.equal(known, here[1]):
                found.add(site.place)
    return found


def recorded_in(model: nn.Module, name: str, *, training: bool) -> fx.Graph | None:
    """Record the own forward of one of a network's modules in one mode, whatever its mode is."""
    module = model.get_submodule(name)
    before, module.training = module.training, training
    try:
        with untouched(module):  # or stand-ins would be left in what it keeps between calls
            return record(module)
    finally:
        module.training = before


def _follows_units(site: Site, components: Components) -> bool:
    """Whether removing a unit can change the number at all."""
    rows = _rows(site, components.prunable(site.layer))
    return _varies(rows) and bool((rows[site.window, 0] >= 0).any())


def _rows(site: Site, layer: Tensor) -> Tensor:
    """Return what each position along the dimension holds: (positions, all others)."""
    return layer.movedim(site.dim, 0).reshape(layer.shape[site.dim], -1)


def _varies(rows: Tensor) -> bool:
    """Whether positions can go on their own; where all hold the same, as inside of heads, none does."""
    return bool((rows != rows[:1]).any())


def _may_lend(name: str, model: nn.Module, state: State, components: Components) -> bool:
    """Whether channels that can go enter a module, whose code may take their width for channels that stay."""
    if isinstance(model.get_submodule(name), SIZED):
        return False
    return any(bool((components.prunable(layer) >= 0).any()) for layer in state.arrivals.get(name, []))


def rewrites(sites: Sequence[Site], units: Units) -> list[Rewrite]:
    """Describe how each written size follows from the widths."""
    calls: dict[tuple[str, int, str, bool], list[WrittenSize]] = {}
    for site in sites:
        atoms = _rows(site, site.layer)
        here = atoms[site.window, 0]
        alone = _varies(units.of(atoms.reshape(-1)).reshape(atoms.shape))
        spot = site.spot if isinstance(site.spot, Spot) else None
        size = WrittenSize(site.path, site.sign, units.axis(here if alone else len(here)), spot)
        calls.setdefault((site.module, site.call, site.function, site.training), []).append(size)
    return [
        Rewrite(module, call, name, tuple(sizes), training) for (module, call, name, training), sizes in calls.items()
    ]


def pinnings(sites: Sequence[Site], state: State, closed: Sequence[str]) -> list[Pinning]:
    """Give up on these sites: the channels that they speak of stay, and those that enter the closed modules."""
    found: list[Pinning] = []
    for site in sites:
        where = f" in '{site.module}'" if site.module else ""
        why = f", {site.spot}" if isinstance(site.spot, str) else ""
        reason = f"its size is written into the code ({site.function}{where}){why}"
        remedy = "compute the size from the input's shape, or use -1"
        found.append(Pinning(site.layer[site.layer != FIXED], reason, remedy))
    for name in closed:
        reason = f"the code of '{name}' takes a width from here in a way that was not understood"
        remedy = "use -1, or the shape of the tensor that is reshaped"
        found += [Pinning(layer[layer != FIXED], reason, remedy) for layer in state.arrivals.get(name, [])]
    return found

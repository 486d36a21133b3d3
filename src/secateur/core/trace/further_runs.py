"""What a further run of a network may teach: which channels go together, but not what it costs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from secateur.core.code.written_numbers import is_written
from secateur.core.trace.calls_made import Dependence, Place, Site
from secateur.core.trace.sites import recorded_in
from secateur.core.trace.state import State


@contextmanager
def beside(state: State, reason: str) -> Generator[None]:
    """Learn which channels go together, but neither costs nor places of calls, which are those of the first run.

    Args:
        state: with what was learned in the first run.
        reason: why that stays which only this run speaks of.
    """
    with _apart(state) as new:
        yield
    places = {site.place for site in state.sites}
    for site in new.sites:
        if site.place not in places:
            state.pin(site.layer.reshape(-1), reason)
    known = {each.place for each in state.dependences}
    for each in new.dependences:
        if each.place not in known:
            state.pin(each.atoms, reason)


@contextmanager
def training_beside(model: nn.Module, state: State, reason: str) -> Generator[None]:
    """Do the same with a run in training mode, whose calls are rewritten together with those of the first run.

    A size at one place in both runs becomes one number, so that what it counts goes together; what only one of them
    has must not change where it is written.

    Args:
        model: the network.
        state: with what was learned in the first run.
        reason: why that stays which cannot be joined.
    """
    tensors = [tensor for _, tensor in state.names.values()]
    labels = [(tensor, state.shadows[tensor]) for tensor in tensors if tensor in state.shadows]
    try:
        with _apart(state) as new:
            yield
    finally:
        for tensor, layers in labels:  # what the run wrote into buffers is put back
            state.shadows[tensor] = layers
    _join_sites(model, state, new, reason)
    _join_dependences(state, new.dependences, reason)


class _New:
    """What a further run has found."""

    def __init__(self) -> None:
        self.sites: Sequence[Site] = ()
        self.dependences: Sequence[Dependence] = ()
        self.entered: Mapping[str, int] = {}


@contextmanager
def _apart(state: State) -> Generator[_New]:
    calls, uncounted, entered = len(state.calls), len(state.uncounted), dict(state.stack.entered)
    sites, dependences, new = state.sites, state.dependences, _New()
    state.sites, state.dependences = [], []
    try:
        yield new
    finally:
        del state.calls[calls:], state.uncounted[uncounted:]
        new.sites, new.dependences, new.entered = state.sites, state.dependences, dict(state.stack.entered)
        state.sites, state.dependences = sites, dependences
        state.stack.entered.clear()
        state.stack.entered.update(entered)


def _join_sites(model: nn.Module, state: State, new: _New, reason: str) -> None:
    before, now = _by_place(state.sites), _by_place(new.sites)
    for place in before.keys() & now.keys():
        pairs = list(zip(before[place], now[place], strict=False))
        if len(before[place]) == len(now[place]) and all(_alike(a, b) for a, b in pairs):
            for a, b in pairs:
                state.unite(a.layer, b.layer)
        else:
            for site in (*before[place], *now[place]):
                state.pin(site.layer.reshape(-1), reason)
    for place in now.keys() - before.keys():
        if place[-1] is not None:  # one more place in the source, which changes alone
            state.sites += [replace(site, training=True) for site in now[place]]
            continue
        if _is_computed(model, place):
            continue  # and follows by itself, which a trial will show
        for site in now[place]:
            state.pin(site.layer.reshape(-1), reason)
    often = {name for name, count in new.entered.items() if count > 1}
    state.one_sided |= {p for p in before if p[-1] is None and (p not in now or p[0] in often)}


def _join_dependences(state: State, new: Sequence[Dependence], reason: str) -> None:
    known = {each.place: each for each in state.dependences}
    for each in new:
        same = known.get(each.place)
        if same is None or not torch.equal(same.atoms, each.atoms):
            for atoms in (each.atoms, *([] if same is None else [same.atoms])):
                state.pin(atoms, reason)


def _by_place(sites: Sequence[Site]) -> dict[Place, list[Site]]:
    found: dict[Place, list[Site]] = {}
    for site in sites:
        found.setdefault(site.place, []).append(site)
    return found


def _alike(a: Site, b: Site) -> bool:
    return (a.dim, a.window, a.sign, a.layer.shape) == (b.dim, b.window, b.sign, b.layer.shape)


def _is_computed(model: nn.Module, place: Place) -> bool:
    """Tell whether the code of a module computes a size in training mode, rather than having it written."""
    module, call, function, path, _ = place
    return is_written(recorded_in(model, module, training=True), call, function, path) is False

"""Fit every layer of a pruned network, first to last, to what the dense network has there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, staying
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.core.surgery.private_copies import apart
from secateur.events import Event, Tell, ignore
from secateur.measure.forward import part
from secateur.reconstruction import rows
from secateur.reconstruction.layer import Fitted, can_fit, masks
from secateur.reconstruction.least_squares import Fit
from secateur.reconstruction.memory_bounds import Memory, memory, room, warn_of_little
from secateur.reconstruction.passes import Arrival, Passes, joined_if_stateful, laid_out, parted
from secateur.reconstruction.sites import PAIR, Place, Site, sites, together

NOTHING = 1e-10
"""Share of the squared outputs below which nothing is missing."""


@dataclass(eq=False)
class _Waiting:
    """A layer that waits for the sum that it is part of.

    Attributes:
        fitted: the layer.
        given: what it was given, for each batch, and the version of that tensor, which tells whether it is still that.
    """

    fitted: Fitted
    given: list[tuple[Tensor, int]]


@dataclass(eq=False)
class _Refit:
    """Both networks on their way.

    Attributes:
        kept: which outputs of each layer of the dense network are left, ``(outputs,)`` bool.
        free: which weights of a layer may change.
        meeting: the layers whose outputs meet in each addition.
        summed: the names of these layers.
        places: where the maps of a layer are looked at, for each batch.
        wanted: what the dense network has there.
    """

    dense: nn.Module
    thin: nn.Module
    kept: dict[str, Tensor]
    free: dict[str, Tensor]
    meeting: dict[Place, list[Site]]
    seed: int
    summed: frozenset[str]
    places: dict[tuple[str, int], rows.Places] = field(default_factory=dict[tuple[str, int], rows.Places])
    wanted: dict[tuple[str | Place, int], Tensor] = field(default_factory=dict["tuple[str | Place, int]", Tensor])
    waiting: dict[Place, list[_Waiting]] = field(default_factory=dict[Place, list[_Waiting]])
    changed: list[str] = field(default_factory=list[str])
    memory: Memory = field(default_factory=memory)

    def draw(self, site: Site, standing: Sequence[Arrival], number: int) -> None:
        """Draw the places of a layer; layers whose outputs meet share them."""
        partners = [site] if site.add is None else self.meeting[site.add]
        first = next((it.layer for it in partners if (it.layer, standing[0].batch) in self.places), None)
        layer = self.dense.get_submodule(site.layer)
        wanted = max(rows.wanted(self.dense.get_submodule(it.layer)) for it in partners)
        images = sum(len(it.tensor) for it in standing)
        for it in standing:
            if first is None:
                some = max(1, wanted * len(it.tensor) // images)
                drawn = rows.Places(layer, it.tensor, some, self.seed * 7919 + number * 1009 + it.batch)
            else:
                drawn = self.places[first, it.batch]
            self.places[site.layer, it.batch] = drawn

    def heard(self, where: str | Place, batch: int, made: Tensor) -> None:
        """Note what the dense network puts out at the drawn places."""
        name = where if isinstance(where, str) else self.meeting[where][0].layer
        if where in self.summed:
            return  # the sum counts
        if (name, batch) not in self.places:
            raise parted(self.dense)
        layer = self.dense.get_submodule(name)
        found = self.places[name, batch].outputs(layer, made)
        self.wanted[where, batch] = found[:, self.kept[name].to(made.device)]

    def alone(self, site: Site, arrived: Sequence[Arrival]) -> None:
        """Fit a layer to its own outputs."""
        fitted, fit = self.fitted(site), Fit(most=self.memory.columns)
        whole = lacking = 0.0
        for it in arrived:
            places, wanted = self.places.pop((site.layer, it.batch)), self.wanted.pop((site.layer, it.batch))
            inputs = places.inputs(fitted.plain, it.tensor)
            missing = wanted - fitted.put_out(inputs)
            whole, lacking = whole + float(wanted.square().sum()), lacking + float(missing.square().sum())
            fitted.add(fit, inputs, missing, places.image)
        solution = fit.solve(fitted.free) if lacking > NOTHING * whole else None
        if solution is not None:
            fitted.take(solution)
            self.changed.append(site.layer)

    def wait(self, site: Site, arrived: Sequence[Arrival], keep: bool) -> None:
        """Let a layer wait for the sum that it is part of, with a copy of its input if the forward will change that."""
        assert site.add is not None
        given = [(tensor, _version(tensor)) for tensor in (it.tensor.clone() if keep else it.tensor for it in arrived)]
        self.waiting.setdefault(site.add, []).append(_Waiting(self.fitted(site), given))

    def sum(self, place: Place, arrived: Sequence[Arrival]) -> None:
        """Fit the layers that meet in a sum, one after the other, to what it still lacks."""
        here = self.waiting.pop(place)
        first = here[0].fitted
        places = [self.places[first.site.layer, it.batch] for it in arrived]
        wanted = [self.wanted.pop((place, it.batch)) for it in arrived]
        lacking = [
            want - at.outputs(first.plain, it.tensor) for want, at, it in zip(wanted, places, arrived, strict=True)
        ]
        enough = NOTHING * sum(float(want.square().sum()) for want in wanted)
        for turn in here:
            if sum(float(missing.square().sum()) for missing in lacking) > enough:
                self.part(turn, lacking, arrived)
            for it in arrived:
                del self.places[turn.fitted.site.layer, it.batch]

    def part(self, turn: _Waiting, lacking: list[Tensor], arrived: Sequence[Arrival]) -> None:
        """Fit one layer to what a sum lacks, and bring the sums up to date, in place.

        A layer whose input was changed in place since stays as it is: what a fit adds to the sum is not known any more.
        Its rows are read anew for each use, since those of all batches and layers of a sum would take gigabytes.
        """
        if any(_version(given) != version for given, version in turn.given):
            return
        fitted, fit = turn.fitted, Fit(most=self.memory.columns)
        used = fitted.scale.abs() > 1e-8 * fitted.scale.abs().max()
        by = torch.where(used, 1 / torch.where(used, fitted.scale, 1.0), 0.0)
        places = [self.places[fitted.site.layer, it.batch] for it in arrived]
        for at, (given, _), missing in zip(places, turn.given, lacking, strict=True):
            fitted.add(fit, at.inputs(fitted.plain, given), missing * by.to(missing), at.image)
        solution = fit.solve(fitted.free)
        if solution is None:
            return
        weight, bias = fitted.take(solution)
        self.changed.append(fitted.site.layer)
        for number, (it, at, (given, _)) in enumerate(zip(arrived, places, turn.given, strict=True)):
            lacking[number] = lacking[number] - fitted.moved(at.inputs(fitted.plain, given), weight, bias)
            it.tensor.add_(fitted.moved_map(given, weight, bias))

    def fitted(self, site: Site) -> Fitted:
        return Fitted(self.thin, site, self.free.get(site.layer))


@apart("dense")
def refit(
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    batches: Sequence[Inputs],
    *,
    seed: int = 0,
    tell: Tell = ignore,
) -> tuple[str, ...]:
    """Fit each layer of the pruned network to the outputs of the dense one, in the order in which they run.

    Inputs are those of the pruned network as fitted so far, so that errors do not add up (He, Zhang & Sun, *Channel
    Pruning for Accelerating Very Deep Neural Networks*, 2017, section 3.2). A layer at the end of a residual branch is
    fitted to what the sum lacks, so that it also repairs the stream. Layers that have lost nothing are fitted too, as
    they can make up for what is lost before them. Weights that the plan sets to zero stay zero. All batches go through
    both networks at once and wait at each layer, so that one pass of each is enough.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        batches: what the forward takes.
        seed: of the places of maps that are drawn.
        tell: hears the progress, layer by layer.

    Returns:
        Names of the layers that were changed.

    Raises:
        ModelError: if one of the networks does not run on the images.
    """
    batches = laid_out(dense, batches)
    found = [site for site in sites(dense, part(batches[0], PAIR)) if _there(thin, site)]
    batches = joined_if_stateful(dense, found, batches)
    summed = frozenset(site.layer for site in found if site.add is not None)
    it = _Refit(dense, thin, _kept(dense, graph, plan, found), masks(graph, plan), together(found), seed, summed)
    _go(it, found, batches, tell)
    return tuple(it.changed)


def _go(it: _Refit, found: Sequence[Site], batches: Sequence[Inputs], tell: Tell) -> None:
    by_name = {site.layer: site for site in found}
    many = room(it.dense, found, batches, networks=2, most=it.memory.waiting)
    warn_of_little(it.thin, found, many, it.memory, tell)
    before = Passes(it.dense, found, batches, it.heard, room=many.batches)
    after = Passes(it.thin, found, batches, lambda *_: None, behind=it.meeting, room=many.batches)
    number = 0
    tell(Event("repair", "fitting layers to the dense network", 0, len(found)))
    with before.running() as advance_dense, after.running() as advance_thin:
        standing = advance_dense()
        while arrived := advance_thin():
            where = arrived[0].where
            if not isinstance(where, str):
                if any((where, stop.batch) not in it.wanted for stop in arrived):
                    raise parted(it.thin)
                it.sum(where, arrived)
                continue
            tell(Event("repair", f"fitting {where}", number, len(found)))
            number += 1
            site = by_name[where]
            if not standing or standing[0].where != where:
                raise parted(it.thin)
            it.draw(site, standing, number)
            were = [(stop.tensor, _version(stop.tensor)) for stop in standing if site.add is not None]
            standing = advance_dense()  # to the next layer: what this one puts out is noted on the way
            if site.add is None:
                it.alone(site, arrived)
            else:
                it.wait(site, arrived, keep=any(_version(tensor) != version for tensor, version in were))
            del were
            many.tidy()


def _version(tensor: Tensor) -> int:
    """Return a number that grows whenever the values of a tensor are changed in place."""
    return tensor._version  # pyright: ignore[reportPrivateUsage]


def _there(thin: nn.Module, site: Site) -> bool:
    """Tell whether the pruned network has a layer of this name that can be fitted."""
    try:
        return can_fit(thin.get_submodule(site.layer))
    except AttributeError:
        return False


def _kept(dense: nn.Module, graph: Graph, plan: Plan, found: Iterable[Site]) -> dict[str, Tensor]:
    keep = graph.kept(plan)
    kept: dict[str, Tensor] = {}
    for site in found:
        units = graph.tensors[f"{site.layer}.weight"][1][0] if f"{site.layer}.weight" in graph.tensors else None
        layer: Any = dense.get_submodule(site.layer)
        kept[site.layer] = torch.ones(len(layer.weight), dtype=torch.bool) if units is None else staying(units, keep)
    return kept

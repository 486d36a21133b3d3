"""How much of what layers put out is lost for good when units of one group go and their readers are refitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.surgery import Inputs
from secateur.core.surgery.private_copies import apart
from secateur.events import Event, Tell, ignore
from secateur.measure.forward import part
from secateur.reconstruction import rows
from secateur.reconstruction.contribution import contributions
from secateur.reconstruction.elimination import FEW, Reader, best_choices, eliminate, order_of
from secateur.reconstruction.least_squares import Moments, inverted, ridged
from secateur.reconstruction.memory_bounds import Room, memory, room, warn_of_little
from secateur.reconstruction.passes import Arrival, Passes, joined_if_stateful, laid_out
from secateur.reconstruction.reading import columns, evened, readers, units_read
from secateur.reconstruction.sites import PAIR, Place, Site, norm_scale, sites

PULL = 1e-3
"""Ridge, as a share of the mean square of the inputs."""

SHARE = 0.25
"""Of the rows that a fit gets; which unit goes asks for less precision than how the others make up for it."""
CONSTANT = 1e-5
"""Share of the second moment of an input below which its variance is nothing but rounding."""
STREAM = 3.0
"""How much more errors count in a group whose units are added to others, see ``error_curves``."""


@dataclass
class Spread:
    """Sums that give the variance of each channel of what is put out somewhere."""

    count: int = 0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, made: Tensor, channel: int) -> None:
        """Take in a tensor; ``channel`` is the dimension of its channels."""
        if made.dim() > 1:
            made = made.movedim(channel, -1)
        flat = made.detach().reshape(-1, made.shape[-1])
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        self.count += len(flat)
        self.total = self.total + flat.sum(0).double().cpu()
        self.square = self.square + flat.square().sum(0).double().cpu()

    def variance(self, scale: Tensor) -> float:
        """Return the sum over channels of the variance over images and places, each channel scaled."""
        mean, square = (torch.as_tensor(it) / max(1, self.count) for it in (self.total, self.square))
        spread = square - mean.square()
        spread = torch.where(spread > CONSTANT * square, spread, 0.0 * spread)  # what is left of others is rounding
        return float((spread * scale.square()).sum())


@dataclass(eq=False)
class _View:
    """What one layer says of a group, until the variance at its destination is known."""

    reader: Reader
    rows: int
    where: str | Place
    scale: Tensor


@dataclass(eq=False)
class _Survey:
    """The readers of all groups, as they are met.

    Attributes:
        left: how many of the layers that read each group are still to come.
        spreads: what is put out where errors are measured.
    """

    model: nn.Module
    graph: Graph
    scores: Mapping[str, Tensor] | None
    left: dict[str, int]
    views: dict[str, list[_View]] = field(default_factory=dict[str, "list[_View]"])
    others: dict[str, list[Reader]] = field(default_factory=dict[str, "list[Reader]"])
    spreads: dict[str | Place, Spread] = field(default_factory=dict["str | Place", Spread])
    curves: dict[str, ErrorCurve] = field(default_factory=dict[str, ErrorCurve])

    def finish(self) -> None:
        """Make the curves of the groups all of whose readers have been met, and let their matrices go."""
        for group in self.graph.free:
            if group.name not in self.curves and not self.left[group.name]:
                self.curves[group.name] = self.curve(group)

    def curve(self, group: Group) -> ErrorCurve:
        found = self.others.pop(group.name, [])
        for view in self.views.pop(group.name, []):
            variance = self.spreads[view.where].variance(view.scale) if view.where in self.spreads else 0.0
            if not 0 < variance < math.inf:  # of what does not vary nothing can be lost
                continue
            view.reader.scale = variance * view.rows
            found.append(view.reader)
        order = None
        if self.scores is not None and group.name in self.scores:
            order = order_of(self.scores[group.name])
        if not found:
            found = [_by_weight(self.model, group)]
        choices = list[tuple[int, ...]]()
        if order is None and group.size <= FEW:
            choices, errors = best_choices(found, group.size)
            gone, _ = eliminate(found, group.size)
        else:
            gone, errors = eliminate(found, group.size, order=order)
        weight = STREAM if group.name in self.graph.streams else 1.0
        return ErrorCurve(group.name, tuple(gone), tuple(accumulate(errors, max)), tuple(choices), weight)


@apart("model")
def error_curves(
    model: nn.Module,
    graph: Graph,
    batches: Sequence[Inputs],
    *,
    scores: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    tell: Tell = ignore,
) -> list[ErrorCurve]:
    """Return for each group the order in which its units go, and the error when the first 0, 1, 2, ... are gone.

    One pass over the images is enough: all batches wait at each layer that reads units until its curve is known.
    Errors are those of the layer's output, or of the sum that it is added to, relative to the variance there; those of
    all readers of a group are added up. Layers with more than 6,000 columns, layers of other kinds than convolutions of
    images and linear layers, and layers that are called more than once are judged by their units' contributions.
    A group that none of them reads goes by the squares of the weights that make it. Where the cut is shared out errors
    of residual streams count three times (``ErrorCurve.weight``): whatever reads the stream later meets them again, and
    no later branch can bring back a channel that is gone, as it can bring back other errors.
    ``benchmarks/post_training.py`` measures the same with a weight of 1.

    Args:
        model: the dense network, run in evaluation mode and left as it is.
        graph: its graph.
        batches: what its forward takes.
        scores: ``(size,)`` for each group: the lowest go first, ``inf`` never; None: what can best be refitted first.
        seed: of the places of maps that are drawn.
        tell: hears the progress, layer by layer.

    Raises:
        ModelError: if the network does not run on the images.
    """
    batches = laid_out(model, batches)
    reading = readers(graph)
    all_readers = {layer for layers in reading.values() for layer in layers}
    known = [site for site in sites(model, part(batches[0], PAIR)) if site.layer in all_readers]
    allowed = memory()
    found = [site for site in known if rows.columns(model.get_submodule(site.layer)) <= allowed.columns]
    exact = {site.layer for site in found}
    left = {name: sum(layer in exact for layer in layers) for name, layers in reading.items()}
    survey = _Survey(model, graph, scores, left)
    rest = [layer for layer in all_readers if layer not in exact]
    if rest:
        survey.others = contributions(model, graph, rest, batches[0], pull=PULL, seed=seed)
    batches = joined_if_stateful(model, found, batches)
    many = room(model, found, batches, most=allowed.waiting)
    warn_of_little(model, known, many, allowed, tell)
    _meet(survey, found, batches, many, seed, tell)
    return [survey.curves[group.name] for group in graph.free]


def _meet(survey: _Survey, found: Sequence[Site], batches: Sequence[Inputs], many: Room, seed: int, tell: Tell) -> None:
    by_name = {site.layer: site for site in found}

    def heard(where: str | Place, batch: int, made: Tensor) -> None:
        if isinstance(where, str) and by_name[where].add is not None:
            return
        layer = where if isinstance(where, str) else next(site.layer for site in found if site.add == where)
        linear = isinstance(survey.model.get_submodule(layer), nn.Linear)
        survey.spreads.setdefault(where, Spread()).add(made, -1 if linear else 1)

    tell(Event("reconstruct", "weighing units by what no fit brings back", 0, len(found)))
    with Passes(survey.model, found, batches, heard, room=many.batches).running() as advance:
        number = 0
        while arrived := advance():
            site = by_name[str(arrived[0].where)]
            tell(Event("reconstruct", f"weighing what {site.layer} reads", number, len(found)))
            survey.finish()  # those whose last reader was the layer before: the sums behind it are known now
            _look(survey, site, arrived, seed * 7919 + number)
            many.tidy()
            number += 1
    survey.left = dict.fromkeys(survey.left, 0)  # the forward need not have reached every layer
    survey.finish()


def _look(survey: _Survey, site: Site, arrived: Sequence[Arrival], seed: int) -> None:
    """Take from one layer what it says of the groups that it reads."""
    layer: Any = survey.model.get_submodule(site.layer)
    units = units_read(survey.graph, site.layer)
    assert units is not None
    inverse, count = _square(layer, arrived, seed)
    finite = bool(inverse.isfinite().all())  # a layer whose inputs overflow has no say
    if finite:
        inverse = inverted(ridged(inverse, PULL))
    groups = rows.groups(layer)
    scale = norm_scale(survey.model, site.norm, len(layer.weight))
    weight = (layer.weight.detach().double().cpu().flatten(1) * scale[:, None]).view(groups, -1, inverse.shape[1])
    each = len(units) // groups
    met: set[str] = set()
    for number in range(groups):
        for own in columns(survey.graph, units[number * each : (number + 1) * each], weight.shape[2] // each):
            met.add(own.group)
            if not finite:
                continue
            block = inverse[number][own.columns][:, own.columns]
            block, outputs, read = evened(block, weight[number].T[own.columns], own)
            reader = Reader(block, outputs, 1.0, read)
            by = (site.layer, scale) if site.add is None else (site.add, torch.ones_like(scale))
            survey.views.setdefault(own.group, []).append(_View(reader, count, *by))
    for name in met:
        survey.left[name] -= 1


def _square(layer: nn.Module, arrived: Sequence[Arrival], seed: int) -> tuple[Tensor, int]:
    """Return ``X'X`` of the inputs without their means, which a bias makes up for, and the number of rows."""
    images = sum(len(it.tensor) for it in arrived)
    moments: Moments | None = None
    sums: Tensor | float = 0.0
    for it in arrived:
        some = max(1, rows.wanted(layer, SHARE) * len(it.tensor) // images)
        found = rows.Places(layer, it.tensor, some, seed * 1009 + it.batch).inputs(layer, it.tensor)
        more = Moments.of(found, found.new_zeros(*found.shape[:2], 0))
        sums = sums + found.sum(1, dtype=torch.float32 if found.device.type == "mps" else torch.float64).double().cpu()
        if moments is None:
            moments = more
        else:
            moments.add(more)
    assert moments is not None
    assert isinstance(sums, Tensor)
    square = moments.square  # in place from here on: of wide layers it is large
    raw = square.diagonal(dim1=1, dim2=2).clone()
    square.baddbmm_(sums[:, :, None], sums[:, None, :], alpha=-1 / moments.rows)
    varies = (square.diagonal(dim1=1, dim2=2) > CONSTANT * raw).double()  # what is left of the others is rounding
    return square.mul_(varies[:, :, None]).mul_(varies[:, None, :]), moments.rows


def _by_weight(model: nn.Module, group: Group) -> Reader:
    """Return a stand-in for readers: units are worth the squares of their weights, and nothing can replace them."""
    worth = torch.zeros(group.size, dtype=torch.float64)
    for made in group.rows(model, "makes"):
        worth += made.detach().double().cpu().square().sum(1)
    worth = worth / max(float(worth.sum()), 1e-30)
    return Reader(torch.eye(group.size, dtype=torch.float64), worth.sqrt()[:, None], 1.0)

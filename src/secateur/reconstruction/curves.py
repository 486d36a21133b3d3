"""How much of a network's inner workings cannot be recovered when units of one group go and all else is refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group
from secateur.core.surgery import Inputs
from secateur.events import Event, Tell, ignore
from secateur.reconstruction import rows
from secateur.reconstruction.elimination import Reader, eliminate
from secateur.reconstruction.influence import influence
from secateur.reconstruction.least_squares import MOST, Moments, ridged
from secateur.reconstruction.passes import Arrival, Passes
from secateur.reconstruction.sites import Place, Site, norm_scale, sites

PULL = 1e-3
RATIO = {}
"""Strength of the pull towards the present weights, as a share of the mean square of the inputs."""


@dataclass
class Spread:
    """Sums that give the variance of each channel of what is put out somewhere."""

    count: int = 0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, made: Tensor, channel: int) -> None:
        """Take in a tensor; ``channel`` is the dimension of its channels."""
        flat = made.detach().movedim(channel, -1).flatten(0, -2)
        self.count += len(flat)
        self.total = self.total + flat.sum(0).double().cpu()
        self.square = self.square + flat.square().sum(0).double().cpu()

    def variance(self, scale: Tensor | float = 1.0) -> float:
        """Return the sum over channels of the variance over images and places, each channel scaled."""
        mean = torch.as_tensor(self.total) / max(1, self.count)
        spread = (torch.as_tensor(self.square) / max(1, self.count) - mean.square()).clamp(min=0)
        return float((spread * torch.as_tensor(scale).square()).sum())


@dataclass
class _Part:
    """What one layer says of a group, until the variance of its destination is known."""

    reader: Reader
    rows: int
    where: str | Place
    scale: Tensor | float = 1.0
    layer: str = ""
    group: int = 0
    outs: int = 0
    columns: Any = None
    member: Any = None
    by: Any = None


@dataclass
class _Survey:
    model: nn.Module
    graph: Graph
    found: list[Site]
    parts: dict[str, list[_Part]] = field(default_factory=dict[str, "list[_Part]"])
    influence: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    spreads: dict[str | Place, Spread] = field(default_factory=dict["str | Place", Spread])


def error_curves(
    model: nn.Module,
    graph: Graph,
    batches: Sequence[Inputs],
    *,
    scores: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    weigh: bool = False,
    probe: float = 0.0,
    tell: Tell = ignore,
) -> dict[str, tuple[list[int], list[float]]]:
    """Return for each group the order in which its units go and the relative error when the first 0, 1, 2, ... are gone.

    Args:
        model: the dense network, run in evaluation mode and left as it is.
        graph: its graph.
        batches: what its forward takes.
        scores: ``(size,)`` for each group: the lowest go first; None: what can best be refitted goes first.
        seed: of the places that are drawn.
        tell: hears the progress, layer by layer.
    """
    first = one(batches[0])
    found = [site for site in sites(model, first) if reads_units(graph, site.layer)]
    survey = _Survey(model, graph, found)
    if weigh:
        survey.influence = influence(model, [site.layer for site in found], batches, seed=seed)
    by_name = {site.layer: site for site in found}

    def heard(where: str | Place, batch: int, made: Tensor) -> None:
        layer = by_name[where] if isinstance(where, str) else None
        if layer is not None and layer.add is not None:
            return
        conv = made.dim() == 4
        survey.spreads.setdefault(where, Spread()).add(made, 1 if conv else -1)

    curves: dict[str, tuple[list[int], list[float]]] = {}
    left = {group.name: sum(name in groups_read(graph, site.layer) for site in found) for group in graph.free for name in [group.name]}
    with Passes(model, found, batches, heard).running() as advance:
        number = 0
        while arrived := advance():
            site = by_name[str(arrived[0].where)]
            tell(Event("reconstruct", f"weighing what {site.layer} reads", number / len(found)))
            _look(survey, site, arrived, seed + number)
            number += 1
    for group in graph.free:
        at = max(1, round(group.size * probe)) if probe else 0
        parts = survey.parts.get(group.name, [])
        gone, errors = _curve(survey, group, None if scores is None else scores.get(group.name), at)
        if probe:
            k = group.size - at
            d = _probe(survey, group, parts, gone[:k], batches)
            print(group.name, group.size, at, "local", round(errors[k], 4), "output", round(d, 4), "ratio", round(d / max(errors[k], 1e-12), 3))
            RATIO[group.name] = d / max(errors[k], 1e-12)
        curves[group.name] = (gone, errors)
    return curves


def _probe(survey, group, parts, gone, batches, images=256):
    from secateur.core.surgery import run
    model = survey.model
    if not hasattr(survey, "dense_out"):
        survey.dense_out = torch.cat([run(model, b) for b in batches])[:images]
    saved = {}
    alive = [u for u in range(group.size) if u not in set(gone)]
    for part in parts:
        layer = model.get_submodule(part.layer)
        if part.layer not in saved:
            saved[part.layer] = layer.weight.detach().clone()
        w = layer.weight.detach().flatten(1).double()
        gs = part.group
        rowsl = slice(gs * part.outs, (gs + 1) * part.outs)
        cols, member = part.columns, part.member
        block = w[rowsl].clone()
        block[:, cols] = 0
        snap = part.reader.snapshot  # (alive*each, outs) scaled
        each = len(snap) // len(alive)
        index = {u: i for i, u in enumerate(alive)}
        counts = {}
        for c, m in zip(cols.tolist(), member.tolist()):
            if m in index:
                q = counts.get(m, 0); counts[m] = q + 1
                sc = part.by
                block[:, c] = snap[index[m] * each + q] / torch.where(sc == 0, torch.ones_like(sc), sc)
        w[rowsl] = block
        layer.weight.data.copy_(w.view_as(layer.weight).float())
    out = torch.cat([run(model, b) for b in batches[: -(-images // 128)]])[:images]
    for name, old in saved.items():
        model.get_submodule(name).weight.data.copy_(old)
    diff = (out - survey.dense_out)
    diff = diff - diff.mean(0)
    return float(diff.square().sum() / (survey.dense_out - survey.dense_out.mean(0)).square().sum())



def one(inputs: Any) -> Any:
    """Return the first image of a batch, however it is nested."""
    if isinstance(inputs, Tensor):
        return inputs[:1] if inputs.dim() else inputs
    if isinstance(inputs, Mapping):
        return {name: one(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(one(value) for value in inputs)
    return inputs


def read_by(graph: Graph, layer: str) -> Tensor | None:
    """Return the graph-wide unit of each input of a layer, -1 = fixed; None if it reads no units."""
    if layer in graph.convolutions:
        weight = graph.tensors[f"{layer}.weight"][0]
        units = graph.convolutions[layer]
        return units if weight[1] > 1 and bool((units >= 0).any()) else None
    tensor = f"{layer}.weight"
    if tensor not in graph.roles or "reads" not in graph.roles[tensor]:
        return None
    units = graph.tensors[tensor][1][1]
    return units if units is not None and bool((units >= 0).any()) else None


def reads_units(graph: Graph, layer: str) -> bool:
    return read_by(graph, layer) is not None


def groups_read(graph: Graph, layer: str) -> list[str]:
    """Return the names of the groups whose units a layer reads."""
    units = read_by(graph, layer)
    return [] if units is None else [
        group.name
        for group in graph.free
        for start in [graph.offsets[group.name]]
        if bool(((units >= start) & (units < start + group.size)).any())
    ]


def _look(survey: _Survey, site: Site, arrived: Sequence[Arrival], seed: int) -> None:
    """Take from one layer what it says of the groups that it reads."""
    layer: Any = survey.model.get_submodule(site.layer)
    units = read_by(survey.graph, site.layer)
    assert units is not None
    wide = rows.columns(layer)
    if wide > MOST:
        return  # TODO
    square, count = _square(layer, arrived, seed)
    square = ridged(square, PULL)
    groups = rows.groups(layer)
    weight = layer.weight.detach().double().cpu()
    outputs = len(weight) // groups
    scale = norm_scale(survey.model, site, len(weight))
    if survey.influence:
        scale = survey.influence[site.layer].sqrt()
    weight = (weight.flatten(1) * scale[:, None]).view(groups, outputs, -1)
    each_in = len(units) // groups
    for part in range(groups):
        inverse = torch.linalg.inv(square[part])
        own = units[part * each_in : (part + 1) * each_in]
        taps = weight.shape[2] // each_in
        for name, columns, members, each in blocks_of(survey.graph, own, taps):
            block = inverse[columns][:, columns]
            reader = Reader(*_padded(block, weight[part].T[columns], members, each, survey.graph.group(name).size), 1.0)
            where, by = (site.layer, scale) if site.add is None else (site.add, 1.0)
            survey.parts.setdefault(name, []).append(_Part(reader, count, where, by, site.layer, part, outputs, columns, members, scale[part * outputs : (part + 1) * outputs]))


def blocks_of(graph: Graph, own: Tensor, taps: int) -> Iterator[tuple[str, Tensor, Tensor, int]]:
    """Yield for each group: its name, the columns of its units, the unit of each column, and the most for one unit."""
    for group in graph.free:
        start = graph.offsets[group.name]
        places = torch.nonzero((own >= start) & (own < start + group.size)).flatten()
        if not len(places):
            continue
        member = (own[places] - start).repeat_interleave(taps)
        columns = (places[:, None] * taps + torch.arange(taps)).flatten()
        order = torch.argsort(member, stable=True)
        member = member[order]
        yield group.name, columns[order], member, int(torch.bincount(member, minlength=group.size).max())


def _padded(inverse: Tensor, weight: Tensor, member: Tensor, each: int, units: int) -> tuple[Tensor, Tensor]:
    """Give every unit the same number of columns: those that are added touch nothing and weigh nothing."""
    if len(member) == units * each:
        return inverse.contiguous(), weight.contiguous()
    counts = torch.bincount(member, minlength=units)
    slot = torch.arange(len(member)) - (counts.cumsum(0) - counts)[member]
    place = member * each + slot
    wide = torch.eye(units * each, dtype=inverse.dtype)
    wide[place[:, None], place] = inverse
    padded = weight.new_zeros(units * each, weight.shape[1])
    padded[place] = weight
    return wide, padded


def _square(layer: nn.Module, arrived: Sequence[Arrival], seed: int) -> tuple[Tensor, int]:
    """Return ``X'X`` of the inputs without their means, as a bias makes up for those, and the number of rows."""
    total = sum(len(it.tensor) for it in arrived)
    wanted = rows.wanted(layer)
    moments: Moments | None = None
    sums: Tensor | None = None
    for it in arrived:
        places = rows.Places(layer, it.tensor, max(1, wanted * len(it.tensor) // total), seed * 1009 + it.batch)
        found = places.inputs(layer, it.tensor)
        more = Moments.of(found, found.new_zeros(*found.shape[:2], 0))
        sums = found.sum(1).double().cpu() if sums is None else sums + found.sum(1).double().cpu()
        if moments is None:
            moments = more
        else:
            moments.add(more)
    assert moments is not None
    assert sums is not None
    return moments.square - sums[:, :, None] * sums[:, None, :] / moments.rows, moments.rows


def _curve(survey: _Survey, group: Group, scores: Tensor | None, at: int = 0) -> tuple[list[int], list[float]]:
    readers: list[Reader] = []
    for part in survey.parts.pop(group.name, []):
        variance = survey.spreads[part.where].variance(part.scale) if part.where in survey.spreads else 0.0
        part.reader.scale = float(part.rows) if survey.influence else max(variance * part.rows, 1e-30)
        readers.append(part.reader)
    order = None if scores is None else torch.argsort(scores.double(), stable=True).tolist()
    if not readers:
        raise NotImplementedError(group.name)
    return eliminate(readers, group.size, order=order, snap=at)

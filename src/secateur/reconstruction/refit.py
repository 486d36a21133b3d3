"""Fit every layer of a pruned network, first to last, to what the dense network has there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, staying
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.events import Event, Tell, ignore
from secateur.reconstruction import rows
from secateur.reconstruction.curves import one
from secateur.reconstruction.least_squares import Fit, Solution
from secateur.reconstruction.passes import Arrival, Passes
from secateur.reconstruction.sites import Place, Site, is_layer, norm_scale, sites, together

NOTHING = 1e-10
"""Share of the squared outputs below which nothing is missing."""


@dataclass
class _Pending:
    """A layer that waits for the sum that it is part of.

    Attributes:
        site: the layer.
        inputs: its rows of inputs, for each batch.
        given: what it was given, for each batch, with the version of that tensor.
    """

    site: Site
    inputs: list[Tensor]
    given: list[tuple[Tensor, int]]


@dataclass
class _State:
    dense: nn.Module
    thin: nn.Module
    kept: dict[str, Tensor]
    seed: int
    count: int
    places: dict[tuple[str, int], rows.Places] = field(default_factory=dict[tuple[str, int], rows.Places])
    wanted: dict[tuple[str | Place, int], Tensor] = field(default_factory=dict["tuple[str | Place, int]", Tensor])


def refit(
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    batches: Sequence[Inputs],
    *,
    seed: int = 0,
    tell: Tell = ignore,
    choose: Any = None,
) -> tuple[str, ...]:
    """Fit each layer of the pruned network to the outputs of the dense one, in the order in which they run.

    Inputs are those of the pruned network as fitted so far. A layer at the end of a residual branch is fitted to what
    the sum lacks, so that it also repairs the stream.

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
    """
    found = [site for site in sites(dense, one(batches[0])) if _same(dense, thin, site)]
    keep = graph.kept(plan)
    kept: dict[str, Tensor] = {}
    for site in found:
        tensor = f"{site.layer}.weight"
        shape, dims = graph.tensors.get(tensor, (tuple(dense.get_submodule(site.layer).weight.shape), (None, None)))
        kept[site.layer] = torch.ones(shape[0], dtype=torch.bool) if dims[0] is None else staying(dims[0], keep)
    count = sum(len(next(iter_tensors(batch))) for batch in batches)
    state = _State(dense, thin, kept, seed, count)
    state.choose = choose or {}
    state.chosen = {}
    done = _run(state, found, batches, tell)
    return (done, state.chosen) if choose else done


def iter_tensors(inputs: Any) -> Any:
    from secateur.measure.forward import tensors

    return tensors(inputs)


def _same(dense: nn.Module, thin: nn.Module, site: Site) -> bool:
    try:
        return is_layer(thin.get_submodule(site.layer))
    except AttributeError:
        return False


def _run(state: _State, found: list[Site], batches: Sequence[Inputs], tell: Tell) -> tuple[str, ...]:
    by_name = {site.layer: site for site in found}
    meeting = together(found)

    def heard(where: str | Place, batch: int, made: Tensor) -> None:
        names = [where] if isinstance(where, str) else [site.layer for site in meeting[where]]
        if isinstance(where, str) and by_name[where].add is not None:
            return
        name = names[0]
        layer = state.dense.get_submodule(name)
        state.wanted[where, batch] = state.places[name, batch].outputs(layer, made)[:, state.kept[name].to(made.device)]

    def deaf(where: str | Place, batch: int, made: Tensor) -> None:
        return

    changed: list[str] = []
    pending: dict[Place, list[_Pending]] = {}
    before = Passes(state.dense, found, batches, heard)
    after = Passes(state.thin, found, batches, deaf, behind=meeting)
    number = 0
    with before.running() as advance_dense, after.running() as advance_thin:
        waiting = advance_dense()
        while arrived := advance_thin():
            where = arrived[0].where
            if isinstance(where, str):
                tell(Event("reconstruct", f"fitting {where}", number / len(found)))
                number += 1
                site = by_name[where]
                _draw(state, site, meeting, waiting, number)
                waiting = advance_dense()
                if site.add is None:
                    changed += _fit_alone(state, site, arrived)
                else:
                    pending.setdefault(site.add, []).append(_wait(state, site, arrived))
            else:
                changed += _fit_sum(state, pending.pop(where), arrived)
    return tuple(changed)


def _draw(state: _State, site: Site, meeting: dict[Place, list[Site]], waiting: Sequence[Arrival], number: int) -> None:
    """Draw the places of a layer; layers whose outputs meet share them."""
    if site.add is not None and any((other.layer, 0) in state.places for other in meeting[site.add]):
        first = next(other for other in meeting[site.add] if (other.layer, 0) in state.places)
        for it in waiting:
            state.places[site.layer, it.batch] = state.places[first.layer, it.batch]
        return
    layers = [site] if site.add is None else meeting[site.add]
    wanted = max(rows.wanted(state.thin.get_submodule(other.layer)) for other in layers)
    layer = state.dense.get_submodule(site.layer)
    for it in waiting:
        some = max(1, wanted * len(it.tensor) // state.count)
        state.places[site.layer, it.batch] = rows.Places(layer, it.tensor, some, state.seed + number * 1009 + it.batch)


def _wait(state: _State, site: Site, arrived: Sequence[Arrival]) -> _Pending:
    layer = state.thin.get_submodule(site.layer)
    inputs = [state.places[site.layer, it.batch].inputs(layer, it.tensor) for it in arrived]
    return _Pending(site, inputs, [(it.tensor, it.tensor._version) for it in arrived])  # pyright: ignore


def _fit_alone(state: _State, site: Site, arrived: Sequence[Arrival]) -> list[str]:
    layer: Any = state.thin.get_submodule(site.layer)
    fit, total, lacking = Fit(), 0.0, 0.0
    offset = has_offset(state.thin, site)
    for it in arrived:
        places = state.places.pop((site.layer, it.batch))
        x = places.inputs(layer, it.tensor)
        wanted = state.wanted.pop((site.layer, it.batch))
        missing = wanted - put_out(layer, x)
        total += float(wanted.square().sum())
        lacking += float(missing.square().sum())
        fit.add(with_one(x, offset), by_group(missing, rows.groups(layer)), places.image)
    if lacking <= NOTHING * total:
        return []
    solution = fit.solve()
    if solution is None:
        return []
    give(state.thin, site, solution, offset)
    return [site.layer]


def _fit_sum(state: _State, waiting: list[_Pending], arrived: Sequence[Arrival]) -> list[str]:
    """Fit the layers that meet in a sum, one after the other, to what the sum lacks."""
    place = waiting[0].site.add
    assert place is not None
    first: Any = state.thin.get_submodule(waiting[0].site.layer)
    lacking: list[Tensor] = []
    total = 0.0
    for it in arrived:
        wanted = state.wanted.pop((place, it.batch))
        lacking.append(wanted - state.places[waiting[0].site.layer, it.batch].outputs(first, it.tensor))
        total += float(wanted.square().sum())
    changed: list[str] = []
    for turn in waiting:
        if turn.site.layer not in state.choose and sum(float(missing.square().sum()) for missing in lacking) <= NOTHING * total:
            break
        if _fit_part(state, turn, lacking, arrived):
            changed.append(turn.site.layer)
    for turn in waiting:
        for it in arrived:
            state.places.pop((turn.site.layer, it.batch), None)
    return changed


def _fit_part(state: _State, turn: _Pending, lacking: list[Tensor], arrived: Sequence[Arrival]) -> bool:
    layer: Any = state.thin.get_submodule(turn.site.layer)
    scale = norm_scale(state.thin, turn.site, len(layer.weight))
    used = scale.abs() > 1e-8 * scale.abs().max()
    by = torch.where(used, 1 / torch.where(used, scale, torch.ones_like(scale)), torch.zeros_like(scale))
    offset = has_offset(state.thin, turn.site)
    fit = Fit()
    for it, x, missing in zip(arrived, turn.inputs, lacking, strict=True):
        image = state.places[turn.site.layer, it.batch].image
        fit.add(with_one(x, offset), by_group(missing * by.to(missing), rows.groups(layer)), image)
    if turn.site.layer in state.choose:
        _choose(state, turn.site.layer, fit, layer, scale)
    solution = fit.solve()
    if solution is None:
        print('none', turn.site.layer)
        return False
    weight, bias = give(state.thin, turn.site, solution, offset)
    if turn.site.layer in state.choose:
        cols, Wd = state.zeroed
        weight = weight.clone()
        weight.view(len(weight), -1)[:, cols] -= Wd.T
    for it, (given, version), x in zip(arrived, turn.given, turn.inputs, strict=True):
        more = x @ weight.flatten(1).view(rows.groups(layer), -1, x.shape[2]).transpose(1, 2).to(x)
        risen = more.transpose(0, 1).flatten(1) + (0 if bias is None else bias.to(x))
        lacking[it.batch] = lacking[it.batch] - risen * scale.to(risen)
        if given._version == version:  # pyright: ignore
            made = rows.change(layer, given, weight.to(given), None if bias is None else bias.to(given))
            made *= (scale[:, None, None] if made.dim() == 4 and isinstance(layer, nn.Conv2d) else scale).to(made)
            it.tensor.add_(made)
    return True


def _choose(state, name, fit, layer, scale):
    """choose units in context and take their columns out of the problem"""
    from secateur.reconstruction.elimination import Reader, eliminate
    from secateur.reconstruction.least_squares import ridged
    group, k = state.choose[name]
    taps = layer.weight[0, 0].numel()
    full = fit.known.square + fit.held.square
    prod = fit.known.product + fit.held.product
    H = ridged(full, 1e-3)[0]
    W0 = layer.weight.detach().flatten(1).double().T  # cols, outs
    n = len(W0)
    delta = torch.linalg.solve(H, prod[0])
    W = (W0 + delta[:n]) * scale[None]
    inv = torch.linalg.inv(H)
    gone, _ = eliminate([Reader(inv[:n, :n].clone(), W.clone(), 1.0)], group.size, least=k)
    state.chosen[group.name] = gone
    cols = (torch.tensor(gone, dtype=torch.long)[:, None] * taps + torch.arange(taps)).flatten()
    with torch.no_grad():
        flat = layer.weight.flatten(1)
        Wd = flat[:, cols].double().T  # to be zeroed
        state.zeroed = (cols, Wd)
        layer.weight.view(len(layer.weight), -1)[:, cols] = 0
    for m in (fit.known, fit.held):
        m.product += m.square[:, :, cols] @ Wd
        # E' = E + X_d W_d
        m.missing += (2 * (Wd[None] * (m.product[:, cols] - m.square[:, cols][:, :, cols] @ Wd)).sum(1) + (Wd[None] * (m.square[:, cols][:, :, cols] @ Wd)).sum(1))
        m.square[:, cols] = 0
        m.square[:, :, cols] = 0
        m.square[:, cols, cols] = 1.0
        m.product[:, cols] = 0


def put_out(layer: Any, inputs: Tensor) -> Tensor:
    """Return the outputs, ``(rows, outputs)``, of rows of inputs ``(groups, rows, columns)``."""
    weight = layer.weight.detach().flatten(1)
    made = inputs @ weight.view(len(inputs), -1, weight.shape[1]).transpose(1, 2)
    made = made.transpose(0, 1).flatten(1)
    return made if layer.bias is None else made + layer.bias.detach()


def by_group(missing: Tensor, groups: int) -> Tensor:
    """Turn ``(rows, outputs)`` into ``(groups, rows, outputs of a group)``."""
    return missing.view(len(missing), groups, -1).transpose(0, 1)


def with_one(inputs: Tensor, offset: bool) -> Tensor:
    """Add a column of ones for a bias."""
    return torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], 2) if offset else inputs


def has_offset(thin: nn.Module, site: Site) -> bool:
    """Tell whether there is a bias, or a running mean that can stand in for one."""
    return bool(site.norm) or getattr(thin.get_submodule(site.layer), "bias", None) is not None


def give(thin: nn.Module, site: Site, solution: Solution, offset: bool) -> tuple[Tensor, Tensor | None]:
    """Change the weights, in place, and return by how much, in their shapes."""
    layer: Any = thin.get_submodule(site.layer)
    change = solution.change.transpose(1, 2)  # (groups, outputs, columns)
    bias = change[:, :, -1].flatten() if offset else None
    weight = (change[:, :, :-1] if offset else change).reshape(layer.weight.shape)
    with torch.no_grad():
        layer.weight += weight.to(layer.weight)
        if bias is not None and layer.bias is not None:
            layer.bias += bias.to(layer.bias)
        elif bias is not None:
            norm: Any = thin.get_submodule(site.norm)
            norm.running_mean -= bias.to(norm.running_mean)
    return weight, bias

"""Silence units reversibly, and keep what is silenced at zero while a network trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.channel_statistics import over_kept
from secateur.core.graph import Graph, staying, tensor_of
from secateur.core.interrupts import deferred
from secateur.core.plan import Plan, ZeroWeights
from secateur.core.sizes.regrouped import layouts
from secateur.core.sizes.size import zero_masks
from secateur.core.surgery.regrouping import held
from secateur.core.surgery.removal import check
from secateur.core.surgery.untouched import Unwritten
from secateur.core.zeros.shaper import Moment, Shaper


@checked
@contextlib.contextmanager
def masked(model: nn.Module, graph: Graph, plan: Plan) -> Generator[nn.Module]:
    """Silence what the plan removes, inside the model itself; on leaving, restore every bit.

    A graph of autograd that was made before can then go backward, unless somebody else has written into the weights.

    The weights that read a removed unit are zeroed, so that in evaluation mode the model computes exactly what
    the thin network computes, whatever the activation functions; means and norms over channels are taken over the
    kept ones.

    Raises:
        PlanError: if the plan does not belong to the network.
    """
    keep = graph.kept(plan)
    check(model, graph, keep, plan)
    restore: list[Callable[[], object]] = []
    try:
        with deferred, torch.no_grad():
            for name, positions in _silenced(graph, plan, keep).items():
                restore.append(_zero(tensor_of(model, name), positions))
        with over_kept(model, graph.statistics, keep):
            yield model
    finally:
        with deferred, torch.no_grad():
            for undo in reversed(restore):
                undo()


def _zero(tensor: Tensor, positions: Tensor) -> Callable[[], object]:
    """Zero a tensor at some positions, and return what undoes it; only what lies there is kept aside if it can be."""
    gone, unwritten = positions.to(tensor.device), Unwritten(tensor)
    dims = [dim for dim, size in enumerate(gone.shape) if size > 1]
    if len(dims) != 1:
        values = tensor.clone()
        tensor.masked_fill_(gone, 0.0)
        restore = partial(tensor.copy_, values)
    else:
        where = torch.nonzero(gone.flatten()).flatten()
        values = tensor.index_select(dims[0], where)
        tensor.index_fill_(dims[0], where, 0.0)
        restore = partial(tensor.index_copy_, dims[0], where, values)
    unwritten.mark()

    def undo() -> None:
        alone = unwritten.since()
        restore()
        if alone:
            unwritten.again()

    return undo


def _silenced(graph: Graph, plan: Plan, keep: Tensor) -> dict[str, Tensor]:
    """Return for each weight to change the positions to zero (boolean, broadcastable to its shape)."""
    positions: dict[str, Tensor] = {}
    directions = {each.direction for each in graph.gains}  # whose lengths must stay: what they make is silenced
    for name, roles in graph.roles.items():
        if name in directions:
            continue
        shape, dims = graph.tensors[name]
        for d, (role, units) in enumerate(zip(roles, dims, strict=True)):
            if role != "reads" or units is None:
                continue
            gone = ~staying(units, keep)
            if bool(gone.any()):
                gone = gone.reshape([-1 if i == d else 1 for i in range(len(shape))])
                positions[name] = positions[name] | gone if name in positions else gone
    everything = torch.ones(graph.units, dtype=torch.bool)
    silenced = [(name, ~mask) for name, mask in zero_masks(graph, plan, everything).items()]
    for layer, layout in layouts(graph, plan).items():
        kernel = len(graph.tensors[f"{layer}.weight"][0]) - 2
        silenced.append((f"{layer}.weight", ~layout.mask().reshape(layout.outputs, layout.inputs, *[1] * kernel)))
    for name, gone in silenced:
        positions[name] = positions[name] | gone if name in positions else gone
    return positions


def changed(graph: Graph, plan: Plan) -> frozenset[str]:
    """Return the names of the weights in which silencing sets something to zero."""
    return frozenset(_silenced(graph, plan, graph.kept(plan)))


def silencing(graph: Graph, plan: Plan) -> Plan:
    """Return the plan that sets to zero what ``masked`` sets to zero, and removes nothing.

    Where ``graph.statistics`` run over dropped units it is not the same network, since zeros count in a mean.
    """
    positions = _silenced(graph, plan, graph.kept(plan))
    return Plan(tuple(ZeroWeights.of(name, ~gone.expand(graph.tensors[name][0])) for name, gone in positions.items()))


class Hold(Shaper):
    """Keeps silenced weights at zero while a network trains, whatever the optimizer does to them.

    Args:
        model: the network that trains.
        masks: for each tensor by its name, what stays (True) and what is held.
        inner: another shaper, which acts first; None for none.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], inner: Shaper | None = None) -> None:
        self._inner = inner or Shaper()
        self._pairs = [pair for name, mask in masks.items() for pair in held(model, name, mask)]
        self._pairs = [(tensor, mask.to(tensor.device, tensor.dtype)) for tensor, mask in self._pairs]

    def before_batch(self, moment: Moment) -> None:
        """Let the inner shaper act."""
        self._inner.before_batch(moment)

    def penalty(self) -> Tensor | None:
        """Return that of the inner shaper."""
        return self._inner.penalty()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return that of the inner shaper: the zeros are in the network itself."""
        return self._inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give it to the inner shaper."""
        self._inner.load_state_dict(state)

    def after_step(self, step: int) -> None:
        """Set the silenced weights back to zero."""
        self._inner.after_step(step)
        with torch.no_grad():
            for tensor, mask in self._pairs:
                tensor.mul_(mask.to(tensor.device))


@checked
def hold(thin: nn.Module, graph: Graph, plan: Plan) -> Hold:
    """Return a shaper that keeps the zeros of an applied plan through training.

    Args:
        thin: the network that ``apply`` returned.
        graph: the graph of the dense network.
        plan: the plan that was applied.
    """
    return Hold(thin, zero_masks(graph, plan, graph.kept(plan)))


def zeros_left(thin: nn.Module, graph: Graph, plan: Plan) -> Plan:
    """Return the plan that keeps at zero, in the thin network, what an applied plan has set to zero in it.

    It belongs to the thin network's own graph: with it, a later plan silences, holds and counts these zeros too.

    Args:
        thin: the network that ``apply`` returned.
        graph: the graph of the dense network.
        plan: the plan that was applied.
    """
    edits: list[ZeroWeights] = []
    names = {**dict(thin.named_buffers()), **dict(thin.named_parameters(remove_duplicate=False))}
    for name, mask in zero_masks(graph, plan, graph.kept(plan)).items():
        for tensor, part in held(thin, name, mask):
            place = name if names.get(name) is tensor else next(own for own, t in names.items() if t is tensor)
            if not bool(part.all()):
                edits.append(ZeroWeights.of(place, part.expand(tensor.shape)))
    return Plan(tuple(edits))

"""Changes of a plan that leave as much in every layer: exchanges inside a layer, and layers of two plans mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Edit, Plan, ZeroWeights
from secateur.core.zeros import kernel_patterns, patterns
from secateur.errors import PlanError

Zeroed = Literal["kernels", "strided"]


def crossed(one: Plan, other: Plan, chance: float, rng: torch.Generator) -> Plan:
    """Return a plan with some layers of another one.

    Args:
        one: a plan that changes each group or tensor at most once.
        other: a plan that changes the same ones.
        chance: with which a layer is that of the other plan.
        rng: the randomness.

    Raises:
        PlanError: if both do not change the same.
    """
    theirs = {place_of(edit): edit for edit in other.edits}
    if [place_of(edit) for edit in one.edits] != list(theirs):
        raise PlanError("plans can be mixed only where they change the same groups and tensors, each once")
    taken = (torch.rand(len(one.edits), generator=rng) < chance).tolist()
    pairs = zip(one.edits, taken, strict=True)
    return replace(one, edits=tuple(theirs[place_of(edit)] if take else edit for edit, take in pairs))


def swapped(
    graph: Graph, plan: Plan, share: float, rng: torch.Generator, what: Zeroed, alive: Mapping[str, Tensor]
) -> Plan:
    """Return a plan in which some of what goes and of what stays have changed places, inside each layer.

    In each layer about this share of what is the fewer of both changes places; something does in any case, if anything
    can.

    Args:
        graph: the network.
        plan: that drops units, or zeroes kernels or positions of strided kernels.
        share: in (0, 1].
        rng: the randomness.
        what: a mask of weights consists of.
        alive: for each weight, which kernels are not zero already, ``shape[:2]``; the others stay zero.
    """
    edits = list(plan.edits)
    turn = torch.randperm(len(edits), generator=rng).tolist()
    for place in turn:
        edits[place] = _moved(graph, edits[place], share, rng, what, alive)
    changed = replace(plan, edits=tuple(edits))
    if changed == plan and edits:
        edits[turn[0]] = _moved(graph, edits[turn[0]], 0.0, rng, what, alive, least=1)
        changed = replace(plan, edits=tuple(edits))
    return changed


def place_of(edit: Edit) -> str:
    """Return the group, tensor or layer that an edit changes."""
    return edit.group if isinstance(edit, DropUnits) else edit.tensor if isinstance(edit, ZeroWeights) else edit.layer


def _moved(
    graph: Graph,
    edit: Edit,
    share: float,
    rng: torch.Generator,
    what: Zeroed,
    alive: Mapping[str, Tensor],
    least: int = 0,
) -> Edit:
    if isinstance(edit, DropUnits):
        keep = torch.ones(graph.group(edit.group).size, dtype=torch.bool)
        keep[list(edit.units)] = False
        keep = _exchanged(keep, torch.ones_like(keep), share, rng, least)
        return DropUnits(edit.group, tuple(torch.nonzero(~keep).flatten().tolist()))
    assert isinstance(edit, ZeroWeights)
    mask = edit.mask()
    if what == "kernels":
        keep = patterns.by_kernel(mask).any(2)
        keep = _exchanged(keep.flatten(), alive[edit.tensor].flatten(), share, rng, least).reshape(keep.shape)
        return ZeroWeights.of(edit.tensor, patterns.kernel_mask(edit.shape, keep))
    maps = kernel_patterns.owners(graph, edit.tensor, "input").flatten()
    kernels = patterns.by_kernel(mask).flatten(0, 1)
    shared = kernels.new_zeros(int(maps.max()) + 1, kernels.shape[1])
    shared[maps] = kernels  # all kernels that leave a map have one pattern
    pairs = min(max(least, _about(share * len(shared) / 2, rng)), len(shared) // 2)
    first, second = torch.randperm(len(shared), generator=rng)[: 2 * pairs].reshape(2, pairs)
    shared[torch.cat([first, second])] = shared[torch.cat([second, first])]
    return ZeroWeights.of(edit.tensor, shared[maps].reshape(mask.shape))


def _exchanged(keep: Tensor, free: Tensor, share: float, rng: torch.Generator, least: int) -> Tensor:
    stays, goes = torch.nonzero(keep & free).flatten(), torch.nonzero(~keep & free).flatten()
    fewer = min(len(stays), len(goes))
    count = min(max(least, _about(share * fewer, rng)), fewer)
    keep = keep.clone()
    keep[stays[torch.randperm(len(stays), generator=rng)[:count]]] = False
    keep[goes[torch.randperm(len(goes), generator=rng)[:count]]] = True
    return keep


def _about(number: float, rng: torch.Generator) -> int:
    """Return a number rounded up as often as it lies above the whole number below it."""
    return math.floor(number + float(torch.rand((), generator=rng, dtype=torch.float64)))

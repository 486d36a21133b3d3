"""How many single weights go from each layer, for methods that set weights to zero, and the plan of the smallest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, layer_of, tensor_of
from secateur.core.plan import Plan, ZeroWeights
from secateur.core.selection import goals, uniform_shares
from secateur.core.sizes.size import Target
from secateur.core.zeros import patterns
from secateur.core.zeros.masks import smallest
from secateur.errors import SettingError, TargetError


def check_ratio(ratio: float | None, name: str = "ratio") -> None:
    """Refuse a share that takes everything.

    Raises:
        SettingError: unless it is None or in [0, 1).
    """
    if ratio is not None and not 0.0 <= ratio < 1.0:
        raise SettingError(f"{name} must be in [0, 1), not {ratio}: it is the share that goes")


def check_said(target: Target | None, ratio: float | None) -> None:
    """Refuse a run that does not say how much goes, says it twice, or in a size that zeroed weights do not change.

    Raises:
        SettingError: if both are given.
        TargetError: if none is, or the target is not in nonzero.
    """
    goals.check_said(target, ratio, "ratio", "the ratio of each layer")
    goals.check_zeros(target, "weights")


def weights_of(graph: Graph, *, stem: bool, last: bool) -> tuple[str, ...]:
    """Return the weights that may be thinned out, in the order of execution, linear layers included.

    Args:
        graph: the network.
        stem: whether the first convolution is among them.
        last: whether the layer that runs last is.
    """
    names = patterns.maskable(graph, stem=stem, linear=True)
    end = [name for name, roles in graph.roles.items() if {"makes", "reads"} <= set(roles)][-1:]
    return tuple(name for name in names if last or name not in end)


def down(ratio: float, total: int) -> int:
    """Return the ratio of a total, rounded down, which leaves something of every layer."""
    return math.floor(ratio * total + 1e-9)


def counts(
    graph: Graph,
    names: Iterable[str],
    target: Target | None,
    ratio: float | None,
    number: Callable[[float, int], int] = down,
) -> dict[str, int]:
    """Return how many weights go from each layer: the same share of all.

    Args:
        graph: the network.
        names: of the weights.
        target: in nonzero; None where the ratio decides.
        ratio: share that goes from each layer; None where the target decides.
        number: what a ratio of a total is.

    Raises:
        TargetError: if the target is out of reach, or no layer can lose weights.
    """
    totals = {name: math.prod(graph.tensors[name][0]) for name in names}
    if target is not None:
        return uniform_shares.enough(graph, target, totals, dict.fromkeys(totals, 1))
    if not totals:
        raise TargetError("no weights can go but those of the layers that are left alone", 1.0)
    return {name: number(ratio or 0.0, total) for name, total in totals.items()}


def over_all(graph: Graph, names: Iterable[str], target: Target) -> int:
    """Return how many weights a target takes from these layers together, each of which keeps at least one.

    Raises:
        TargetError: if it is out of reach.
    """
    totals = {name: math.prod(graph.tensors[name][0]) for name in names}
    return uniform_shares.zeros_for(graph, target, totals, dict.fromkeys(totals, 1))


def lowest_over_all(ranks: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return which weights stay when so many of the lowest over all layers go.

    Args:
        ranks: of each weight; inf for one that never goes.
        count: how many go.
    """
    flat = torch.cat([rank.flatten() for rank in ranks.values()] or [torch.zeros(0)])
    parts = smallest(flat, count).split([rank.numel() for rank in ranks.values()])
    return {name: part.reshape(rank.shape) for (name, rank), part in zip(ranks.items(), parts, strict=True)}


def refuse_unsound(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse weights that cannot be ranked, or beside which all others are nothing.

    Raises:
        SettingError: naming the first layer.
    """
    for name in names:
        if not bool(tensor_of(model, name).detach().isfinite().all()):
            raise SettingError(
                f"the weights of '{layer_of(name)}' contain NaN or infinity; they cannot be ranked by size"
            )


def zeroing(keeps: Mapping[str, Tensor]) -> Plan:
    """Return the plan that sets to zero what does not stay."""
    masks = {name: keep.cpu() for name, keep in keeps.items()}
    return Plan(tuple(ZeroWeights.of(name, keep) for name, keep in masks.items() if not bool(keep.all())))


def smallest_go(model: nn.Module, numbers: Mapping[str, int]) -> Plan:
    """Return the plan that sets so many of the smallest weights of each layer to zero; zeros are the smallest.

    Raises:
        SettingError: if a weight is not a number.
    """
    refuse_unsound(model, numbers)
    return zeroing({name: smallest(tensor_of(model, name).detach().abs(), n) for name, n in numbers.items()})

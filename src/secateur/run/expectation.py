"""How much faster a network will get, said before the work where it is far from what the MACs promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.limits import BLOCK, Limits
from secateur.core.select import family, meet, plan_of
from secateur.core.size import Target, size
from secateur.errors import TargetError
from secateur.measure import Runtime, side_by_side
from secateur.measure.forecast import Forecast, LayerTime
from secateur.measure.forward import device_of
from secateur.measure.layer_table import LayerTable

FAR = 0.75
"""A warning is due where the speed-up is below this share of the ratio of the MACs."""

_WORTH_A_WORD = 2.0  # milliseconds; faster networks are at the mercy of overheads that no layer's time shows
_ABSURD = 0.5  # fewer MACs never take twice the time; another program has taken it
_LEAST_RATIO = 1.2
_BETTER = 1.1
_MULTIPLES = (8, 16, 32)


@dataclass(frozen=True)
class Expectation:
    """What the layers' times promise for a target, with the same share of every group removed.

    Attributes:
        macs: how many times fewer MACs.
        speedup: how many times faster.
        runtime: in what.
        reasons: why the second is less than the first; the heaviest reason first.
    """

    macs: float
    speedup: float
    runtime: Runtime
    reasons: tuple[str, ...]

    @property
    def far(self) -> bool:
        """Whether the speed-up is far from the ratio of the MACs."""
        return self.macs >= _LEAST_RATIO and self.speedup < FAR * self.macs

    def sentence(self) -> str:
        """Return the warning."""
        why = "; ".join(self.reasons) or "its layers do not get faster in proportion"
        return (
            f"expect about {self.speedup:.1f} times the speed in {self.runtime} here, although the MACs fall "
            f"{self.macs:.1f} times: {why}"
        )


def expect(
    model: nn.Module, graph: Graph, inputs: Any, target: Target, limits: Limits, runtime: Runtime = "eager"
) -> Expectation | None:
    """Foretell the speed-up of a target from the times of layers on this machine.

    The method is not asked, for it may need hours: widths are taken to shrink evenly.

    Returns:
        None where the network is too fast or the machine too busy to tell, or the target cannot be met evenly.

    Raises:
        ModelError: if the network does not run.
    """
    threads = torch.get_num_threads()
    timed = side_by_side({"dense": model}, inputs, runtime, seconds=0.3)
    whole = timed.latencies["dense"].milliseconds
    if whole < _WORTH_A_WORD:
        return None
    forecast = Forecast.of(model, graph, inputs, LayerTable.here(runtime, threads, device_of(model)), whole)
    keep = _evenly(graph, target, limits)
    if keep is None:
        return None
    share = _macs(graph, keep)
    speedup = whole / forecast.milliseconds(keep)
    if speedup < _ABSURD:
        return None
    reasons: list[str] = []
    if not Expectation(1 / share, speedup, runtime, ()).far:
        forecast.table.save()
        return Expectation(1 / share, speedup, runtime, ())
    if forecast.rest > 0.2:
        reasons.append(
            f"{forecast.rest:.0%} of its time is not in convolutions but in normalisation, activations and the like"
        )
    reasons += _odd_widths(forecast, target, limits, share * speedup)
    reasons += _bound_by_memory(forecast.layers(keep))
    return Expectation(1 / share, speedup, runtime, tuple(reasons))


def _evenly(graph: Graph, target: Target, limits: Limits) -> Tensor | None:
    scores = {group.name: torch.zeros(group.size) for group in graph.free}
    try:
        return graph.kept(meet(graph, partial(family, graph, scores, "uniform"), target, limits))
    except TargetError:
        return None


def _macs(graph: Graph, keep: Tensor) -> float:
    return size(graph, plan_of(graph, keep)).macs / max(1, size(graph).macs)


def _odd_widths(forecast: Forecast, target: Target, limits: Limits, worth: float) -> list[str]:
    """Say which multiple of widths would be faster for the same MACs, if one is."""
    found: list[tuple[float, int]] = []
    own = BLOCK if limits.multiple == "auto" else limits.multiple
    for multiple in _MULTIPLES:
        if multiple <= own or multiple % own:
            continue
        keep = _evenly(forecast.graph, target, replace(limits, multiple=multiple))
        if keep is not None:
            # speed for each MAC that is left: a coarser grid may fall below the target
            found.append((_macs(forecast.graph, keep) * forecast.whole / forecast.milliseconds(keep), multiple))
    forecast.table.save()
    best = max(found, default=(0.0, 0))
    if best[0] < _BETTER * worth:
        return []
    return [f"odd widths are slow here; widths in multiples of {best[1]} (--multiple {best[1]}) help"]


def _bound_by_memory(layers: Sequence[LayerTime]) -> list[str]:
    """Name the layers whose time falls much less than their MACs and that weigh the most in the end."""
    after = sum(layer.after for layer in layers)
    slow = [
        layer
        for layer in layers
        if layer.thin.macs < layer.dense.macs and layer.before / layer.after < FAR * layer.dense.macs / layer.thin.macs
    ]
    slow.sort(key=lambda layer: -layer.after)
    weight = sum(layer.after for layer in slow) / after if after else 0.0
    if weight < 0.2:
        return []
    names = ", ".join(layer.name for layer in slow[:3]) + (f" and {len(slow) - 3} more" if len(slow) > 3 else "")
    return [f"{names} are bound by memory or overhead, with {weight:.0%} of what the layers take in the end"]

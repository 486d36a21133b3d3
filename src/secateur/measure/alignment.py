"""Which multiples of channels run fast here: the static rule, corrected by layers that are timed.

Kernels compute channels in blocks, so that the time of a layer is a staircase in its widths. The rule of
``core.sizes.limits.static_multiple`` knows the blocks of common processors. Here each group's layers are
timed on and off the steps: a multiple is doubled where widths between are dear, and halved in small groups where they
cost nothing more.
The rule stands wherever the difference is small, so that noise does not decide.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from secateur.core.graph import Graph, Group
from secateur.core.sizes.limits import Limits, small, static_multiple
from secateur.events import Event, Tell, ignore
from secateur.measure.forecast import Forecast, LayerCall
from secateur.measure.machine import device_name

_SHARE = 0.7  # of the units, about which widths are tried: its square is half of the MACs
_DEAR = 1.1  # a width that costs so much more for each unit is worth avoiding
_FREE = 1.03  # one that costs no more than this is not
_MANY = 4  # multiples that a group has at least after doubling, or few widths would be left
_SMALL = 8  # a group of fewer multiples profits from finer ones
_LEAST = 8  # the rule's multiple in groups too small to matter


def measured_limits(forecast: Forecast, limits: Limits, *, tell: Tell = ignore) -> Limits:
    """Return limits with a multiple for each group that was found by timing the layers that make and read it.

    Args:
        forecast: of the dense network, with the table to look times up in; the table is saved.
        limits: with ``multiple="auto"``; others are returned as they are.
        tell: hears the progress.
    """
    if not limits.auto or not worth_timing(forecast.graph):
        return limits
    touching: dict[str, list[LayerCall]] = {}
    for call in forecast.calls:
        for name in forecast.groups_of(call.name):
            touching.setdefault(name, []).append(call)
    found: list[tuple[str, int]] = []
    for number, group in enumerate(forecast.graph.free):
        rule = static_multiple(group)
        if rule >= _LEAST and group.name in touching:
            tell(Event("layers", "timing layers on and off multiples", number, len(forecast.graph.free)))
            found.append((group.name, _Prices(forecast, group, touching[group.name]).multiple(rule)))
    forecast.table.save()
    source = f"layers timed in {forecast.table.runtime} on {device_name(forecast.table.device)}"
    return replace(limits, by_group=tuple(found), source=source)


def worth_timing(graph: Graph) -> bool:
    """Say whether a network has groups so wide that a multiple matters."""
    return any(static_multiple(group) >= _LEAST for group in graph.free)


class _Prices:
    """What a unit of one group costs at some widths, in milliseconds of all layers that the group touches.

    Args:
        forecast: gives times of layers.
        group: the group; all others keep their widths.
        calls: the layers.
    """

    def __init__(self, forecast: Forecast, group: Group, calls: list[LayerCall]) -> None:
        self.forecast, self.group, self.calls = forecast, group, calls

    def multiple(self, rule: int) -> int:
        """Return the rule's multiple, a larger one where that saves time, or a smaller one where that costs none."""
        multiple = rule
        while self.group.size >= _MANY * 2 * multiple and self.ratio(multiple, 2 * multiple) > _DEAR:
            multiple *= 2
        if multiple > rule:
            return multiple
        while multiple % 2 == 0 and multiple > 1 and self.group.size < _SMALL * multiple:
            if self.ratio(multiple // 2, multiple) > _FREE:
                break
            multiple //= 2
        return small(multiple, self.group.size)

    def ratio(self, fine: int, coarse: int) -> float:
        """Return the price of a unit at widths between two coarse multiples, relative to that at these multiples."""
        size = self.group.size
        between = _nearest_odd(fine, _SHARE * size, size)
        on = [width for width in (between - fine, between + fine) if 0 < width <= size and width % coarse == 0]
        if not on:
            return 1.0
        return self.price(between) / min(self.price(width) for width in on)

    def price(self, width: int) -> float:
        """Return the milliseconds for each unit when so many are left."""
        graph = self.forecast.graph
        keep = torch.ones(graph.units, dtype=torch.bool)
        first = graph.offsets[self.group.name]
        keep[first + width : first + self.group.size] = False
        table = self.forecast.table
        return sum(table.milliseconds(self.forecast.shape(call, keep)) for call in self.calls) / width


def _nearest_odd(multiple: int, wanted: float, size: int) -> int:
    """Return the odd multiple nearest to a width, below the size."""
    widths = range(multiple, size, 2 * multiple)
    return min(widths, key=lambda width: (abs(width - wanted), width), default=multiple)

"""How much a network suffers when one group alone loses its lowest units, and what follows for the others.

With a curve for each group, units go in the order of the damage that their group has taken by then. Wherever such an
order is cut, all groups have taken the same damage, as far as widths allow.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from torch import Tensor

from secateur.core.graph import Graph, Group
from secateur.core.metric import Metric
from secateur.core.plan import DropUnits, Plan
from secateur.core.selection.target_selection import Step, steps
from secateur.core.sizes.limits import Limits

Allocate = Literal["scope", "sensitivity", "latency", "reconstruction"]
LEVELS = 8
"""Points of a curve, the dense network not counted."""


@dataclass(frozen=True)
class Curve:
    """What happens to a network when one group alone loses its lowest units.

    Attributes:
        group: its name.
        layers: those that make its units.
        size: how many units it has.
        kept: units left at each point, the whole group first; falling.
        loss: of the network at each point, lower is better; infinite where it is not finite.
        values: the metric on the held-out examples at each point; empty where it was not measured.
        metric: what the values are; None for the share of images that are right.
    """

    group: str
    layers: tuple[str, ...]
    size: int
    kept: tuple[int, ...]
    loss: tuple[float, ...]
    values: tuple[float, ...] = ()
    metric: Metric | None = None

    def damage(self, gone: int) -> float:
        """Return by how much the loss has risen when so many units are gone; it never falls again."""
        return float(np.interp(gone, [self.size - kept for kept in self.kept], self.highest()))

    def most_gone(self, damage: float) -> int:
        """Return how many units may be gone at most, on the curve, before the loss has risen by more than this."""
        highest, gone = self.highest(), [self.size - kept for kept in self.kept]
        place = bisect.bisect_right(highest, damage)
        if place in (0, len(highest)):
            return gone[place - 1] if place else 0
        share = (damage - highest[place - 1]) / (highest[place] - highest[place - 1])
        return int(gone[place - 1] + share * (gone[place] - gone[place - 1]) + 1e-9)

    def highest(self) -> list[float]:
        """Return the highest rise of the loss up to each point."""
        rises = [min(loss, 1e30) - min(self.loss[0], 1e30) for loss in self.loss]
        return list(accumulate((max(0.0, rise) for rise in rises), max))

    def value_at(self, keep: float) -> float | None:
        """Return the metric with this fraction of the units, read off the curve; None beyond its end."""
        if not self.values or keep * self.size < self.kept[-1] - 1e-9:
            return None
        return float(np.interp(keep * self.size, self.kept[::-1], self.values[::-1]))

    def is_measured(self, keep: float) -> bool:
        """Tell whether there is a point with this fraction of the units, so that nothing has to be read between two."""
        return any(abs(keep * self.size - kept) < 1e-9 for kept in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; None for a loss that is not finite."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {**values, "loss": [loss if math.isfinite(loss) else None for loss in self.loss]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Curve:
        """Return the curve that ``to_dict`` was called on."""
        return Curve(
            group=str(values["group"]),
            layers=tuple(values["layers"]),
            size=int(values["size"]),
            kept=tuple(int(kept) for kept in values["kept"]),
            loss=tuple(math.inf if loss is None else float(loss) for loss in values["loss"]),
            values=tuple(float(each) for each in values.get("values", values.get("accuracy", ()))),
            metric=None if values.get("metric") is None else Metric(**values["metric"]),
        )


def points(group: Group, scores: Tensor, limits: Limits, levels: int = LEVELS) -> list[tuple[int, Plan]]:
    """Return at most so many numbers of units that a group may keep, evenly spaced, with the plans that do so.

    Args:
        group: the group.
        scores: ``(group.size,)``; low goes first.
        limits: floors and multiples; the last point leaves as few units as they allow.
        levels: number of points.
    """
    found = steps(group, scores, limits)
    gone = list(accumulate(len(step.units) for step in found))
    if not gone:
        return []
    wanted = [gone[-1] * level / levels for level in range(1, levels + 1)]
    places = dict.fromkeys(min(range(len(gone)), key=lambda i, w=want: abs(gone[i] - w)) for want in wanted)
    return [
        (
            group.size - gone[place],
            Plan((DropUnits(group.name, tuple(sorted(u for s in found[: place + 1] for u in s.units))),)),
        )
        for place in places
    ]


def by_damage(graph: Graph, scores: Mapping[str, Tensor], curves: Sequence[Curve], limits: Limits) -> list[Step]:
    """Order the steps of all groups by the damage that their group has taken after them.

    Any prefix of the result is a plan in which no group has taken more damage than a group that could lose one more
    step would then have taken. Steps that do no damage are ordered by the share of their group.

    Args:
        graph: the network.
        scores: for each group to prune, ``(size,)``.
        curves: of these groups.
        limits: floors and multiples.
    """
    known = {curve.group: curve for curve in curves}
    keyed: list[tuple[float, float, int, int, Step]] = []
    for place, group in enumerate(graph.free):
        if group.name not in scores or group.name not in known:
            continue
        gone = 0
        for step in steps(group, scores[group.name], limits):
            gone += len(step.units)
            keyed.append((known[group.name].damage(gone), gone / group.size, place, gone, step))
    keyed.sort(key=lambda item: item[:4])
    return [step for *_, step in keyed]

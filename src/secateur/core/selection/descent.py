"""Down the ladders of all groups, always where the least is lost for the cost that is saved.

Every group chooses one of its widths; what is lost and what is saved are added up. The Lagrangian relaxation of that
problem, a multiple-choice knapsack, is solved by going down the convex hull of each group, so that widths between which
nothing is saved are jumped over. As the cost of a layer depends on what makes its units and on what it reads, what a
step saves is looked up again when its turn comes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from secateur.core.graph import Group
from secateur.core.selection.target_selection import Step
from secateur.core.selection.width_ladders import Standing

_NOTHING = 1e-9
"""A share of the network's cost below which nothing is saved."""


def rungs_of(group: Group, found: Sequence[Step], multiple: int, most: int) -> tuple[tuple[Step, ...], ...]:
    """Put steps together so that at most so many widths are left, on a grid of round multiples, and the last.

    Args:
        group: the group.
        found: its steps, see ``steps``.
        multiple: of which its widths are multiples.
        most: number of widths.
    """
    widths = [group.size - gone for gone in accumulate(len(step.units) for step in found)]
    grain = multiple
    while sum(width % grain == 0 for width in widths[:-1]) >= most:
        grain *= 2
    rungs: list[list[Step]] = [[]]
    for step, width in zip(found, widths, strict=True):
        rungs[-1].append(step)
        if width % grain == 0:
            rungs.append([])
    return tuple(tuple(rung) for rung in rungs if rung)


class Descent:
    """A way from the whole network to the thinnest, step by step.

    Args:
        standing: all groups at place 0.
    """

    def __init__(self, standing: Standing) -> None:
        self.standing, self.ladders = standing, standing.ladders
        self.least = _NOTHING * standing.whole
        self.stops: Mapping[str, int] = {}

    def steps(self, by_way_of: Mapping[str, int] | None = None) -> list[Step]:
        """Return all steps in their order; those that save nothing come last.

        Args:
            by_way_of: places of all groups through which the way is to lead; None for none.
        """
        done: list[Step] = []
        if by_way_of is not None:
            done += self.down(by_way_of)
            done += [step for name in self.ladders for step in self._move(name, by_way_of[name])]
        return done + self.down({}) + self._rest()

    def down(self, stops: Mapping[str, int], goal: float = -math.inf) -> list[Step]:
        """Go down as long as something is saved, and return the steps.

        Args:
            stops: places further than which some groups do not go.
            goal: cost at which it is enough.
        """
        self.stops, names = stops, list(self.ladders)
        heap = [(self._best(name)[0], number) for number, name in enumerate(names)]
        heapq.heapify(heap)
        done: list[Step] = []
        while heap and self.standing.total > goal:
            _, number = heapq.heappop(heap)
            # its neighbours have become thinner since, so that it may save less than when it was put there
            ratio, to = self._best(names[number])
            if heap and ratio > heap[0][0]:
                heapq.heappush(heap, (ratio, number))
            elif ratio < math.inf:
                done += self._move(names[number], to)
                heapq.heappush(heap, (self._best(names[number])[0], number))
        return done

    def _best(self, name: str) -> tuple[float, int]:
        """Return what is lost for each unit of cost by the best jump from here, and where it leads."""
        ladder, here = self.ladders[name], self.standing.place[name]
        end = self.stops.get(name, len(ladder.rungs)) + 1
        if here + 1 >= end:
            return math.inf, here
        along = self.standing.along(name, here)
        saved = along[here] - along[here + 1 : end]
        lost = ladder.lost[here + 1 : end] - ladder.lost[here]
        ratios = np.where(saved > self.least, lost / np.maximum(saved, 1e-300), math.inf)
        best = int(ratios.argmin())
        return float(ratios[best]), here + 1 + best

    def _move(self, name: str, to: int) -> list[Step]:
        """Go down to a place; widths that were jumped over are no stops on the way."""
        passed = self.ladders[name].rungs[self.standing.place[name] : to]
        self.standing.move(name, to)
        if len(passed) <= 1:
            return [step for rung in passed for step in rung]
        return [Step(passed[0][0].group, tuple(unit for rung in passed for step in rung for unit in step.units))]

    def _rest(self) -> list[Step]:
        """Return what saves nothing, the least important first."""
        keyed: list[tuple[float, int, int, Sequence[Step]]] = []
        for number, (name, ladder) in enumerate(self.ladders.items()):
            here = self.standing.place[name]
            for place in range(here, len(ladder.rungs)):
                keyed.append((float(ladder.lost[place + 1] - ladder.lost[here]), number, place, ladder.rungs[place]))
        return [step for *_, rung in sorted(keyed, key=lambda each: each[:3]) for step in rung]

"""How many steps of an order a goal needs, and which of them are given back where units are coarse.

The steps of an order go one after the other until the goal is met. Where the last one takes more than is needed, those
come back that still fit, the last first. A unit that alone takes far more than is missing cannot come back: then it
is swapped for others. Its group loses a step less than is its turn, and the order goes on with the others; of all
groups, the one that was cut last is tried first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.sizes.limits import Limits

CLOSE = 0.98
"""A plan that leaves this share of what it may needs no widths between its multiples."""
FAR = 0.95
"""One that leaves less has missed its target: single units come back too, and steps are swapped."""
_HALVINGS = 4  # of multiples, where it leaves less
_FINEST = 4  # multiple below which depthwise convolutions fall off a cliff; narrower groups do not matter
_SWAPS = 4  # groups that lose less than is their turn
_LOOKS = 64  # groups of which that is tried


@dataclass(frozen=True)
class Step:
    """Units of one group that go together, in the order in which a family removes them."""

    group: str
    units: tuple[int, ...]


class Taking:
    """An order of steps, of which as many are taken as a goal needs.

    Args:
        graph: the network.
        ordered: steps in the order of removal.
        base: ``(units,)``; False for those that have gone before.
        measure: size that is left, for a boolean of all units.
        goal: that is to be met, in the same measure.
    """

    def __init__(
        self, graph: Graph, ordered: Sequence[Step], base: Tensor, measure: Callable[[Tensor], int], goal: int
    ) -> None:
        self._graph, self._ordered, self._base, self._measure, self._goal = graph, ordered, base, measure, goal
        places = [graph.offsets[step.group] + unit for step in ordered for unit in step.units]
        turns = [turn for turn, step in enumerate(ordered) for _ in step.units]
        self._firsts = torch.tensor([graph.offsets[step.group] + step.units[0] for step in ordered], dtype=torch.long)
        self._leaves = torch.full((graph.units,), len(ordered))  # at which step each unit goes
        self._leaves[torch.tensor(places, dtype=torch.long)] = torch.tensor(turns, dtype=torch.long)

    @property
    def least(self) -> int:
        """The size that all steps leave."""
        return self._measure(self._base & (self._leaves >= len(self._ordered)))

    def nearest(self, limits: Limits | None, *, swap: bool) -> Tensor | None:
        """Return who stays, ``(units,)``; None if even all steps leave more than the goal.

        Args:
            limits: those that the steps were made for, where finer widths than theirs may be taken.
            swap: whether steps may be swapped for others where the goal is missed by far otherwise.
        """
        leaves, keep = self._leaves, self._taken(self._leaves, limits, single=swap)
        if keep is None or not swap:
            return keep
        for _ in range(_SWAPS):
            size = self._measure(keep)
            better = None if size >= FAR * self._goal else self._swapped(leaves, keep, size, limits)
            if better is None:
                break
            leaves, keep = better
        return keep

    def _swapped(self, leaves: Tensor, keep: Tensor, size: int, limits: Limits | None) -> tuple[Tensor, Tensor] | None:
        """Let one group lose a step less; return the order without that step, and who stays. None: nothing is nearer.

        The first group that brings the size close to the goal is taken, else the one that comes nearest.
        """
        best = None
        seen: set[str] = set()
        for turn in range(len(self._ordered) - 1, -1, -1):
            step = self._ordered[turn]
            if step.group in seen or len(seen) == _LOOKS or bool(keep[self._places(step)].any()):
                continue
            if len(step.units) > 1:  # wide for the sake of speed, which nothing but a finer width can make up for
                seen.add(step.group)
                continue
            seen.add(step.group)
            without = self._ending(leaves, step.group, turn)
            tried = self._taken(without, limits)
            found = 0 if tried is None else self._measure(tried)
            if tried is not None and found > size:
                best, size = (without, tried), found
                if size >= CLOSE * self._goal:
                    break
        return best

    def _ending(self, leaves: Tensor, group: str, turn: int) -> Tensor:
        """Return at which step each unit goes where those of a group stay that go at a step or later."""
        first = self._graph.offsets[group]
        own = slice(first, first + self._graph.group(group).size)
        without = leaves.clone()
        without[own][without[own] >= turn] = len(self._ordered)
        return without

    def _taken(self, leaves: Tensor, limits: Limits | None, *, single: bool = True) -> Tensor | None:
        """Take as many steps as are needed, and give back what is not; None if all are not enough.

        Args:
            leaves: at which step each unit goes.
            limits: see ``nearest``.
            single: whether steps of single units are given back too, where the goal is missed by far.
        """

        def fits(count: int) -> bool:
            return self._measure(self._base & (leaves >= count)) <= self._goal

        low, high = 0, len(self._ordered)
        if not fits(high):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle + 1, high)
        keep = self._base & (leaves >= low)
        wide = any(len(step.units) > 1 for step in self._ordered)
        if wide or (single and self._measure(keep) < FAR * self._goal):
            gone = (leaves[self._firsts[:low]] < low).tolist()
            self._give_back([step for step, is_gone in zip(self._ordered, gone, strict=False) if is_gone], keep, limits)
        return keep

    def _places(self, step: Step) -> Tensor:
        return self._graph.offsets[step.group] + torch.tensor(step.units)

    def _give_back(self, taken: Sequence[Step], keep: Tensor, limits: Limits | None) -> None:
        """Take back, in place, what still fits: first whole steps, then as much as leads to finer widths.

        In each group the last that went comes back first; the last step of all begins.
        """

        def back(name: str, units: Sequence[int]) -> bool:
            places = self._graph.offsets[name] + torch.tensor(units)
            keep[places] = True
            if self._measure(keep) <= self._goal:
                return True
            keep[places] = False
            return False

        gone: dict[str, list[int]] = {}  # the group that was cut last comes first
        for step in reversed(taken):
            if step.group in gone or not back(step.group, step.units):
                gone[step.group] = [*step.units, *gone.get(step.group, ())]
        for halvings in range(1, _HALVINGS + 1 if limits else 1):
            assert limits is not None
            for name, left in gone.items():
                group = self._graph.group(name)
                multiple = limits.multiple_of(group)
                fine = max(multiple >> halvings, finest(multiple))
                while left and fine < multiple and self._measure(keep) < CLOSE * self._goal:
                    more = fine - (group.size - len(left)) % fine
                    if not back(name, left[-more:]):
                        break
                    del left[-more:]


def finest(multiple: int) -> int:
    """Return of what a width is a multiple still, where it is for the target's sake finer than it should be."""
    return min(multiple, _FINEST if multiple > _FINEST else 1)

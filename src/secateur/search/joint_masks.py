"""Masks over all prunable layers at once, drawn at random: maps, kernels, weights or regular patterns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from secateur.core.graph import Graph, layer_of, tensor_of
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection import uniform_shares
from secateur.core.selection.target_selection import family, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.zeros import patterns
from secateur.errors import TargetError

RatioOf = Literal["units", "weights"]


@dataclass(frozen=True, eq=False)
class Lottery:
    """What masks are drawn from; the first of them are the same, however many are drawn.

    Attributes:
        graph: the network's.
        model: the network, of which zeros count that are there already.
        target: how much may stay; None where the ratio says it.
        limits: floors and multiples for maps.
        rng: the randomness.
        ratio: share that goes from every layer, in [0, 1); None where a target or the pattern says it.
        stem: whether the first convolution may lose something.
        linear: whether linear layers may.
    """

    graph: Graph
    model: nn.Module
    target: Target | None
    limits: Limits
    rng: torch.Generator
    ratio: float | None = None
    stem: bool = False
    linear: bool = False

    @staticmethod
    def of(problem: Problem, *, ratio: float | None, stem: bool, linear: bool) -> Lottery:
        """Return what masks of a problem are drawn from."""
        known = (problem.graph, problem.model, problem.target, problem.limits, problem.rng)
        return Lottery(*known, ratio=ratio, stem=stem, linear=linear)

    def maps(self, count: int, ratio_of: RatioOf = "units") -> list[Plan]:
        """Draw feature maps.

        Args:
            count: how many masks.
            ratio_of: whether the ratio is that of the maps, or of the weights that go with them.

        Raises:
            TargetError: if so many cannot go.
        """
        graph, rng = self.graph, self.rng
        groups = patterns.map_groups(graph, stem=self.stem, linear=self.linear)
        if self.target is not None:
            plans: list[Plan] = []
            for _ in range(count):
                scores = {group.name: torch.rand(group.size, generator=rng) for group in groups}
                order = partial(family, graph, scores, "uniform")
                plans.append(meet(graph, order, self.target, self.limits))
            return plans
        if not groups:
            raise TargetError("no feature maps can go but those of the first convolution or of linear layers", 1.0)
        assert self.ratio is not None
        counts = {group.name: uniform_shares.number(self.ratio, group.size) for group in groups}
        if ratio_of == "weights":
            counts = uniform_shares.by_weights(graph, groups, self.ratio)
        for group in groups:
            uniform_shares.refuse_empty(self.ratio, counts[group.name], group.size, "maps", group.name)
        counts = {
            group.name: uniform_shares.within(self.limits, group, counts[group.name], near=True) for group in groups
        }
        return [
            Plan(
                tuple(
                    DropUnits(
                        group.name, tuple(torch.randperm(group.size, generator=rng)[:gone].sort().values.tolist())
                    )
                    for group in groups
                    if (gone := counts[group.name])
                )
            )
            for _ in range(count)
        ]

    def zeros(self, count: int, what: Literal["kernels", "weights"]) -> list[Plan]:
        """Draw kernels or single weights; those that are zero already count and go first.

        Raises:
            TargetError: if so many cannot go.
        """
        draw = patterns.draw_kernels if what == "kernels" else patterns.draw_weights
        gone = self._gone(what)
        return [
            Plan(
                tuple(
                    draw(self.graph, name, number, self.rng, tensor_of(self.model, name))
                    for name, number in gone.items()
                    if number
                )
            )
            for _ in range(count)
        ]

    def strided(
        self, count: int, stride: int, polarity: patterns.Polarity = "keep", *, even: bool = False
    ) -> list[Plan]:
        """Draw strided patterns, one for all kernels that leave a map.

        Args:
            count: how many masks.
            stride: see ``patterns.stride_mask``.
            polarity: likewise.
            even: whether every offset is as frequent in a layer as the others, so that all masks keep as much.

        Raises:
            TargetError: if no layer takes the pattern, or it leaves more than the target allows.
        """
        draw = partial(patterns.draw_strided, self.graph, stride=stride, rng=self.rng, polarity=polarity, even=even)
        return self._regular(count, draw, f"of stride {stride}")

    def n_of_m(self, count: int, n: int, m: int) -> list[Plan]:
        """Draw which N of every M weights stay.

        Raises:
            TargetError: as for ``strided``.
        """
        return self._regular(count, partial(patterns.draw_n_of_m, self.graph, n=n, m=m, rng=self.rng), f"{n}:{m}")

    def _regular(self, count: int, draw: Callable[[str], ZeroWeights | None], pattern: str) -> list[Plan]:
        names = patterns.maskable(self.graph, stem=self.stem, linear=self.linear, mapwise=True)
        plans = [Plan(tuple(e for e in map(draw, names) if e is not None)) for _ in range(count)]
        if not plans[0].edits:
            raise TargetError(f"no prunable layer of this network takes the pattern {pattern}", 1.0)
        if self.target is not None:  # offsets of a stride do not all keep as much
            most = max(plans, key=lambda plan: size(self.graph, plan).nonzero)
            uniform_shares.check_left(self.graph, most, self.target)
        return plans

    def _gone(self, what: str) -> dict[str, int]:
        """Return how many kernels or weights go from each layer, those that are zero already included."""
        shapes = {
            name: self.graph.tensors[name][0]
            for name in patterns.maskable(self.graph, stem=self.stem, linear=self.linear)
        }
        window = {name: math.prod(shape[2:]) if what == "kernels" else 1 for name, shape in shapes.items()}
        totals = {name: math.prod(shape) // window[name] for name, shape in shapes.items()}
        if self.target is not None:
            return uniform_shares.enough(self.graph, self.target, totals, window)
        assert self.ratio is not None
        if not shapes:
            raise TargetError(f"no {what} can go but those of the first convolution or of linear layers", 1.0)
        counts = {name: uniform_shares.number(self.ratio, total) for name, total in totals.items()}
        for name, total in totals.items():
            uniform_shares.refuse_empty(self.ratio, counts[name], total, what, layer_of(name))
        return counts

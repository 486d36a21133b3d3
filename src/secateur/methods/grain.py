"""Drop the smallest pieces of a layer: weights, rows of kernels, kernels or whole filters.

Idea.         The larger the pieces that go, the more regular is what stays, and the fewer indices say where it is. So
              larger pieces may need less memory at the same accuracy, although they cost more accuracy at the same
              number of weights.
Rule.         score(piece) = sum of |w| over it; within each layer the smallest go. Rates are uniform, or by
              sensitivity: all layers lose so much that each of them alone would do the same damage to the loss on
              validation images. grain = weight, row or column (of a kernel), kernel, or filter (removed for real, all
              others are zeroed). Rounds, or stages that follow, approach the target with retraining between.
Needs.        Weights; labelled validation images for rates by sensitivity.
Cost.         One pass over the weights; by sensitivity eight passes over 2048 validation images for each layer.
Storage.      A piece that stays takes its weights and one index, density * (b_w + b_i / weights in a piece) bits for
              each dense weight, with b_w = 8 and b_i = 4 (``secateur.core.zeros.grains.storage``); the plan's notes
              say what comes of it. At a density of 0.3 weights, rows of three and kernels of nine need 0.450, 0.350
              and 0.317 of the dense layer.
Differences.  Of the paper only the abstract and its tables from memory were at hand. That a row is the piece of one
              dimension, that rates come from such curves and the storage model, which reproduces the tables to a point,
              are inferred. The first convolution and linear layers are left alone by default, for every grain, so that
              grains compare; the paper prunes single weights of linear layers too (linear). Pieces of layers whose
              kernels are single weights are single weights. Depthwise convolutions, whose kernels are filters, are
              left alone. Filters of a residual stream go together, their sums added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import layer_of, tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection import damage_shares, goals, uniform_shares
from secateur.core.selection.sensitivity_curves import LEVELS, Curve, by_damage
from secateur.core.selection.target_selection import family, meet, plan_of
from secateur.core.sizes.size import Target, size
from secateur.core.zeros import grains, patterns
from secateur.errors import DataError, SettingError, TargetError
from secateur.search.racing.evaluation import held_for
from secateur.search.sensitivity import IMAGES, Ladder, along
from secateur.spelling import setting

Rates = Literal["uniform", "sensitivity"]


@dataclass(frozen=True)
class Grain(Method):
    """The smallest pieces of each layer.

    Attributes:
        grain: the pieces that go.
        rates: the same share of every layer, or by what each can lose.
        density: share of the pieces that stays, in (0, 1], where no target says it: of every layer with uniform rates,
            of all weights by sensitivity.
        stem: whether the first convolution may be pruned.
        linear: whether linear layers may be pruned.
    """

    grain: Literal["weight", "row", "column", "kernel", "filter"] = "kernel"
    rates: Rates = "uniform"
    density: float | None = None
    stem: bool = False
    linear: bool = False

    paper: ClassVar[Paper] = Paper(
        title="Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
        authors="Huizi Mao, Song Han, Jeff Pool, Wenshuo Li, Xingyu Liu, Yu Wang, William J. Dally",
        venue="arXiv",
        year=2017,
        link="arXiv:1705.08922",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density is not None and not 0.0 < self.density <= 1.0:
            raise SettingError(f"density must be in (0, 1], not {self.density}: it is the share that stays")

    def check(self, target: Target | None) -> None:
        """Refuse settings that do not say how much stays, or say it twice, or in a size that zeros leave as it is."""
        goals.check_said(target, self.density, "density", "the share of the pieces that stays")
        if self.grain != "filter":
            goals.check_zeros(target, f"{self.grain}s")

    def plan(self, problem: Problem) -> Plan:
        """Rank the pieces of each layer and take the smallest."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        return self._filters(problem) if self.grain == "filter" else self._zeros(problem, self.grain)

    def _zeros(self, problem: Problem, grain: grains.Grain) -> Plan:
        graph = problem.graph
        names = patterns.maskable(graph, stem=self.stem, linear=self.linear)
        sums = {name: _sound(grains.sums(tensor_of(problem.model, name), grain), layer_of(name)) for name in names}
        window = {name: grains.weights_in(graph.tensors[name][0], grain) for name in names}
        counts = self._counts(problem, sums, window)
        edits = tuple(_without(problem, name, sums[name], count) for name, count in counts.items() if count)
        whole = sum(math.prod(graph.tensors[name][0]) for name in names)
        left = {name: math.prod(graph.tensors[name][0]) - count * window[name] for name, count in counts.items()}
        taken = sum(grains.storage(1.0, window[name]) * left[name] for name in names) / max(1, whole)
        note = (
            f"{sum(left.values()) / max(1, whole):.3g} of the weights of {len(names)} layers stay; with 8 bits a "
            f"weight and 4 bits for the index of each {grain} they take {taken:.3g} of what these layers take dense"
        )
        return Plan(edits, (note,)) if edits else EMPTY

    def _counts(self, problem: Problem, sums: Mapping[str, Tensor], window: Mapping[str, int]) -> dict[str, int]:
        """Return how many pieces go from each layer, those that are zero already included."""
        totals = {name: found.numel() for name, found in sums.items()}
        if problem.target is None and not totals:
            raise TargetError(f"no {self.grain} can go but those of the first convolution or of linear layers", 1.0)
        if self.rates == "uniform" and self.density is not None:
            counts = {name: uniform_shares.number(1 - self.density, total) for name, total in totals.items()}
            for name, total in totals.items():
                uniform_shares.refuse_empty(1 - self.density, counts[name], total, f"{self.grain}s", layer_of(name))
            return counts
        if problem.target is None:
            assert self.density is not None
            goal = uniform_shares.number(1 - self.density, sum(totals[name] * window[name] for name in totals))
            if goal > sum((total - 1) * window[name] for name, total in totals.items()):
                raise TargetError(f"a density of {self.density:.3g} empties a layer; ask for more")
        elif self.rates == "uniform":
            return uniform_shares.enough(problem.graph, problem.target, totals, window)
        else:
            goal = uniform_shares.zeros_for(problem.graph, problem.target, totals, window)
        return damage_shares.counts(goal, self._curves(problem, sums), totals, window)

    def _curves(self, problem: Problem, sums: Mapping[str, Tensor]) -> dict[str, Curve]:
        """Return how the network suffers as each layer alone loses its smallest pieces."""
        if problem.validation is None:
            raise DataError(
                "rates by sensitivity are measured on validation images, and there are none; give "
                f"{setting('data')}, or take uniform rates"
            )
        ladders = list[Ladder]()
        for name, found in sums.items():
            gone = sorted({round((found.numel() - 1) * level / LEVELS) for level in range(1, LEVELS + 1)} - {0})
            rungs = [(found.numel() - count, Plan((_without(problem, name, found, count),))) for count in gone]
            ladders.append(Ladder(name, (layer_of(name),), found.numel(), tuple(rungs)))
        held = held_for(problem.task, problem.validation, problem.model, IMAGES)
        found = along(problem.model, problem.graph, ladders, held, work=problem.work, tell=problem.tell)
        return {curve.group: curve for curve in found}

    def _filters(self, problem: Problem) -> Plan:
        graph = problem.graph
        groups = patterns.map_groups(graph, stem=self.stem, linear=self.linear)
        scores = {
            group.name: _sound(
                torch.stack([row.double().abs().sum(1).cpu() for row in group.rows(problem.model, "makes")]).sum(0),
                group.name,
            )
            for group in groups
        }
        order = partial(family, graph, scores, "uniform")
        if self.rates == "sensitivity":
            order = partial(by_damage, graph, scores, problem.curves(scores))
        if problem.target is not None:
            plan = meet(graph, order, problem.target, problem.limits)
        else:
            assert self.density is not None
            left, keep = self.density * sum(group.size for group in groups), torch.ones(graph.units, dtype=torch.bool)
            stay = sum(group.size for group in groups)
            for step in order(problem.limits):
                if stay - len(step.units) < left - 1e-9:
                    break
                keep[graph.offsets[step.group] + torch.tensor(step.units)] = False
                stay -= len(step.units)
            plan = plan_of(graph, keep)
        share = size(graph, plan).params / max(1, size(graph).params)
        note = f"whole filters go, and nothing has to say which: the network takes {share:.3g} of what it takes dense"
        return Plan(plan.edits, (*plan.notes, note)) if plan.edits else EMPTY


def _without(problem: Problem, name: str, sums: Tensor, count: int) -> ZeroWeights:
    shape = problem.graph.tensors[name][0]
    return ZeroWeights.of(name, grains.lowest_dropped(sums, count, shape))


def _sound(values: Tensor, layer: str) -> Tensor:
    """Refuse sums that cannot be compared."""
    if bool(torch.isnan(values).any()):
        raise SettingError(f"the weights of '{layer}' contain NaN; the network cannot be scored")
    return values

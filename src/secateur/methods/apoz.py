"""Drop the units that are nearly always zero.

Idea.         Behind a rectifier many units are zero for most of what a network sees, whatever the input. What is
              zero tells the layers behind nothing, so these units can go (network trimming).
Rule.         APoZ(unit) = share of zeros among all that the unit sends behind its first rectifier, over all images
              and positions. rule = rank: the units with the highest APoZ go first until the target is met.
              rule = deviation: those go whose APoZ lies more than ``deviations`` standard deviations above the mean
              of their layer, at most ``most`` of a layer, and without a target only in the ``layers`` layers of the
              highest mean. With a target the number of deviations is what it takes to meet it.
Needs.        Images, no labels, and rectifiers.
Cost.         One forward of each image.
Differences.  The paper's text was not open to us: the rule is that of others who describe it, with the deviation
              taken over the population. That at most half of a layer goes, and two layers at a time, are our choices;
              the paper trims a few layers, trains and goes on, which ``rounds`` does here. Units of a residual stream
              are looked at where they are first rectified, all others before any pooling. Units that pass no
              rectifier have no APoZ: they are refused, unless ``near`` says how small a number counts as zero, as a
              share of the root mean square of their layer, where the next layer reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import family, meet, plan_of, steps
from secateur.core.sizes.size import Target
from secateur.errors import DataError, SettingError
from secateur.measure.unit_sites import Position, refuse_unseen, shared_out
from secateur.measure.unit_statistics import activity
from secateur.spelling import setting


@dataclass(frozen=True)
class Apoz(ScoreMethod):
    """Average percentage of zeros.

    Attributes:
        rule: rank, the target says how much goes, or deviation, the spread within each layer does.
        deviations: standard deviations above the mean of a layer from which a unit goes by the rule of deviation
            without a target.
        most: largest share of a layer that the rule of deviation takes, in (0, 1].
        layers: how many groups of layers that rule looks at without a target; 0 for all.
        near: for units that no rectifier passes, the share of the root mean square of their layer below which a number
            counts as zero, such as 0.001; 0 refuses such units.
    """

    rule: Literal["rank", "deviation"] = "rank"
    deviations: float = 1.0
    most: float = 0.5
    layers: int = 2
    near: float = 0.0

    paper: ClassVar[Paper] = Paper(
        title="Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures",
        authors="Hengyuan Hu, Rui Peng, Yu-Wing Tai, Chi-Keung Tang",
        venue="arXiv preprint",
        year=2016,
        link="arXiv:1607.03250",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.most <= 1.0:
            raise SettingError(f"most is the largest share of a layer that goes and must be in (0, 1], not {self.most}")
        if not 0.0 <= self.near < 1.0:
            raise SettingError(f"near is a share of what a layer sends and must be in [0, 1), not {self.near}")
        if self.layers < 0:
            raise SettingError(f"layers must be at least 0, which is for all, not {self.layers}")
        if self.rule == "deviation" and (self.keeps or self.allocate != "scope"):
            raise SettingError("the rule of deviation shares out by itself: leave out keeps and allocate, or take rank")

    def check(self, target: Target | None) -> None:
        """Refuse a ranking that is not told how much is to go."""
        if self.rule == "rank":
            super().check(target)

    def plan(self, problem: Problem) -> Plan:
        """Take the units with the most zeros until the target is met, or those that the deviations say."""
        if self.rule == "rank":
            return super().plan(problem)
        zeros = {name: 1.0 - values for name, values in self.scores(problem).items()}
        scores = {name: self._standardised(values) for name, values in zeros.items()}
        graph, limits = problem.graph, problem.limits
        if problem.target is not None:
            return meet(graph, partial(family, graph, scores, "global"), problem.target, limits)
        chosen = sorted(zeros, key=lambda name: -float(zeros[name].mean()))
        keep = torch.ones(graph.units, dtype=torch.bool)
        for name in chosen[: self.layers or None]:
            far = torch.where(scores[name] < -self.deviations, scores[name], torch.inf)
            for step in steps(graph.group(name), far, limits):
                keep[graph.offsets[name] + torch.tensor(step.units)] = False
        return plan_of(graph, keep)

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the share of what each unit sends that is not zero, ``(group.size,)``."""
        return self.scores(problem)[group.name]

    def scores(self, problem: Problem) -> dict[str, Tensor]:
        """Return the same for all groups that may be pruned.

        Raises:
            DataError: if there are no images.
            SettingError: if some units pass no rectifier, and ``near`` is 0.
        """
        graph, model, images = problem.graph, problem.model, problem.images
        if not images:
            raise DataError(f"apoz counts zeros on images, and there are none; give {setting('data')}")
        where = shared_out(model, graph, images[0], ("rectified", "read", "made") if self.near else ("rectified",))
        if not self.near:
            self._refuse_unrectified(problem, where["rectified"])
        refuse_unseen(graph, where)
        limit = torch.zeros(graph.units, dtype=torch.float64)
        smooth: dict[Position, Tensor] = {place: units for place, units in where.items() if place != "rectified"}
        if any(bool(units.any()) for units in smooth.values()):
            square = activity(model, graph, images, smooth).square
            for group in graph.free:
                units = slice(graph.offsets[group.name], graph.offsets[group.name] + group.size)
                limit[units] = self.near * square[units].mean().sqrt()
        found = activity(model, graph, images, where, limit)
        if bool(found.size.isnan().any()):
            raise SettingError("some weights or images contain NaN; the network cannot be scored")
        return {g.name: 1.0 - found.zeros[graph.offsets[g.name] :][: g.size] for g in graph.free}

    def _refuse_unrectified(self, problem: Problem, seen: Tensor) -> None:
        for group in problem.graph.free:
            if not bool(seen[problem.graph.offsets[group.name]]):
                raise SettingError(
                    f"the units of '{group.name}' pass no rectifier, so that none of what they send is exactly zero: "
                    f"say how small a number is to count as zero ({setting('near')}, such as 0.001), or leave that "
                    "layer alone ('leave')"
                )

    def _standardised(self, zeros: Tensor) -> Tensor:
        """Return how many deviations below the mean of zeros each unit lies; inf for those beyond ``most``."""
        spread = zeros.std(correction=0)
        found = (zeros.mean() - zeros) / spread if float(spread) > 0 else torch.zeros_like(zeros)
        spared = torch.argsort(found, stable=True)[int(self.most * len(zeros) + 1e-9) :]
        found[spared] = torch.inf
        return found

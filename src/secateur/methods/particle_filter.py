"""Breed masks: copy those with few errors, vary the copies, and keep the best mask that was ever tried.

Idea.         Which connections can go together is seen from the errors of the network without them. Masks that leave
              few errors share something; so what is tried next is drawn near them.
Rule.         Particles are masks over all prunable layers, drawn as those of ``random_masks``: feature maps, kernels,
              or strided positions inside kernels, which all kernels that leave a map share. A particle with error e on
              the validation images, without retraining, weighs exp(-(e - min e) / tau), tau the standard deviation of
              the errors. Systematic resampling copies particles by weight. Each copy but one of the best takes each
              layer with a chance from another copied particle (crossover), and about 5 % of what goes and of what stays
              in a layer change places (swaps; strided kernels exchange their patterns), so that every layer keeps just
              as much. After G generations the best particle ever tried is applied in one shot.
Needs.        Labelled validation images; they choose the mask, so accuracy must be reported on others.
Cost.         N * G passes over the validation images at most; candidates share the layers before the first cut.
              ``random_masks`` with N * G candidates is the fair comparison.
Differences.  Of the paper only the abstract was at hand (granularities; a particle filter that weighs masks by their
              misclassification rate), of the strided pattern also the description in the authors' later paper. The
              weights, the resampling, the swaps, the crossover and all numbers are inferred. Here offsets of strided
              patterns are equally frequent in a layer. The paper's fixed-point weights are left out. With rounds or
              stages the ratio rises in steps; what has gone stays gone, but particles are drawn anew. Of tasks that
              count no errors the error is by their metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from secateur.core.graph import tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection import goals, mask_moves
from secateur.core.sizes.size import Target, size
from secateur.core.zeros import patterns
from secateur.errors import SettingError
from secateur.search.competition import compete
from secateur.search.joint_masks import Lottery
from secateur.search.particles import filtered


@dataclass(frozen=True)
class ParticleFilter(Method):
    """The best mask of several generations.

    Attributes:
        granularity: what the masks consist of.
        ratio: share that goes from every prunable layer, in [0, 1); None where the target, or the stride, decides.
        particles: masks in a generation.
        generations: how often they are tried, the first time included.
        swaps: share of what goes and of what stays that changes places in a copy, in (0, 1].
        crossover: chance that a copy has a layer of another particle, in [0, 1].
        stride: distance of the positions of a strided pattern, counted row by row.
        polarity: whether a strided pattern keeps or drops the positions it hits.
        stem: whether the first convolution may be pruned.
        linear: whether linear layers may be pruned.
    """

    granularity: Literal["maps", "kernels", "strided"] = "maps"
    ratio: float | None = None
    particles: int = 20
    generations: int = 5
    swaps: float = 0.05
    crossover: float = 0.5
    stride: int = 2
    polarity: patterns.Polarity = "keep"
    stem: bool = False
    linear: bool = False

    paper: ClassVar[Paper] = Paper(
        title="Structured Pruning of Deep Convolutional Neural Networks",
        authors="Sajid Anwar, Kyuyeon Hwang, Wonyong Sung",
        venue="ACM Journal on Emerging Technologies in Computing Systems 13(3)",
        year=2017,
        link="arXiv:1512.08571",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("particles", 2), ("generations", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0.0 < self.swaps <= 1.0:
            raise SettingError(f"swaps must be in (0, 1], not {self.swaps}: without any, copies stay as they are")
        if not 0.0 <= self.crossover <= 1.0:
            raise SettingError(f"crossover must be in [0, 1], not {self.crossover}: it is a chance")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise SettingError(f"ratio must be in [0, 1), not {self.ratio}: it is the share that goes")
        if self.ratio is not None and self.granularity == "strided":
            raise SettingError("the pattern strided says by itself how much goes; leave ratio out")

    def check(self, target: Target | None) -> None:
        """Refuse settings that do not say how much goes, or say it twice."""
        if self.granularity != "strided":
            goals.check_said(target, self.ratio, "ratio", "the ratio of each layer")
        if self.granularity != "maps":
            goals.check_zeros(target, self.granularity)

    def plan(self, problem: Problem) -> Plan:
        """Draw the first generation and return the best particle of all."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        plans = self.draw(problem)
        if not any(plan.edits for plan in plans):
            return EMPTY
        judge = partial(compete, problem, who="particle_filter", complete=True)
        what = "strided" if self.granularity == "strided" else "kernels"
        tensors = {edit.tensor for plan in plans for edit in plan.edits if isinstance(edit, ZeroWeights)}
        alive = {
            name: patterns.by_kernel(tensor_of(problem.model, name).detach().cpu() != 0).any(2) for name in tensors
        }

        def vary(one: Plan, other: Plan) -> Plan:
            mixed = one
            if self.crossover and _same_layers(one, other):
                mixed = mask_moves.crossed(one, other, self.crossover, problem.rng)
            new = mask_moves.swapped(problem.graph, mixed, self.swaps, problem.rng, what, alive)
            return new if _allowed(problem, new) else one  # units of a group may differ in what they cost

        best, search = filtered(plans, judge, vary, self.generations, problem.rng)
        problem.found(search)
        return best

    def draw(self, problem: Problem) -> list[Plan]:
        """Return the first generation."""
        lottery = Lottery.of(problem, ratio=self.ratio, stem=self.stem, linear=self.linear)
        match self.granularity:
            case "maps":
                return lottery.maps(self.particles)
            case "kernels":
                return lottery.zeros(self.particles, "kernels")
            case "strided":
                return lottery.strided(self.particles, self.stride, self.polarity, even=True)


def _same_layers(one: Plan, other: Plan) -> bool:
    return [mask_moves.place_of(edit) for edit in one.edits] == [mask_moves.place_of(edit) for edit in other.edits]


def _allowed(problem: Problem, plan: Plan) -> bool:
    target = problem.target
    return target is None or size(problem.graph, plan).of(target.of) <= target.most(size(problem.graph).of(target.of))

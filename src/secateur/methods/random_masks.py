"""Draw many masks at random and keep the one that hurts least.

Idea.         Which units can go together cannot be told unit by unit; but a good joint choice is not rare, so a
              few dozen random ones, each tried on the validation images, find one.
Rule.         Draw N masks over all prunable layers at once, the same ratio in each layer; score of a mask =
              errors on the validation images without retraining; the mask with the fewest is applied in one shot.
              granularity = maps (whole feature maps, removed for real), kernels (any pattern), strided (regular
              positions inside kernels, shared by all kernels that leave a map), weights, or n:m.
              ratio_of = units: the share of maps that goes; weights: the share of the weights of the prunable
              convolutions, reached by the common share of maps that comes closest.
Needs.        Labelled validation images; they choose the mask, so accuracy must be reported on others.
Cost.         Less than N passes over the validation images: candidates run as thin networks, share the layers
              before the first cut, and are given up once they cannot win; the winner is that of full passes.
Differences.  The paper prunes plain chains. Here maps of a residual stream are drawn together, and the stream of the
              stem stays. As in the paper the first convolution and linear layers are left alone by default, and batch
              norm statistics are not estimated anew. With a target (--keep) the ratio follows from it. Kernels and
              weights that an earlier round has zeroed stay zero and count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch

from secateur.core.graph import Graph, Group, layer_of, maker_of, tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, DropUnits, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection import goals, uniform_shares
from secateur.core.selection.search_results import Search
from secateur.core.selection.target_selection import family, meet
from secateur.core.sizes.size import Target
from secateur.core.zeros import patterns
from secateur.errors import DataError, SettingError, TargetError
from secateur.search import HeldOut, best_of, task_examples
from secateur.search.racing.evaluation import counts_errors
from secateur.search.task_examples import Examples
from secateur.spelling import setting

Granularity = Literal["maps", "kernels", "strided", "weights", "n:m"]
RatioOf = Literal["units", "weights"]


@dataclass(frozen=True)
class RandomMasks(Method):
    """The best of many random masks.

    Attributes:
        granularity: what is drawn.
        ratio: share that goes from every prunable layer, in [0, 1); None where the target decides.
        ratio_of: what the ratio of maps is a share of.
        candidates: how many masks are tried; the paper finds 50 enough up to a ratio of 40 %.
        stride: distance of the positions of a strided pattern, counted row by row.
        polarity: whether a strided pattern keeps or drops the positions it hits.
        n: how many of every m weights stay, for n:m.
        m: see n.
        stem: whether the first convolution may be pruned.
        linear: whether linear layers may be pruned.
        complete: try every mask on all images, so that all scores are exact, also those that cannot win.
        racing: drop the worse half of the masks on growing samples; faster, but the winner is approximate.
        ray: spread the search over a Ray cluster, by its address, or over this machine with local.
    """

    granularity: Granularity = "maps"
    ratio: float | None = None
    ratio_of: RatioOf = "units"
    candidates: int = 50
    stride: int = 2
    polarity: patterns.Polarity = "keep"
    n: int = 2
    m: int = 4
    stem: bool = False
    linear: bool = False
    complete: bool = False
    racing: bool = False
    ray: str = ""

    paper: ClassVar[Paper] = Paper(
        title="Coarse Pruning of Convolutional Neural Networks with Random Masks",
        authors="Sajid Anwar, Wonyong Sung",
        venue="Submitted to ICLR",
        year=2017,
        link="https://openreview.net/forum?id=HkvS3Mqxe",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise SettingError(f"candidates must be at least 1, not {self.candidates}: one mask has to be drawn")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise SettingError(f"ratio must be in [0, 1), not {self.ratio}: it is the share that goes")
        if self.ratio is not None and self.granularity in ("strided", "n:m"):
            raise SettingError(f"the pattern {self.granularity} says by itself how much goes; leave ratio out")
        if self.granularity == "n:m":
            patterns.check_n_of_m(self.n, self.m)
        if self.complete and self.racing:
            raise SettingError("racing drops masks early, complete tries all of them to the end; choose one")

    def plan(self, problem: Problem) -> Plan:
        """Draw the masks, try them, and return the best."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        plans = self.draw(problem)
        if not any(plan.edits for plan in plans):
            return EMPTY
        if problem.validation is None:
            raise DataError(
                f"random_masks tries its masks on validation images, and there are none; give {setting('data')}"
            )
        search = self._best(problem, plans)
        problem.found(search)
        return plans[search.best]

    def _best(self, problem: Problem, plans: list[Plan]) -> Search:
        """Let the candidates compete on the validation examples."""
        if not counts_errors(problem.task):
            assert problem.task is not None
            if self.racing or self.ray:
                raise SettingError(
                    f"racing and ray count wrong answers, and {problem.task.name} has none; leave them out, and every "
                    f"mask is tried on all {problem.task.example}s"
                )
            examples = Examples.of(problem.validation, problem.model, problem.task)
            return task_examples.best_of(
                problem.model, problem.graph, plans, examples, work=problem.work, tell=problem.tell
            )
        return best_of(
            problem.model,
            problem.graph,
            plans,
            HeldOut.of(problem.validation, problem.model),
            complete=self.complete,
            racing=self.racing,
            work=problem.work,
            ray=self.ray,
            tell=problem.tell,
        )

    def check(self, target: Target | None) -> None:
        """Refuse settings that do not say how much goes, or say it twice."""
        if self.granularity not in ("strided", "n:m"):
            goals.check_said(target, self.ratio, "ratio", "the ratio of each layer")
        if self.granularity != "maps":
            goals.check_zeros(target, self.granularity)

    def draw(self, problem: Problem) -> list[Plan]:
        """Return the candidates; the first ones are the same whatever their number."""
        if self.granularity == "maps":
            return self._maps(problem)
        names = patterns.maskable(problem.graph, stem=self.stem, linear=self.linear)
        if self.granularity in ("strided", "n:m"):
            plans = [self._regular(problem, names) for _ in range(self.candidates)]
            if not plans[0].edits:
                raise TargetError(f"no prunable layer of this network takes the pattern {self._pattern()}", 1.0)
            uniform_shares.check_left(problem.graph, plans[0], problem.target)
            return plans
        draw = patterns.draw_kernels if self.granularity == "kernels" else patterns.draw_weights
        counts = self._counts(problem, names)
        return [
            Plan(
                tuple(
                    draw(problem.graph, name, count, problem.rng, tensor_of(problem.model, name))
                    for name, count in counts.items()
                    if count
                )
            )
            for _ in range(self.candidates)
        ]

    def _maps(self, problem: Problem) -> list[Plan]:
        graph, rng = problem.graph, problem.rng
        groups = self._groups(graph)
        if problem.target is not None:
            plans: list[Plan] = []
            for _ in range(self.candidates):
                scores = {group.name: torch.rand(group.size, generator=rng) for group in groups}
                order = partial(family, graph, scores, "uniform")
                plans.append(meet(graph, order, problem.target, problem.limits))
            return plans
        if not groups:
            raise TargetError("no feature maps can go but those of the first convolution or of linear layers")
        assert self.ratio is not None
        counts = {group.name: uniform_shares.number(self.ratio, group.size) for group in groups}
        if self.ratio_of == "weights":
            counts = uniform_shares.by_weights(graph, groups, self.ratio)
        for group in groups:
            uniform_shares.refuse_empty(self.ratio, counts[group.name], group.size, "maps", group.name)
        counts = {
            group.name: uniform_shares.within(problem.limits, group, counts[group.name], near=True) for group in groups
        }
        return [
            Plan(
                tuple(
                    DropUnits(
                        group.name, tuple(torch.randperm(group.size, generator=rng)[:count].sort().values.tolist())
                    )
                    for group in groups
                    if (count := counts[group.name])
                )
            )
            for _ in range(self.candidates)
        ]

    def _groups(self, graph: Graph) -> list[Group]:
        """Return the groups that may be drawn from: those of convolutions, without the first."""
        first = maker_of(patterns.stem_of(graph))
        return [
            group
            for group in graph.free
            if (self.stem or first not in group.layers)
            and (self.linear or any(len(graph.tensors[m.tensor][0]) > 2 for m in group.members if m.role == "makes"))
        ]

    def _regular(self, problem: Problem, names: tuple[str, ...]) -> Plan:
        edits: list[ZeroWeights | None] = []
        for name in names:
            if self.granularity == "strided":
                edits.append(patterns.draw_strided(problem.graph, name, self.stride, problem.rng, self.polarity))
            else:
                edits.append(patterns.draw_n_of_m(problem.graph, name, self.n, self.m, problem.rng))
        return Plan(tuple(edit for edit in edits if edit is not None))

    def _pattern(self) -> str:
        return f"of stride {self.stride}" if self.granularity == "strided" else f"{self.n}:{self.m}"

    def _counts(self, problem: Problem, names: tuple[str, ...]) -> dict[str, int]:
        """Return how many kernels or weights go from each layer, those that are zero already included."""
        shapes = {name: problem.graph.tensors[name][0] for name in names}
        window = {name: math.prod(shape[2:]) if self.granularity == "kernels" else 1 for name, shape in shapes.items()}
        totals = {name: math.prod(shapes[name]) // window[name] for name in names}
        if problem.target is None:
            assert self.ratio is not None
            if not names:
                raise TargetError(
                    f"no {self.granularity} can go but those of the first convolution or of linear layers"
                )
            counts = {name: uniform_shares.number(self.ratio, total) for name, total in totals.items()}
            for name, total in totals.items():
                uniform_shares.refuse_empty(self.ratio, counts[name], total, self.granularity, layer_of(name))
            return counts
        return uniform_shares.enough(problem.graph, problem.target, totals, window)

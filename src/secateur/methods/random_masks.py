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

from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection import goals
from secateur.core.sizes.size import Target
from secateur.core.zeros import patterns
from secateur.errors import SettingError
from secateur.search.competition import compete
from secateur.search.joint_masks import Lottery, RatioOf

Granularity = Literal["maps", "kernels", "strided", "weights", "n:m"]


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
        search = compete(problem, plans, "random_masks", complete=self.complete, racing=self.racing, ray=self.ray)
        problem.found(search)
        return plans[search.best]

    def check(self, target: Target | None) -> None:
        """Refuse settings that do not say how much goes, or say it twice."""
        if self.granularity not in ("strided", "n:m"):
            goals.check_said(target, self.ratio, "ratio", "the ratio of each layer")
        if self.granularity != "maps":
            goals.check_zeros(target, self.granularity)

    def draw(self, problem: Problem) -> list[Plan]:
        """Return the candidates; the first ones are the same whatever their number."""
        lottery = Lottery.of(problem, ratio=self.ratio, stem=self.stem, linear=self.linear)
        match self.granularity:
            case "maps":
                return lottery.maps(self.candidates, self.ratio_of)
            case "kernels" | "weights":
                return lottery.zeros(self.candidates, self.granularity)
            case "strided":
                return lottery.strided(self.candidates, self.stride, self.polarity)
            case "n:m":
                return lottery.n_of_m(self.candidates, self.n, self.m)

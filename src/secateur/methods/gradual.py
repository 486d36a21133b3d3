"""Take the smallest weights out while the network trains, many at first and ever fewer later.

Idea.         A network that loses all its weights at once does not recover as well as one that loses them bit by bit.
              While there are many, many can go at a time; later the network needs time after each.
Rule.         At ``updates`` + 1 steps at equal distances from ``begin`` to ``end`` of the training, or at each step
              where there are fewer and no number was given, the smallest |w| of each layer are out of play, of a share
              s_f + (s_i - s_f) (1 - p)^3 of its weights, rounded down, with p from 0 to 1, s_i = ``initial`` and s_f
              the ratio, or what the target asks for. What is out is zero and gets no gradient. After ``end`` the
              training goes on with the masks as they are.
Needs.        A training before the decision (shape), of any task. Without one the smallest weights go at once.
Cost.         A sort of the weights at each update, and a product of weights and masks after each step.
Differences.  The paper's body was not at hand; the rule is that of the code in TensorFlow (contrib/model_pruning).
              There a threshold is read from a histogram of 255 bins and smoothed; here the number of weights is exact.
              There weights out of play keep their value and may come back when the threshold falls; here only with
              ``returns``. When it begins and ends and how many updates there are is our choice: for a trained network
              it begins at once, and the last update is at 0.7 of the training, while its rate is still high.
              Depthwise convolutions are never pruned, nor is the first convolution by default. The share is the same in
              each layer; thresholds over all layers, and one layer at a time, are not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from secateur.core.method import Paper
from secateur.core.problem import Problem
from secateur.core.selection import zero_counts
from secateur.core.smallest_weights import SmallestWeights
from secateur.core.zeros.masks import Masking, Masks
from secateur.core.zeros.scheduled_pruning import ScheduledPruning, rising
from secateur.core.zeros.schedules import Cubic, check_span
from secateur.errors import SettingError

UPDATES = 20
"""How many there are where nobody says so, if the training is long enough."""


@dataclass(frozen=True)
class Gradual(SmallestWeights):
    """Gradual pruning on a cubic course.

    Attributes:
        initial: share that goes at the first update, at most the ratio.
        begin: share of the training that goes by before the first update.
        end: share of the training at which the last update is.
        updates: how many follow the first, at least 1; 1 is all at once, at the end. None: 20, or where the training is
            too short for these one before each step.
        returns: whether weights keep their value while out of play, and may come back.
    """

    initial: float = 0.0
    begin: float = 0.0
    end: float = 0.7
    updates: int | None = None
    returns: bool = False
    last: bool = True

    paper: ClassVar[Paper] = Paper(
        title="To prune, or not to prune: exploring the efficacy of pruning for model compression",
        authors="Michael Zhu, Suyog Gupta",
        venue="ICLR Workshop",
        year=2018,
        link="arXiv:1710.01878",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        zero_counts.check_ratio(self.initial, "initial")
        check_span(self.begin, self.end)
        if self.updates is not None and self.updates < 1:
            raise SettingError(f"updates must be at least 1, not {self.updates}")
        if self.ratio is not None and self.initial > self.ratio:
            raise SettingError(f"initial must be at most the ratio, {self.ratio}, not {self.initial}")

    def remembers(self) -> bool:
        """Tell whether weights out of play keep their value."""
        return self.returns

    def masking(self, problem: Problem, masks: Masks, counts: Mapping[str, int]) -> Masking:
        """Return what takes weights out of play on the course."""
        choose = rising(masks, counts, self.initial, self.ratio, returns=self.returns)
        return ScheduledPruning(masks, self.course(), choose)

    def course(self) -> Cubic:
        """Return when how much goes."""
        if self.updates is None:
            return Cubic(UPDATES, self.begin, self.end, all_apart=False)
        return Cubic(self.updates, self.begin, self.end)

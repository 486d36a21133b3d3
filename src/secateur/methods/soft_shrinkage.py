"""Shrink the smallest weights a little after every step, and take them out only later.

Idea.         Weights that are set to zero get no way back, and a network that loses many of them trains badly. Made a
              little smaller after every step, they can still grow out of the smallest ones if the loss wants them, and
              which weights go is found while the network trains, from random weights if need be.
Rule.         After every optimizer step the n_p smallest |w| of each layer, ranked anew, are multiplied by ``factor``;
              n_p = min(ceil(ratio n), floor(0.995 n)), or what the target asks for. At ``shrink`` of the training the
              n_p smallest of that moment become zero and stay so to its end.
Needs.        A training before the decision (shape), of any task, also from random weights. Without one the smallest
              weights go at once.
Cost.         A selection of the n_p smallest weights after each step until the masks are held.
Differences.  The rule is that of the released code. There the number of iterations before the masks are held is a
              by-product of a counter; that it is a third of the training is our choice, as is the first convolution
              and the last layer being left out by default. Patterns of N in M weights, and thresholds from a random
              part of a layer, are not offered. With a target the bound of 0.995 does not hold. ``ramp`` is ours, with
              the cubic course of Zhu and Gupta. factor = 0 is hard thresholding at every step. Moments of the optimizer
              are left as they are; the learning rate is that of the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from secateur.core.method import Paper
from secateur.core.problem import Problem
from secateur.core.smallest_weights import SmallestWeights
from secateur.core.zeros.masks import Masking, Masks
from secateur.core.zeros.scheduled_pruning import SoftShrinking
from secateur.core.zeros.schedules import Cubic, OneShot
from secateur.errors import SettingError

MOST = 0.995
"""Largest share of a layer that goes by a ratio."""

_UPDATES = 20  # of a ramp


def number(ratio: float, total: int) -> int:
    """Return how many weights of a layer are the smallest ones: the ratio rounded up, within the bound."""
    return min(math.ceil(ratio * total - 1e-9), math.floor(MOST * total + 1e-9))


@dataclass(frozen=True)
class SoftShrinkage(SmallestWeights):
    """Iterative soft shrinkage of the smallest weights (ISS-P).

    Attributes:
        factor: what the smallest weights are multiplied by after a step, in [0, 1]; 1 is a plain training.
        shrink: share of the training that goes by before they become zero for good, in (0, 1]; 1 is its end.
        ramp: whether their number rises until then, or is what it is from the start.
    """

    factor: float = 0.95
    shrink: float = 1 / 3
    ramp: bool = False

    paper: ClassVar[Paper] = Paper(
        title="Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution",
        authors="Jiamian Wang, Huan Wang, Yulun Zhang, Yun Fu, Zhiqiang Tao",
        venue="ICCV",
        year=2023,
        link="arXiv:2303.09650",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.factor <= 1.0:
            raise SettingError(f"factor must be in [0, 1], not {self.factor}: it is what weights are multiplied by")
        if not 0.0 < self.shrink <= 1.0:
            raise SettingError(f"shrink must be a share of the training above 0 and at most 1, not {self.shrink}")

    def masking(self, problem: Problem, masks: Masks, counts: Mapping[str, int]) -> Masking:
        """Return what shrinks, and later holds."""
        ramp = Cubic(_UPDATES, 0.0, self.shrink, all_apart=False) if self.ramp else None
        return SoftShrinking(masks, counts, self.factor, OneShot(self.shrink), ramp)

    def number(self, ratio: float, total: int) -> int:
        """Return how many weights of a layer are the smallest ones: the ratio rounded up, within the bound."""
        return number(ratio, total)

"""Methods that take the smallest weights of each layer out of play while a network trains."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from secateur.core.method import Method
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection import zero_counts
from secateur.core.sizes.size import Target
from secateur.core.zeros.masks import Masking, Masks
from secateur.core.zeros.shaper import Shaper


@dataclass(frozen=True)
class SmallestWeights(Method):
    """The smallest weights of each layer go, the same share of all; a subclass says when.

    Attributes:
        ratio: share that goes from every layer in the end, in [0, 1); None where a target decides.
        stem: whether the first convolution may be pruned.
        last: whether the layer that runs last may be.
    """

    ratio: float | None = None
    stem: bool = False
    last: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        zero_counts.check_ratio(self.ratio)

    def check(self, target: Target | None) -> None:
        """Refuse a run that does not say how much goes, or in a size that zeroed weights do not change."""
        zero_counts.check_said(target, self.ratio)

    def plan(self, problem: Problem) -> Plan:
        """Zero the smallest weights; in a shaped network these are the zeros that it has."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        return zero_counts.smallest_go(problem.model, self._counts(problem))

    @contextlib.contextmanager
    def shaping(self, problem: Problem) -> Generator[Shaper | None]:
        """Take weights out of play; leaves zeros in the network."""
        self.check(problem.target)
        counts = self._counts(problem)
        zero_counts.refuse_unsound(problem.model, counts)
        masks = Masks(problem.model, counts, remember=self.remembers())
        masking = self.masking(problem, masks, counts)
        with masks.attached():
            yield masking
        masking.finish()

    @abstractmethod
    def masking(self, problem: Problem, masks: Masks, counts: Mapping[str, int]) -> Masking:
        """Return what acts while the network trains.

        Args:
            problem: the network and all that is known of it.
            masks: of the network that trains.
            counts: how many weights of each layer are to go.
        """

    def remembers(self) -> bool:
        """Tell whether weights out of play keep their value."""
        return False

    def number(self, ratio: float, total: int) -> int:
        """Return how many weights a ratio of all is; by default rounded down."""
        return zero_counts.down(ratio, total)

    def _counts(self, problem: Problem) -> dict[str, int]:
        names = zero_counts.weights_of(problem.graph, stem=self.stem, last=self.last)
        return zero_counts.counts(problem.graph, names, problem.target, self.ratio, self.number)

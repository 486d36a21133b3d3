"""When a network that trains loses weights, as pure functions of the optimizer step and the number of all steps.

A schedule is a row of changes, counted from 1: ``stage`` says how many of them are due before an optimizer step, and
what each of them means is the schedule's own. Nothing here remembers anything, so that a training that goes on after a
kill finds itself in the same place.

Sources: the cubic course is that of Michael Zhu, Suyog Gupta, "To prune, or not to prune", ICLR Workshop 2018; the
cycle over parts that of Xiaolong Ma et al., "Effective Model Sparsification by Scheduled Grow-and-Prune Methods", ICLR
2022.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from secateur.errors import SettingError, TrainingError
from secateur.spelling import setting

_HAIR = 1e-9  # products of decimals fall a hair below the whole number that was meant


class Schedule(ABC):
    """A row of changes over a training.

    Attributes:
        dials: the settings of methods that say how many there are.
        all_apart: whether a training is refused that has fewer steps than changes.
    """

    dials: ClassVar[tuple[str, ...]] = ("rounds",)
    all_apart: bool = True

    @property
    @abstractmethod
    def stages(self) -> int:
        """How many changes there are."""

    @abstractmethod
    def stage(self, step: int, steps: int) -> int:
        """Return how many changes are due before an optimizer step.

        Args:
            step: number of the step, from 0.
            steps: of the whole training.
        """

    @abstractmethod
    def room(self, steps: int) -> float:
        """Return between how many optimizer steps the changes are spread."""

    def check(self, steps: int) -> None:
        """Refuse a training in which two changes would fall on one step that must not, or all on its end.

        Raises:
            TrainingError: saying how many steps are needed.
        """
        needed = self.stages - 1
        if not self.all_apart and self.room(steps) + _HAIR < 1:
            raise TrainingError(f"no step of {steps} would follow a change of this method's schedule; train for longer")
        if self.all_apart and self.room(steps) + _HAIR < needed:
            raise TrainingError(
                f"the schedule of this method changes the network {self.stages} times, which takes {needed} "
                f"optimizer steps at least, and its part of this training has {int(self.room(steps) + _HAIR)}; "
                f"train for longer, or ask for less with {' or '.join(map(setting, self.dials))}"
            )


class Course(Schedule):
    """A schedule on which more and more goes."""

    @abstractmethod
    def progress(self, stage: int) -> float:
        """Return how much of what is to go has gone after so many changes: 0 before the first, 1 after the last."""


@dataclass(frozen=True)
class OneShot(Course):
    """All at once.

    Attributes:
        at: share of the training that goes by before, in [0, 1]; at 1 it is after the last step.
    """

    at: float

    @property
    def stages(self) -> int:
        """One."""
        return 1

    def stage(self, step: int, steps: int) -> int:
        """Return 1 from the change on."""
        return int(step + _HAIR >= self.at * steps)

    def room(self, steps: int) -> float:
        """Return the steps before the change, of which none is needed."""
        return self.at * steps

    def progress(self, stage: int) -> float:
        """Return 0 before and 1 after."""
        return float(min(stage, 1))


@dataclass(frozen=True)
class Rounds(Course):
    """The same share at the beginning of each round, and training after it.

    Attributes:
        rounds: how many there are.
        end: share of the training that all of them take, in (0, 1].
    """

    rounds: int
    end: float = 1.0

    @property
    def stages(self) -> int:
        """One for each round."""
        return self.rounds

    def stage(self, step: int, steps: int) -> int:
        """Return how many rounds have begun."""
        return min(self.rounds, 1 + int(step * self.rounds / (self.end * steps) + _HAIR))

    def room(self, steps: int) -> float:
        """Return the steps from the beginning of the first round to that of the last."""
        return self.end * steps * (self.rounds - 1) / self.rounds

    def progress(self, stage: int) -> float:
        """Return the share of the rounds that have begun."""
        return stage / self.rounds


@dataclass(frozen=True)
class Retrainings(Course):
    """A training before the first change and after each, all of them as long.

    Attributes:
        shares: of what is left, what goes at each change, in (0, 1); at least one.
    """

    dials: ClassVar[tuple[str, ...]] = ("rounds", "shares")

    shares: tuple[float, ...]

    @property
    def stages(self) -> int:
        """One for each share."""
        return len(self.shares)

    def stage(self, step: int, steps: int) -> int:
        """Return how many of the trainings are behind, but for the last."""
        return min(self.stages, int(step * (self.stages + 1) / steps + _HAIR))

    def room(self, steps: int) -> float:
        """Return the steps from the first change to the last."""
        return steps * (self.stages - 1) / (self.stages + 1)

    def progress(self, stage: int) -> float:
        """Return what has gone, as a share of what goes in all."""
        return (1.0 - self.left(stage)) / (1.0 - self.left(self.stages)) if stage < self.stages else 1.0

    def left(self, stage: int) -> float:
        """Return the share that is left after so many changes."""
        return math.prod(1.0 - share for share in self.shares[:stage])


@dataclass(frozen=True)
class Cubic(Course):
    """Much at first and less and less later, ``1 - (1 - j / updates)^3`` at update j.

    The first change, at ``begin``, is update 0. Where there are fewer steps than updates the network may be changed
    before each of them, to where the course is then.

    Attributes:
        updates: how many follow the first change, at equal distances.
        begin: share of the training that goes by before the first change, in [0, 1).
        end: share of the training at which the last one is, above ``begin`` and at most 1.
        all_apart: see ``Schedule``.
    """

    dials: ClassVar[tuple[str, ...]] = ("updates",)

    updates: int
    begin: float = 0.0
    end: float = 1.0
    all_apart: bool = True

    @property
    def stages(self) -> int:
        """The first change and the updates."""
        return self.updates + 1

    def stage(self, step: int, steps: int) -> int:
        """Return how many changes are due, which are 0 before ``begin``."""
        passed = step - self.begin * steps
        if passed < -_HAIR:
            return 0
        return 1 + min(self.updates, int(passed * self.updates / self.room(steps) + _HAIR))

    def room(self, steps: int) -> float:
        """Return the steps from ``begin`` to ``end``."""
        return (self.end - self.begin) * steps

    def progress(self, stage: int) -> float:
        """Return how much of the way is behind."""
        return 0.0 if stage < 1 else 1.0 - (1.0 - (stage - 1) / self.updates) ** 3


@dataclass(frozen=True)
class Cycle(Schedule):
    """Part after part is dense for a while, round after round, and none of them in the end.

    All turns last alike; what follows the last is as long as ``rest`` of them.

    Attributes:
        parts: how many there are.
        rounds: how often each of them has its turn.
        rest: length of the end, in turns, at least 1.
    """

    dials: ClassVar[tuple[str, ...]] = ("rounds", "parts")

    parts: int
    rounds: int
    rest: int = 2

    @property
    def turns(self) -> int:
        """How many turns there are."""
        return self.parts * self.rounds

    @property
    def stages(self) -> int:
        """The turns, and the end."""
        return self.turns + 1

    def stage(self, step: int, steps: int) -> int:
        """Return how many turns have begun, the end counted as one."""
        return min(self.stages, 1 + int(step * (self.turns + self.rest) / steps + _HAIR))

    def room(self, steps: int) -> float:
        """Return the steps of all turns."""
        return steps * self.turns / (self.turns + self.rest)

    def dense(self, stage: int) -> int | None:
        """Return the part that is dense after so many changes, from 0; None before the first and at the end."""
        return (stage - 1) % self.parts if 1 <= stage <= self.turns else None


def check_span(begin: float, end: float) -> None:
    """Refuse shares of a training between which nothing lies.

    Raises:
        SettingError: unless 0 <= begin < end <= 1.
    """
    if not 0.0 <= begin < end <= 1.0:
        raise SettingError(
            f"begin and end must be shares of the training, 0 <= begin < end <= 1, not {begin} and {end}"
        )


def contiguous(sizes: Sequence[int], parts: int) -> tuple[int, ...]:
    """Cut a row of things into parts, each a run of at least one, so that the largest part is as small as can be.

    Args:
        sizes: of the things, at least 0.
        parts: how many; at most as many as there are things.

    Returns:
        The part of each thing, from 0; of cuts that are as good, one whose squared sizes are least, the earliest.
    """
    sums = list(itertools.accumulate(sizes, initial=0))
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, ())}
    for _ in range(parts):
        longer: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        for end in range(1, len(sizes) + 1):
            cuts = [
                (max(most, size), squares + size**2, (*ends, end))
                for begin, (most, squares, ends) in best.items()
                if begin < end
                for size in (sums[end] - sums[begin],)
            ]
            if cuts:
                longer[end] = min(cuts)
        best = longer
    ends = best[len(sizes)][2]
    return tuple(sum(number >= end for end in ends) for number in range(len(sizes)))


def between(first: float, last: float, progress: float, total: int) -> int:
    """Return how many of a total have gone on the way from one share to another, rounded down."""
    return math.floor((first + (last - first) * progress) * total + _HAIR)

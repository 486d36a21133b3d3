"""Which pruning parameters to take, round after round, while the constraint cools down to the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from secateur.core.selection.allocation import Allocation, Point, Ranking
from secateur.events import Tell, ignore
from secateur.measure import latency
from secateur.search.bayesian.cooling_schedule import Cooling, cooled
from secateur.search.bayesian.parameter_search import SECONDS, Choice, Effort, Goal, adapt
from secateur.search.racing.evaluation import Batches, held_for
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.task_examples import Examples
from secateur.tasks import Task


@dataclass
class Adviser:
    """Chooses pruning parameters for a network that changes from round to round.

    Attributes:
        allocation: what can be chosen.
        goal: what has to hold in the end.
        effort: how hard to search.
        rounds: how many times parameters are chosen.
        cooling: how the constraint is tightened from round to round.
        batches: of labelled images; the first ``images`` of them judge candidates.
        images: see batches.
        task: what the network is for; None for classification.
        seed: of all randomness.
        work: folder for notes, None for none.
        tell: hears the progress.
    """

    allocation: Allocation
    goal: Goal
    effort: Effort
    rounds: int
    cooling: Cooling
    batches: Batches | None
    images: int
    task: Task | None = None
    seed: int = 0
    work: Path | None = None
    tell: Tell = ignore
    _held: HeldOut | Examples | None = field(default=None, init=False, repr=False)
    _dense: float | None = field(default=None, init=False, repr=False)

    def held(self, model: nn.Module) -> HeldOut | Examples:
        """Return the images that judge candidates, on the network's device.

        Raises:
            DataError: if there are none, or they have no labels.
        """
        if self._held is None:
            self._held = held_for(self.task, self.batches, model, self.images)
        return self._held

    def choose(self, model: nn.Module, number: int, last: Point | None = None) -> Choice:
        """Search for the parameters of a round.

        Args:
            model: the network with all its weights; left as it is.
            number: of the round, from 0.
            last: parameters of the round before; tried first.

        Raises:
            TargetError: if the constraint cannot be met.
        """
        equal = (1.0 if self.allocation.by == "keep" else 0.0,) * len(self.allocation.stages)
        held = self.held(model)
        return adapt(
            model,
            self.allocation,
            held,
            self._now(model, held, number),
            self.effort,
            first=(equal,) if last is None else (last, equal),
            seed=self.seed * 1000 + number,
            work=self.work,
            tell=self.tell,
        )

    def counts(self, ranking: Ranking, point: Point) -> dict[str, int]:
        """Return how many of each layer stay in the end, by the parameters of the last round."""
        return ranking.counts(ranking.within(point, self.goal.of, self.goal.limit))

    def _now(self, model: nn.Module, held: HeldOut | Examples, number: int) -> Goal:
        """Return what holds in a round."""
        goal = self.goal
        if goal.limit is not None:
            goal = replace(goal, limit=cooled(1.0, goal.limit, number, self.rounds, self.cooling))
        if goal.milliseconds is not None:
            if self._dense is None:
                self._dense = latency(model, held.example, seconds=SECONDS).milliseconds
            now = cooled(max(self._dense, goal.milliseconds), goal.milliseconds, number, self.rounds, self.cooling)
            goal = replace(goal, milliseconds=now)
        return goal

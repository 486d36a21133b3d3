"""Choosing pruning parameters for a network as it is now, by Bayesian optimisation of its errors without retraining."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from secateur.core.graph import tensor_of
from secateur.core.metric import Metric
from secateur.core.selection.allocation import Allocation, Point, Ranking
from secateur.core.selection.search_results import Search, Trial, Tuning, key_of
from secateur.core.sizes.size import Measure
from secateur.core.surgery import cut
from secateur.errors import TargetError
from secateur.events import Event, Tell, ignore
from secateur.measure import latency
from secateur.search.bayesian.bayesian_optimization import Outcome, Tried, best, minimise, read
from secateur.search.racing.evaluation import judge
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import subject
from secateur.search.task_examples import Examples
from secateur.search.trial_journal import Journal

SECONDS = 0.2
"""For which each candidate is timed where latency is constrained."""


@dataclass(frozen=True)
class Goal:
    """What a search is for.

    Attributes:
        of: the size that counts.
        limit: share of it that may be left at most; None where size is traded for accuracy.
        tradeoff: errors, as a share, that the whole size is worth; without a limit.
        milliseconds: longest time that the thin network may take for one image; None for any.
    """

    of: Measure
    limit: float | None = None
    tradeoff: float = 1.0
    milliseconds: float | None = None


@dataclass(frozen=True)
class Effort:
    """How hard to search; see ``minimise`` and ``Judge``."""

    trials: int
    starts: int
    batch: int = 1
    workers: int = 0


@dataclass(frozen=True, eq=False)
class Choice:
    """What a search has chosen.

    Attributes:
        point: the parameters.
        ranking: the network's units or weights in order.
        counts: how many of each layer stay.
        search: how it was found.
    """

    point: Point
    ranking: Ranking
    counts: dict[str, int]
    search: Search


def adapt(
    model: nn.Module,
    allocation: Allocation,
    held: HeldOut | Examples,
    goal: Goal,
    effort: Effort,
    *,
    first: Sequence[Point] = (),
    seed: int = 0,
    work: Path | None = None,
    tell: Tell = ignore,
) -> Choice:
    """Choose pruning parameters.

    Where the size has a limit, what is tried is what was proposed, scaled to just that size; so nothing is tried in
    vain, and the whole size is used.

    Args:
        model: the network with all its weights; left as it is.
        allocation: what can be chosen in it.
        held: the images that candidates are compared on.
        goal: what for.
        effort: how hard to search.
        first: points to begin with.
        seed: of all randomness.
        work: folder in which every trial is noted, so that a killed search goes on; None for none.
        tell: hears the progress, under the stage ``"search"``.

    Raises:
        TargetError: if the goal cannot be reached.
        ModelError: if the network has no finite objective anywhere.
        CutError: if a candidate that is to be timed cannot be carried out.
    """
    task = _Task(model, allocation, held, goal, effort.workers)
    about = (goal, allocation.granularity, allocation.by, tuple(allocation.stages.items()), allocation.limits)
    about = (*about, allocation.graph.tried) if allocation.graph.tried else about  # whose plans are others
    facts = repr((about, replace(effort, workers=0), tuple(first), seed)) + subject(model, held)
    name = hashlib.sha256(facts.encode()).hexdigest()[:16]
    journal = Journal(None if work is None else work / f"adaptation-{name}.jsonl", read)

    def heard(number: int, tried: Tried) -> None:
        tell(Event("search", step=number + 1, total=effort.trials, values={"objective": tried.outcome.value}))

    try:
        tried = minimise(
            task.outcomes,
            allocation.box,
            trials=effort.trials,
            starts=effort.starts,
            batch=effort.batch,
            first=first,
            seed=seed,
            journal=journal,
            heard=heard,
        )
    finally:
        journal.close()
    found = best(tried)
    if found is None:
        assert goal.milliseconds is not None
        least = min((t.outcome.excess or 0.0) for t in tried) + goal.milliseconds
        raise TargetError(
            f"no candidate takes at most {goal.milliseconds:.3g} ms, the fastest of {len(tried)} takes {least:.3g} ms; "
            "ask for at least that, allow more trials, or prune on a faster device"
        )
    return task.choice(tried, tried.index(found))


class _Task:
    def __init__(
        self, model: nn.Module, allocation: Allocation, held: HeldOut | Examples, goal: Goal, workers: int
    ) -> None:
        self._model, self._allocation, self._held, self._goal = model, allocation, held, goal
        self._ranking = allocation.rank(lambda name: tensor_of(model, name))
        self._whole = self._ranking.whole(goal.of)
        self._judge = judge(model, allocation.graph, held, workers)

    @property
    def _metric(self) -> Metric | None:
        return self._held.task.metric if isinstance(self._held, Examples) else None

    def _trial(self, key: str, error: float) -> Trial:
        images = len(self._held)
        return Trial(key, 0, images, error) if self._metric else Trial(key, round(error * images), images)

    def meant(self, point: Point) -> Point:
        """Return what is tried when this is proposed."""
        return self._ranking.within(point, self._goal.of, self._goal.limit)

    def outcomes(self, points: Sequence[Point]) -> Iterator[Outcome]:
        """Try points side by side."""
        counts = [self._ranking.counts(self.meant(point)) for point in points]
        plans = [self._ranking.plan(count) for count in counts]
        for count, plan, errors in zip(counts, plans, self._judge.errors(plans), strict=True):
            error = errors / len(self._held)
            share = self._ranking.size(count, self._goal.of) / self._whole
            excess = None
            if self._goal.milliseconds is not None:
                thin = cut(self._model, self._allocation.graph, plan, self._held.example)
                excess = latency(thin, self._held.example, seconds=SECONDS).milliseconds - self._goal.milliseconds
            constrained = self._goal.limit is not None or excess is not None
            value = error if constrained else error + self._goal.tradeoff * share
            yield Outcome(value, excess, error, share)

    def choice(self, tried: Sequence[Tried], number: int) -> Choice:
        """Write down the search and its winner."""
        points = [self.meant(t.point) for t in tried]
        counts = [self._ranking.counts(point) for point in points]
        trials = [
            self._trial(key_of(self._ranking.plan(count)), t.outcome.error)
            for t, count in zip(tried, counts, strict=True)
        ]
        tuning = Tuning(
            names=tuple(self._allocation.stages),
            points=tuple(points),
            values=tuple(t.outcome.value if math.isfinite(t.outcome.value) else None for t in tried),
            sizes=tuple(t.outcome.size for t in tried),
            of=self._goal.of,
            goal=self._goal.limit,
        )
        return Choice(
            points[number],
            self._ranking,
            counts[number],
            Search(tuple(trials), number, len(self._held), False, tuning, self._metric),
        )

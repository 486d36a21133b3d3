"""Fine-tuning and pruning at once: rounds of fine-tuning, choosing pruning parameters, and pruning with a way back."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.core.graph import tensor_of
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.selection.allocation import Point, plan_of
from secateur.core.selection.search_results import Search
from secateur.core.sizes.size import size
from secateur.core.surgery.silence import silencing
from secateur.core.zeros import schedules, splicing
from secateur.core.zeros.shaper import Moment, Shaper
from secateur.search.bayesian.cooled_search import Adviser
from secateur.search.racing.evaluation import judge

Mark = tuple[int, float, float]


@dataclass(frozen=True)
class Schedule(schedules.Schedule):
    """When what happens.

    Attributes:
        rounds: into how many the training is divided.
        tune: share of each round that goes by before its parameters are chosen; masks stay as they are in it.
        gamma: how fast masks come to rest afterwards, see ``splicing.chance``.
        power: see gamma.
        band: see ``splicing.splice``.
    """

    dials: ClassVar[tuple[str, ...]] = ("adaptations",)

    rounds: int
    tune: float
    gamma: float
    power: float
    band: float

    @property
    def stages(self) -> int:
        """One for each round."""
        return self.rounds

    def stage(self, step: int, steps: int) -> int:
        """Return in how many rounds the parameters are due."""
        return sum(self.turn(number, steps) <= step for number in range(self.rounds))

    def room(self, steps: int) -> float:
        """Return the steps from one choice in the first round to that in the last."""
        return steps * (self.rounds - 1) / self.rounds

    def turn(self, number: int, steps: int) -> int:
        """Return before which optimizer step the parameters of a round are chosen."""
        return int((number + self.tune) * steps / self.rounds)

    def end(self, number: int, steps: int) -> int:
        """Return at which optimizer step the next round begins."""
        return (number + 1) * steps // self.rounds


class Joint(Shaper):
    """Prunes a network while it trains; what is out of play keeps learning.

    Args:
        model: the network that trains.
        adviser: chooses parameters.
        schedule: when what happens.
    """

    def __init__(self, model: nn.Module, adviser: Adviser, schedule: Schedule) -> None:
        self._model, self._adviser, self._schedule = model, adviser, schedule
        self._allocation = adviser.allocation
        self._overlay = splicing.Overlay((name, tensor_of(model, name)) for name in self._allocation.tensors)
        self._keep = {
            part: torch.ones(self._allocation.total(part), dtype=torch.bool) for part in self._allocation.parts
        }
        self._counts: dict[str, int] = {}
        self._thresholds: dict[str, float] = {}
        self._points: list[Point] = []
        self._began = 0
        self._moment: Moment | None = None
        self.searches: list[Search] = []

    @torch.no_grad()
    def before_batch(self, moment: Moment) -> None:
        """Choose parameters where it is time.

        Raises:
            TrainingError: if the training is too short for all rounds.
        """
        self._schedule.check(moment.steps)
        self._moment = moment
        number = len(self._points)
        if number < self._schedule.stage(moment.step, moment.steps):
            self._choose(number, moment.step)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Bring masks up to date, and take aside what the optimizer has moved out of play."""
        moment, number = self._moment, len(self._points)
        if moment is None or not number:
            return
        if step < self._schedule.end(number - 1, moment.steps):
            chance = splicing.chance(step - self._began, self._schedule.gamma, self._schedule.power)
            draws = torch.rand(len(self._keep), generator=moment.rng, device=moment.rng.device).tolist()
            for (part, keep), draw in zip(self._keep.items(), draws, strict=True):
                if draw < chance:
                    self._keep[part] = self._spliced(part, keep)
        self._show()

    @torch.no_grad()
    def finish(self) -> None:
        """Put into play exactly what the last parameters say of the weights as they are after the training."""
        if not self._points or self._moment is None:
            return
        ranking = self._allocation.rank(self._overlay_or_own)
        self._keep = ranking.keep(self._adviser.counts(ranking, self._points[-1]))
        self._show()
        last = self.searches[-1]
        assert last.tuning is not None
        if len(last.tuning.course) < 3:
            course = (*last.tuning.course, self._mark(self._moment.steps))
            self.searches[-1] = replace(last, tuning=replace(last.tuning, course=course))

    def _choose(self, number: int, step: int) -> None:
        before = self._mark(step)
        choice = self._adviser.choose(self._with_all(), number, self._points[-1] if self._points else None)
        self._points.append(choice.point)
        self._counts, self._began = choice.counts, step
        self._thresholds = {
            part: splicing.by_count(choice.ranking.values[part], count) for part, count in choice.counts.items()
        }
        tuning, winner = choice.search.tuning, choice.search.best
        assert tuning is not None
        after = (step, tuning.sizes[winner], choice.search.trials[winner].error)
        self.searches.append(replace(choice.search, tuning=replace(tuning, course=(before, after))))

    def _spliced(self, part: str, keep: Tensor) -> Tensor:
        """Return who is in play after an update; thresholds of fractions move with the weights."""
        values = self._allocation.values(part, self._overlay_or_own).cpu()
        moving = self._allocation.by == "keep"
        threshold = splicing.by_count(values, self._counts[part]) if moving else self._thresholds[part]
        after = splicing.splice(keep, values, threshold, self._schedule.band)
        return after if bool(after.any()) else keep

    def _overlay_or_own(self, name: str) -> Tensor:
        return self._overlay.whole(name) if name in self._overlay else tensor_of(self._model, name)

    def _plan(self) -> Plan:
        return plan_of(self._allocation, self._keep)

    def _show(self) -> None:
        """Put the masks on the network."""
        if self._allocation.granularity == "weights":
            for part, keep in self._keep.items():
                self._overlay.show(part, keep.reshape(self._allocation.graph.tensors[part][0]))
            return
        zeros = {
            e.tensor: e.mask()
            for e in silencing(self._allocation.graph, self._plan()).edits
            if isinstance(e, ZeroWeights)
        }
        for name in self._allocation.tensors:
            self._overlay.show(name, zeros.get(name, torch.ones((), dtype=torch.bool)))

    def _with_all(self) -> nn.Module:
        """Return a copy of the network with all weights in play."""
        network = copy.deepcopy(self._model)
        for name in self._allocation.tensors:
            tensor_of(network, name).copy_(self._overlay.whole(name))
        return network

    def _mark(self, step: int) -> Mark:
        """Return where the training stands: its step, the share in play, and the share of wrong images."""
        graph, of = self._allocation.graph, self._adviser.goal.of
        share = size(graph, self._plan()).of(of) / size(graph).of(of)
        held = self._adviser.held(self._model)
        (errors,) = judge(self._model, graph, held, 1).errors([EMPTY])
        return step, share, errors / len(held)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what is out of play, and how it came to that."""
        facts = {
            "points": self._points,
            "counts": self._counts,
            "thresholds": self._thresholds,
            "began": self._began,
            "steps": 0 if self._moment is None else self._moment.steps,
            "searches": [search.to_dict() for search in self.searches],
        }
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        keep = {f"keep/{part}": mask for part, mask in self._keep.items()}
        return {"facts": text, **keep, **{f"aside/{name}": t for name, t in self._overlay.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        facts = json.loads(bytes(state["facts"].tolist()))
        self._points = [tuple(point) for point in facts["points"]]
        self._counts, self._thresholds, self._began = facts["counts"], facts["thresholds"], facts["began"]
        self.searches = [Search.from_dict(search) for search in facts["searches"]]
        self._moment = Moment(facts["steps"], facts["steps"], torch.Generator())
        self._keep = {part: state[f"keep/{part}"].bool() for part in self._keep}
        self._overlay.load_state_dict({name: state[f"aside/{name}"] for name in self._allocation.tensors})

"""Units that go one after the other, each time those without which a network does best, noted as they go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.selection.search_results import Search, key_of
from secateur.core.selection.target_selection import Step, plan_of
from secateur.core.selection.uniform_shares import number
from secateur.events import Event, Tell, ignore
from secateur.search import task_examples
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import best_of, subject
from secateur.search.task_examples import Examples
from secateur.search.trial_journal import Journal

Rests = Mapping[str, Sequence[int]]
"""For each group that may lose units, ascending, how many may be gone when it comes to rest; the last is the most."""
Unit = tuple[str, int]
"""Name of a group, and number of a unit in it."""


def evaluations(size: int, removed: int, per_step: int = 1) -> int:
    """Return how many networks are tried until so many units of a group have gone, all that are left in every step."""
    return sum(size - gone for gone in range(0, removed, per_step))


class Removal:
    """A network that loses units; after every step all that are left are tried again.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        held: the examples on which networks are compared, by the metric of their task, and where that ties by the loss.
        work: folder in which every step is noted, so that a killed removal goes on; None for none.
        tell: hears of each step, under the stage ``"search"``.
        total: how many networks will be tried, where that is known.

    Attributes:
        keep: the units that are left, ``(graph.units,)`` bool.
        steps: what has gone, in order; units of a group that has not come to rest are not in it yet.
        tried: how many networks have been.

    Raises:
        ArtifactError: if the notes cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        held: HeldOut | Examples,
        *,
        work: Path | None = None,
        tell: Tell = ignore,
        total: int | None = None,
    ) -> None:
        self._model, self._graph, self._held, self._tell, self._total = model, graph, held, tell, total
        path = None if work is None else work / f"removal-{subject(model, held)[:16]}.jsonl"
        self._journal = Journal(path, _winners)
        self.keep = torch.ones(graph.units, dtype=torch.bool)
        self.steps: list[Step] = []
        self.tried = 0
        self._asked = 0
        self._moving: dict[str, list[int]] = {}

    @property
    def plan(self) -> Plan:
        """What has gone."""
        return plan_of(self._graph, self.keep)

    def close(self) -> None:
        """Make sure that all notes are on the disk."""
        self._journal.close()

    def one_by_one(
        self, rests: Rests, per_step: int = 1, enough: Callable[[Tensor], bool] = lambda keep: False
    ) -> None:
        """Remove the units that are missed least; a group that does not rest goes on alone until it does.

        Args:
            rests: groups that may lose units.
            per_step: units that go before all are tried again.
            enough: told ``keep`` when all groups rest, whether to stop; else it goes on until all have lost the most.
        """
        while True:
            ahead = {name: [rest for rest in rests[name] if rest > self._gone(name)] for name in rests}
            room = {name: ahead[name][0] - self._gone(name) for name in self._moving if ahead.get(name)}
            if not room:
                if enough(self.keep):
                    return
                room = {name: rest[-1] - self._gone(name) for name, rest in ahead.items() if rest}
            if not room:
                return
            units = [(name, unit) for name in room for unit in self._left(name)]
            for place in self._best([[unit] for unit in units], min(per_step, sum(room.values()))):
                name, unit = units[place]
                if room[name]:
                    room[name] -= 1
                    self._drop(name, [unit], rests[name])

    def by_layers(
        self,
        rests: Rests,
        ranks: Mapping[str, Tensor],
        share: float,
        enough: Callable[[Tensor], bool] = lambda keep: False,
    ) -> None:
        """Let in every step that group lose its lowest units without which the network does best.

        Args:
            rests: groups that may lose units.
            ranks: ``(size,)`` for each of them; the lowest go first.
            share: of the units that a group still has, how many it loses in a step, one at least.
            enough: told ``keep``, whether to stop; else it goes on until all have lost the most.
        """
        while not enough(self.keep):
            lots: list[tuple[str, list[int]]] = []
            for name, rest in rests.items():
                gone, left = self._gone(name), self._left(name)
                ahead = [each for each in rest if each > gone]
                if ahead:
                    wanted = gone + max(1, number(share, len(left)))
                    goal = next((each for each in ahead if each >= wanted), ahead[-1])
                    lowest = sorted(left, key=lambda unit: (float(ranks[name][unit]), unit))
                    lots.append((name, lowest[: goal - gone]))
            if not lots:
                return
            (winner,) = self._best([[(name, unit) for unit in units] for name, units in lots], 1)
            self._drop(*lots[winner], rests[lots[winner][0]])

    def _gone(self, name: str) -> int:
        return self._graph.group(name).size - len(self._left(name))

    def _left(self, name: str) -> list[int]:
        first = self._graph.offsets[name]
        return torch.nonzero(self.keep[first : first + self._graph.group(name).size]).flatten().tolist()

    def _drop(self, name: str, units: Sequence[int], rest: Sequence[int]) -> None:
        self.keep[self._graph.offsets[name] + torch.tensor(units)] = False
        self._moving.setdefault(name, []).extend(units)
        if self._gone(name) in rest:
            self.steps.append(Step(name, tuple(self._moving.pop(name))))

    def _best(self, lots: Sequence[Sequence[Unit]], places: int) -> tuple[int, ...]:
        """Return the lots of units that are missed least, that one first; from the notes where they know."""
        plans: list[Plan] = []
        for lot in lots:
            keep = self.keep.clone()
            keep[[self._graph.offsets[name] + unit for name, unit in lot]] = False
            plans.append(plan_of(self._graph, keep))
        question = hashlib.sha256(" ".join([str(places), *map(key_of, plans)]).encode()).hexdigest()[:16]
        noted = self._journal.entries.get(self._asked)
        if noted is None or noted["question"] != question:
            winners = self._search(plans, places).winners
            self._journal.note(self._asked, {"question": question, "winners": list(winners)})
        self._asked += 1
        self.tried += len(plans)
        self._tell(Event("search", "removing the units that are missed least", self.tried, self._total))
        return _winners(self._journal.entries[self._asked - 1])

    def _search(self, plans: Sequence[Plan], places: int) -> Search:
        if isinstance(self._held, Examples):
            return task_examples.best_of(self._model, self._graph, plans, self._held, places=places)
        return best_of(self._model, self._graph, plans, self._held, places=places, base=self.plan)


def _winners(entry: Mapping[str, Any]) -> tuple[int, ...]:
    str(entry["question"])
    return tuple(int(place) for place in entry["winners"])

"""Find the best of many candidates, exactly: the same winner as trying each of them on every image.

Errors are counted, and counts only grow: once some candidate has finished with e errors, every other one can be
given up as soon as it has more. So all start on a sample of the images, the leader runs to the end, and the
others run side by side against its count. Racing, which drops the worse half on growing samples, is offered too;
it is approximate and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.size import size
from secateur.core.trials import Search, Trial, key_of
from secateur.errors import SettingError
from secateur.events import Event, Tell, ignore
from secateur.search.held_out import HeldOut, digest
from secateur.search.log import Ledger
from secateur.search.stretch import Here, Stretch, Workers, split

SAMPLE = 10  # the first sample is one part in so many of the images
RUNGS = 5  # racing starts with one part in 2 ** (RUNGS - 1)


def best_of(
    model: nn.Module,
    graph: Graph,
    plans: Sequence[Plan],
    held: HeldOut,
    *,
    complete: bool = False,
    racing: bool = False,
    work: Path | None = None,
    ray: str = "",
    tell: Tell = ignore,
) -> Search:
    """Return what is known of each candidate, and which makes the fewest errors without retraining.

    Of equally good ones the first wins. Equal plans are tried once.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        plans: the candidates, in the order of drawing.
        held: the images on which they compete.
        complete: whether candidates that cannot win run to the end all the same, so that every score is exact.
        racing: whether to drop the worse half on growing samples: faster, but approximate.
        work: folder in which every step is noted, so that a killed search goes on; None for none.
        ray: where to spread the work: address of a Ray cluster, ``local`` for one on this machine; empty for none.
        tell: hears the progress, under the stage ``"search"``.

    Raises:
        SettingError: if there is no candidate, or settings exclude each other.
        PlanError: if a plan belongs to another network.
    """
    if not plans:
        raise SettingError("there is no candidate to choose from; draw at least 1")
    if complete and racing:
        raise SettingError("racing drops candidates early, complete runs all of them to the end; choose one")
    keys = [key_of(plan) for plan in plans]
    own = {key: number for number, key in reversed(list(enumerate(keys)))}  # the first of equal plans
    numbers = sorted(own.values())
    for number in numbers:
        size(graph, plans[number])  # refuses plans of another network before anything is started
    ledger = Ledger(work, subject(model, held))
    workers: Workers = Here(model, graph, plans, held)
    if ray:
        from secateur.search.cluster import Cluster

        workers = Cluster(model, graph, plans, held, ray)
    contest = _Contest(numbers, keys, held, ledger, workers, tell)
    try:
        best = contest.race() if racing else contest.settle(complete)
    finally:
        ledger.close()
        workers.close()
    known = ledger.known
    trials = tuple(Trial(key, errors, images) for key in keys for images, errors in [known.get(key, (0, 0))])
    return Search(trials, best, len(held), exact=not racing)


def subject(model: nn.Module, held: HeldOut) -> str:
    """Return a name for the content of a network and the images, for which numbers of errors hold."""
    batch = torch.tensor(held.batch)  # candidates stop at its multiples
    return digest({**model.state_dict(), " images": held.images, " labels": held.labels, " batch": batch})


class _Contest:
    def __init__(
        self,
        numbers: Sequence[int],
        keys: Sequence[str],
        held: HeldOut,
        ledger: Ledger,
        workers: Workers,
        tell: Tell,
    ) -> None:
        self._numbers, self._keys, self._held, self._images = numbers, keys, held, len(held)
        self._ledger, self._workers, self._tell = ledger, workers, tell

    def settle(self, complete: bool) -> int:
        """Return the candidate with the fewest errors on all images."""
        if not complete:
            self._run(self._numbers, self._held.stop(self._images // SAMPLE))
            leaders = sorted(self._numbers, key=lambda i: (self._rate(i), i))[: self._workers.width]
            self._run(leaders, self._images)
        limits = None if complete else self._limits()
        self._run([i for i in self._numbers if not limits or self._seen(i)[1] <= limits[i]], self._images, limits)
        return self._best(self._numbers)

    def race(self) -> int:
        """Return the survivor of dropping the worse half on samples that double."""
        left = list(self._numbers)
        for rung in range(RUNGS):
            self._run(left, self._held.stop(self._images >> (RUNGS - 1 - rung)))
            if rung + 1 < RUNGS:
                left = sorted(left, key=lambda i: (self._rate(i), i))[: (len(left) + 1) // 2]
        return self._best(left)

    def _limits(self) -> dict[int, int]:
        """Return with how many errors each candidate could still win against the best that has finished."""
        best = self._best(self._numbers)
        errors = self._seen(best)[1]
        return {i: errors if i <= best else errors - 1 for i in self._numbers}

    def _best(self, numbers: Sequence[int]) -> int:
        done = [i for i in numbers if self._seen(i)[0] == self._images]
        return min(done, key=lambda i: (self._seen(i)[1], i))

    def _run(self, numbers: Sequence[int], stop: int, limits: Mapping[int, int] | None = None) -> None:
        open_ones = [i for i in numbers if self._seen(i)[0] < stop]
        whole = Stretch({i: self._seen(i) for i in open_ones}, stop, limits and {i: limits[i] for i in open_ones})
        stretches = split(whole, self._workers.width)
        for number, images, errors in self._workers.run(stretches):
            self._ledger.note(self._keys[number], images, errors)
            done = sum(self._seen(i)[0] == self._images for i in self._numbers)
            self._tell(Event("search", step=done, total=len(self._numbers)))

    def _seen(self, number: int) -> tuple[int, int]:
        return self._ledger.known.get(self._keys[number], (0, 0))

    def _rate(self, number: int) -> float:
        images, errors = self._seen(number)
        return errors / images if images else float("inf")

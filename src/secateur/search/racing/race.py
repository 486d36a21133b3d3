"""Find the best of many candidates, exactly: the same winner as trying each of them on every image.

Errors are counted, and counts only grow: once some candidate has finished with e errors, every other one can be
given up as soon as it has more. So all start on a sample of the images, the leaders run to the end, and the others run
side by side against their count, each first on the kinds of images that it gets wrong most. Racing, which drops the
worse half on growing samples, is offered too; it is approximate and says so.

Where the best few are asked for, all run against the last of these, ties are run to the end, and the loss decides them.
"""

from __future__ import annotations

import bisect
import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan
from secateur.core.selection.search_results import Search, Trial, key_of
from secateur.core.sizes.size import size
from secateur.core.surgery.private_copies import apart
from secateur.errors import SettingError
from secateur.events import Event, Tell, ignore
from secateur.search.content_digest import digest
from secateur.search.racing.executors import Here, Workers
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.image_order import Parts
from secateur.search.racing.known_counts import Ledger
from secateur.search.racing.losses import losses
from secateur.search.racing.work_item import Stretch, split
from secateur.search.task_examples import Examples, finite_or_worst

LEADERS = 2  # run to the end: the best of them on a sample is often not the best of all ...
PURSUERS = 4  # ... so these go next, since every better count lets the others be given up earlier
RUNGS = 5  # racing starts with one part in 2 ** (RUNGS - 1)


@apart("model")
def best_of(
    model: nn.Module,
    graph: Graph,
    plans: Sequence[Plan],
    held: HeldOut,
    *,
    complete: bool = False,
    racing: bool = False,
    places: int = 0,
    base: Plan = EMPTY,
    work: Path | None = None,
    ray: str = "",
    tell: Tell = ignore,
) -> Search:
    """Return what is known of each candidate, and which makes the fewest errors without retraining.

    Of equally good ones the first wins, or with ``places`` the one with the smaller loss. Equal plans are tried once.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        plans: the candidates, in the order of drawing.
        held: the images on which they compete.
        complete: whether candidates that cannot win run to the end all the same, so that every score is exact.
        racing: whether to drop the worse half on growing samples: faster, but approximate.
        places: how many of the best are to be found, as ``winners``; 0 for one, whose ties no loss decides.
        base: units that every candidate drops; what such a network computes before the first difference is shared.
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
    if racing and places:
        raise SettingError("racing finds no exact places; leave one of them out")
    if ray and held.images.device.type != "cpu":  # the workers have no accelerator
        model, held = copy.deepcopy(model).cpu(), HeldOut(held.images.cpu(), held.labels.cpu())
    keys = [key_of(plan) for plan in plans]
    own = {key: number for number, key in reversed(list(enumerate(keys)))}  # the first of equal plans
    numbers = sorted(own.values())
    for number in numbers:
        size(graph, plans[number])  # refuses plans of another network before anything is started
    parts = Parts.whole(held) if racing else Parts.of(held)
    held = parts.held
    ledger = Ledger(work, "" if work is None else subject(model, held))
    workers: Workers = Here(model, graph, plans, held, base)
    if ray:
        from secateur.search.racing.ray_cluster import Cluster

        workers = Cluster(model, graph, plans, held, ray)
    contest = _Contest(numbers, keys, parts, ledger, workers, tell, places)
    try:
        best = contest.race() if racing else contest.settle(complete)
    finally:
        ledger.close()
        workers.close()
    trials = {number: contest.trial(number) for number in numbers}
    winners = _placed(
        contest.leading(), trials, lambda tied: losses(model, graph, [plans[i] for i in tied], held, base)
    )
    winners = winners[:places]
    best = winners[0] if winners else best
    return Search(tuple(trials[own[key]] for key in keys), best, len(held), exact=not racing, winners=winners)


def _placed(
    leading: Sequence[int], trials: Mapping[int, Trial], losses_of: Callable[[Sequence[int]], Sequence[float]]
) -> tuple[int, ...]:
    """Return the leading candidates, the best first; their losses are asked for where they tie."""
    counts = Counter(trials[i].errors for i in leading)
    tied = [i for i in leading if counts[trials[i].errors] > 1]
    found = dict(zip(tied, map(finite_or_worst, losses_of(tied)), strict=True)) if tied else {}
    return tuple(sorted(leading, key=lambda i: (trials[i].errors, found.get(i, 0.0), i)))


def subject(model: nn.Module, held: HeldOut | Examples) -> str:
    """Return a name for the content of a network and the examples, for which numbers of errors hold."""
    if isinstance(held, Examples):
        return digest(dict(model.state_dict())) + held.fingerprint()
    batch = torch.tensor(held.batch)  # candidates stop at its multiples
    return digest({**model.state_dict(), " images": held.images, " labels": held.labels, " batch": batch})


class _Contest:
    def __init__(
        self,
        numbers: Sequence[int],
        keys: Sequence[str],
        parts: Parts,
        ledger: Ledger,
        workers: Workers,
        tell: Tell,
        places: int = 0,
    ) -> None:
        self._places = places
        self._numbers, self._keys, self._parts, self._images = numbers, keys, parts, len(parts.held)
        self._ledger, self._workers, self._tell = ledger, workers, tell
        self._ends = [part.stop for part in parts.all]

    def settle(self, complete: bool) -> int:
        """Return the candidate with the fewest errors on all images."""
        self._run([(part, self._numbers) for part in self._parts.sample])
        if complete:
            self._run([(part, self._numbers) for part in self._parts.rest])
            return self._best(self._numbers)
        ranked = sorted(self._numbers, key=lambda i: (sum(self._seen(i, part)[1] for part in self._parts.sample), i))
        first = max(LEADERS, self._places)
        leaders, pursuers, others = ranked[:first], ranked[first : first + PURSUERS], ranked[first + PURSUERS :]
        self._run([(part, leaders) for part in self._parts.rest])
        self._pursue(pursuers, leaders)
        self._pursue(others, [*leaders, *pursuers])
        return self._best(self._numbers)

    def _pursue(self, numbers: Sequence[int], settled: Sequence[int]) -> None:
        """Take candidates on until they have finished or cannot win against the best of those that have."""
        limits, orders = self._limits(numbers, settled), {i: self._order(i) for i in numbers}
        for turn in range(len(self._parts.rest)):
            left = [i for i in numbers if self._total(i)[1] <= limits[i]]
            self._run([(part, [i for i in left if orders[i][turn] == part]) for part in self._parts.rest], limits)

    def leading(self) -> list[int]:
        """Return those that are among the best on all images, more than were asked for where they tie."""
        if not self._places:
            return []
        done = [i for i in self._numbers if self._total(i)[0] == self._images]
        return [i for i in done if self._total(i)[1] <= self._last_place(done)]

    def _last_place(self, numbers: Sequence[int]) -> int:
        """Return with how many errors the last of the best so far has its place."""
        return sorted(self._total(i)[1] for i in numbers)[: self._places][-1]

    def race(self) -> int:
        """Return the survivor of dropping the worse half on samples that double."""
        left = list(self._numbers)
        for rung in range(RUNGS):
            self._run([(range(self._parts.held.stop(self._images >> (RUNGS - 1 - rung))), left)])
            if rung + 1 < RUNGS:
                left = sorted(left, key=lambda i: (self._rate(i), i))[: (len(left) + 1) // 2]
        return self._best(left)

    def trial(self, number: int) -> Trial:
        """Return what is known of a candidate; where it was given up, each kind of images counts by its share."""
        images, errors = self._total(number)
        if not images or images == self._images or not self._parts.sample:
            return Trial(self._keys[number], errors, images)
        guess = 0.0
        for sample, rest in zip(self._parts.sample, self._parts.rest, strict=True):
            seen, wrong = map(sum, zip(self._seen(number, sample), self._seen(number, rest), strict=True))
            guess += (len(sample) + len(rest)) * (wrong / seen if seen else errors / images)
        return Trial(self._keys[number], errors, images, guess / self._images)

    def _order(self, number: int) -> list[range]:
        """Return the parts of the rest, those first of whose kind the candidate missed most in the sample."""
        missed = [
            errors / images if images else 0.0
            for images, errors in (self._seen(number, part) for part in self._parts.sample)
        ]
        kinds = sorted(range(len(self._parts.rest)), key=lambda kind: -missed[kind])
        return [self._parts.rest[kind] for kind in kinds]

    def _limits(self, numbers: Sequence[int], settled: Sequence[int]) -> dict[int, int]:
        """Return with how many errors each could still win against the best of those settled."""
        done = [i for i in settled if self._total(i)[0] == self._images]
        if self._places:
            return dict.fromkeys(numbers, self._last_place(done) if len(done) >= self._places else self._images)
        best = self._best(settled)
        errors = self._total(best)[1]
        return {i: errors if i <= best else errors - 1 for i in numbers}

    def _best(self, numbers: Sequence[int]) -> int:
        done = [i for i in numbers if self._total(i)[0] == self._images]
        return min(done, key=lambda i: (self._total(i)[1], i))

    def _run(self, jobs: Sequence[tuple[range, Sequence[int]]], limits: Mapping[int, int] | None = None) -> None:
        """Take candidates on to the end of parts, side by side in each part."""
        stretches: list[Stretch] = []
        for part, numbers in jobs:
            seen = {i: self._seen(i, part) for i in numbers if self._seen(i, part)[0] < len(part)}
            places = {i: (part.start + images, errors) for i, (images, errors) in seen.items()}
            own = None if limits is None else {i: limits[i] - self._total(i)[1] + seen[i][1] for i in seen}
            stretches += split(Stretch(places, part.stop, own), self._workers.width)
        for number, place, errors in self._workers.run(stretches):
            part = self._parts.all[bisect.bisect_left(self._ends, place)]
            self._ledger.note(self._name(number, part), place - part.start, errors)
            done = sum(self._total(i)[0] == self._images for i in self._numbers)
            self._tell(Event("search", step=done, total=len(self._numbers)))

    def _name(self, number: int, part: range) -> str:
        return f"{self._keys[number]}.{part.start}-{part.stop}"  # empty parts share their start with others

    def _seen(self, number: int, part: range) -> tuple[int, int]:
        return self._ledger.known.get(self._name(number, part), (0, 0))

    def _total(self, number: int) -> tuple[int, int]:
        """Return how many images a candidate has seen in all parts, and how many of them it got wrong."""
        found = [self._seen(number, part) for part in self._parts.all]
        return sum(images for images, _ in found), sum(errors for _, errors in found)

    def _rate(self, number: int) -> float:
        images, errors = self._total(number)
        return errors / images if images else float("inf")

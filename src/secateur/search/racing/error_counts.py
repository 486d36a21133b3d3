"""Count the errors of many candidates fast, and exactly.

Every candidate runs as the thin network that its plan makes (or with zeros, where that is faster), with batch norms
folded and in the memory layout that is faster here. All that changes rounding, so nothing is believed: each
candidate is first compared with the silenced network on a few images, and every image whose decision is so close
that rounding could turn it is decided by the silenced network itself. What does not agree runs silenced.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan
from secateur.search.malloc_settings import keep_freed
from secateur.search.racing.candidates import Bench, Runner, Ways
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.prefix_cache import Tape
from secateur.search.racing.work_item import Stretch
from secateur.search.torch_threads import own_threads

CLOSE = 100
"""A decision closer than so many times the rounding seen, or to be expected, is left to the silenced network."""
MEMORY = 1 << 30
"""Bytes that the networks of candidates may take at a time."""
AHEAD = 2
"""Batches handed out for each thread, so that none waits."""

Step = tuple[int, int, int]
"""Number of a candidate, how many images it has seen, how many of them it got wrong."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Images ready to be looked at, up to image ``end``."""

    end: int
    images: Tensor
    labels: Tensor
    tape: Tape | None


class Engine:
    """Counts errors of plans on held-out images.

    On a CPU each core takes a candidate of its own, which small networks use better than several cores at once.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        plans: the candidates.
        held: the images.
        ways: how to run candidates; found out on the first one if None.
        memory: bytes that the networks of candidates may take at a time.
        base: units that every candidate drops.

    Raises:
        PlanError: if a plan belongs to another network.
        ModelError: if the network does not run on the images or gives no class scores.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        plans: Sequence[Plan],
        held: HeldOut,
        ways: Ways | None = None,
        memory: int = MEMORY,
        base: Plan = EMPTY,
    ) -> None:
        self.bench = Bench(model, graph, plans, held, ways, base=base)
        self._held, self._memory = held, memory
        self._runners: dict[int, Runner] = {}

    def advance(self, stretches: Sequence[Stretch]) -> Iterator[Step]:
        """Take the candidates of some stretches on, side by side, and yield each step, in any order."""
        on_cpu = self._held.images.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 1
        waiting = list(dict.fromkeys(i for stretch in stretches for i in stretch.seen))
        if on_cpu:
            keep_freed()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        with own_threads(), pool:
            while waiting:
                block = self._block(waiting)
                waiting = waiting[len(block) :]
                for i in block:  # before threads run: surgery may trace with torch.fx, which patches nn.Module for all
                    self._runner(i)
                yield from self._side_by_side(block, stretches, pool, AHEAD * threads)

    def _block(self, waiting: Sequence[int]) -> list[int]:
        """Return the first candidates whose networks fit in memory together; forget others to make room."""
        one = max(1, self._runner(waiting[0]).bytes)
        fit = max(1, self._memory // one)
        block = list(waiting[:fit])
        others = [i for i in self._runners if i not in block]
        for i in others[: max(0, len(others) + len(block) - fit)]:
            del self._runners[i]
        return block

    def _side_by_side(
        self, block: Sequence[int], stretches: Sequence[Stretch], pool: Executor, room: int
    ) -> Iterator[Step]:
        """Take some candidates on, those first that are furthest behind, and each in one thread at a time."""
        todo = {i: [number for number, stretch in enumerate(stretches) if i in stretch.seen] for i in block}
        errors = dict.fromkeys(block, 0)
        ready: list[tuple[int, int, int]] = []  # stretch and next image of a candidate, and its number
        running: dict[Future[int], tuple[int, int, int]] = {}
        batches: dict[tuple[int, int], _Batch] = {}

        def begin(i: int) -> None:
            if todo[i]:
                number = todo[i].pop(0)
                start, errors[i] = stretches[number].seen[i]
                go_on(number, start, i)

        def go_on(number: int, start: int, i: int) -> None:
            stretch = stretches[number]
            if start < stretch.stop and (stretch.limits is None or errors[i] <= stretch.limits[i]):
                heapq.heappush(ready, (number, start, i))
            else:
                begin(i)

        for i in block:
            begin(i)
        while ready or running:
            while ready and len(running) < room:
                job = number, start, i = heapq.heappop(ready)
                if job[:2] not in batches:
                    batches[job[:2]] = self._batch(start, stretches[number].stop)
                running[pool.submit(self._count, i, batches[job[:2]])] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, start, i = running.pop(future)
                end = batches[number, start].end
                errors[i] += future.result()
                yield i, end, errors[i]
                go_on(number, end, i)
            wanted = {job[:2] for job in (*running.values(), *ready[:1])}
            batches = {place: batch for place, batch in batches.items() if place in wanted}

    def _batch(self, start: int, stop: int) -> _Batch:
        """Return the batch that starts at an image, with what all candidates share on it."""
        end = min(start + self._held.batch, stop)
        images = self.bench.laid_out(self._held.images[start:end])
        with torch.no_grad():
            return _Batch(end, images, self._held.labels[start:end], self.bench.tape(images))

    @torch.no_grad()
    def _count(self, i: int, batch: _Batch) -> int:
        """Return how many images a candidate gets wrong; close decisions are left to the silenced network."""
        runner, images, labels = self._runners[i], batch.images, batch.labels
        if runner.network is None:
            return int((self.bench.silenced(i, images).argmax(1) != labels).sum())
        scores = runner.scores(images, batch.tape)
        own = scores.gather(1, labels[:, None])[:, 0]
        margin = own - scores.scatter(1, labels[:, None], -torch.inf).amax(1)
        rounding = max(runner.rounding, torch.finfo(torch.float32).eps)
        sure = margin.abs() > CLOSE * rounding * scores.abs().max()  # never so for NaN
        errors = int((sure & (margin < 0)).sum())
        if bool(sure.all()):
            return errors
        doubtful = torch.nonzero(~sure).flatten()
        return errors + int((self.bench.silenced(i, images[doubtful]).argmax(1) != labels[doubtful]).sum())

    def _runner(self, i: int) -> Runner:
        if i not in self._runners:
            with torch.no_grad():
                self._runners[i] = self.bench.runner(i)
        return self._runners[i]

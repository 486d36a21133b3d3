"""Count the errors of many candidates fast, and exactly.

Every candidate runs as the thin network that its plan makes (or with zeros, where that is faster), with batch norms
folded and in the memory layout that is faster here. All that changes rounding, so nothing is believed: each
candidate is first compared with the silenced network on a few images, and every image whose decision is so close
that rounding could turn it is decided by the silenced network itself. What does not agree runs silenced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.search.held_out import HeldOut
from secateur.search.runners import Bench, Runner, Ways
from secateur.search.tape import Tape
from secateur.search.threads import own_threads

CLOSE = 100
"""A decision closer than so many times the rounding seen, or to be expected, is left to the silenced network."""
MEMORY = 1 << 30
"""Bytes that the networks of candidates may take at a time."""

Step = tuple[int, int, int]
"""Number of a candidate, how many images it has seen, how many of them it got wrong."""


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
    ) -> None:
        self.bench = Bench(model, graph, plans, held, ways)
        self._held, self._memory = held, memory
        self._runners: dict[int, Runner] = {}

    def advance(
        self, seen: Mapping[int, tuple[int, int]], stop: int, limits: Mapping[int, int] | None = None
    ) -> Iterator[Step]:
        """Take candidates on, batch by batch side by side, and yield each step.

        Args:
            seen: for each candidate to run, how many images it has seen and how many of them it got wrong.
            stop: image to stop before.
            limits: errors with which a candidate may still win; with more it is given up. None: none is.
        """
        threads = torch.get_num_threads() if self._held.images.device.type == "cpu" else 1
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        waiting = list(seen)
        with own_threads(), pool:
            while waiting:
                block = self._block(waiting)
                waiting = waiting[len(block) :]
                yield from self._side_by_side({i: seen[i] for i in block}, stop, limits, pool)

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
        self, seen: Mapping[int, tuple[int, int]], stop: int, limits: Mapping[int, int] | None, pool: Executor
    ) -> Iterator[Step]:
        state, batch = dict(seen), self._held.batch
        first = min(images for images, _ in state.values())
        for start in range(first, stop, batch):
            end = min(start + batch, stop)
            alive = [
                i for i, (images, errors) in state.items() if images == start and (not limits or errors <= limits[i])
            ]
            if not alive:
                continue
            for i in alive:  # before any thread runs: surgery may trace with torch.fx, which patches nn.Module for all
                self._runner(i)
            images, labels = self.bench.laid_out(self._held.images[start:end]), self._held.labels[start:end]
            with torch.no_grad():
                tape = self.bench.tape(images)

            def count(i: int, images: Tensor = images, labels: Tensor = labels, tape: Tape | None = tape) -> int:
                with torch.no_grad():
                    return self._count(i, images, labels, tape)

            for i, errors in zip(alive, pool.map(count, alive), strict=True):
                state[i] = (end, state[i][1] + errors)
                yield i, *state[i]

    def _count(self, i: int, images: Tensor, labels: Tensor, tape: Tape | None) -> int:
        """Return how many images a candidate gets wrong; close decisions are left to the silenced network."""
        runner = self._runner(i)
        if runner.network is None:
            return int((self.bench.silenced(i, images).argmax(1) != labels).sum())
        scores = runner.scores(images, tape)
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

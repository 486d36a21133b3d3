"""How many images a network gets wrong under each of some plans, several plans side by side."""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import masked
from secateur.errors import DataError, ModelError
from secateur.measure.forward import call, device_of, evaluating
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.task_examples import Examples, sound
from secateur.search.torch_threads import own_threads
from secateur.spelling import setting
from secateur.tasks import CLASSIFICATION, Classification, Task

Batches = Iterable[Any]


class Judge:
    """Counts errors without retraining; every helper has a copy of the network and one thread.

    Args:
        model: the network; left as it is.
        graph: its graph.
        held: the images.
        workers: how many plans are tried side by side on a CPU; 0 for as many as torch has threads. The numbers do not
            depend on it.

    Raises:
        ModelError: if the network does not run on the images, or gives no class scores or NaN.
    """

    def __init__(self, model: nn.Module, graph: Graph, held: HeldOut, workers: int = 0) -> None:
        self._graph, self._held = graph, held
        on_cpu = device_of(model).type == "cpu"
        self.workers = (workers or torch.get_num_threads()) if on_cpu else 1
        self._copies: queue.SimpleQueue[nn.Module] = queue.SimpleQueue()
        with torch.no_grad(), evaluating(model):
            if not bool(torch.isfinite(CLASSIFICATION.output(call(model, held.images[: held.batch]))).all()):
                raise ModelError(
                    "the network's class scores are NaN or infinite before anything is pruned; load sound weights, or "
                    "train with a lower learning rate"
                )
        for _ in range(self.workers):
            self._copies.put(copy.deepcopy(model).eval().requires_grad_(False))

    def errors(self, plans: Sequence[Plan]) -> Iterator[int]:
        """Yield for each plan, in their order, on how many images the network is wrong or without an answer."""
        with own_threads():
            pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,))
            try:
                yield from pool.map(self._count, plans)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _count(self, plan: Plan) -> int:
        network = self._copies.get()
        try:
            with torch.no_grad(), masked(network, self._graph, plan):
                wrong = [
                    _wrong(CLASSIFICATION.output(call(network, images)), labels)
                    for images, labels in zip(
                        self._held.images.split(self._held.batch),
                        self._held.labels.split(self._held.batch),
                        strict=True,
                    )
                ]
            return int(torch.stack(wrong).sum())
        finally:
            self._copies.put(network)


class MetricJudge:
    """Says how much of the metric is missing under each of some plans, for tasks that count no errors.

    Args:
        model: the network; left as it is.
        graph: its graph.
        held: the examples.

    Raises:
        ModelError: if the network's output is not finite.
    """

    def __init__(self, model: nn.Module, graph: Graph, held: Examples) -> None:
        sound(model, held)
        self._model, self._graph, self._held = copy.deepcopy(model).eval().requires_grad_(False), graph, held

    def errors(self, plans: Sequence[Plan]) -> Iterator[float]:
        """Yield for each plan, in their order, the error by the metric times the number of examples."""
        for plan in plans:
            with masked(self._model, self._graph, plan) as network:
                yield self._held.loss_and_error(network)[1] * len(self._held)


def judge(model: nn.Module, graph: Graph, held: HeldOut | Examples, workers: int = 0) -> Judge | MetricJudge:
    """Return what compares plans on some images or examples, see ``Judge`` and ``MetricJudge``."""
    if isinstance(held, HeldOut):
        return Judge(model, graph, held, workers)
    return MetricJudge(model, graph, held)


def held_for(task: Task | None, batches: Batches | None, model: nn.Module, images: int) -> HeldOut | Examples:
    """Gather the first examples on which plans are compared: images whose wrong answers are counted, else any.

    Raises:
        DataError: if there are none, or no labels.
    """
    if counts_errors(task):
        return sample(batches, model, images)
    assert task is not None
    return Examples.of(batches, model, task, images)


def counts_errors(task: Task | None) -> bool:
    """Tell whether the metric of a task is the share of right answers, so that wrong ones can be counted."""
    return task is None or (isinstance(task, Classification) and not task.multi_label)


def _wrong(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the images of a batch that are not recognised; scores of NaN recognise nothing."""
    right = (scores.argmax(1) == labels) & torch.isfinite(scores).all(1)
    return (~right).sum()


def sample(batches: Batches | None, model: nn.Module, images: int) -> HeldOut:
    """Gather the first images of some batches.

    Raises:
        DataError: if there are no images, or no labels.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    left = images
    for batch in batches or ():
        if not isinstance(batch, list | tuple) or len(batch) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(
                "candidates are compared by their errors, which needs labels; give batches of (images, labels)"
            )
        x, y = batch
        pairs.append((x[:left], y[:left]))
        left -= len(pairs[-1][1])
        if left <= 0:
            break
    if not pairs:
        raise DataError(f"pruning parameters are chosen on labelled images, and there are none; give {setting('data')}")
    return HeldOut.of(pairs, model)

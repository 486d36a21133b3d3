"""Loss and accuracy under each of some plans, what they share computed once for each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan
from secateur.search.racing.candidates import Bench
from secateur.search.racing.error_counts import MEMORY
from secateur.search.racing.held_out_images import HeldOut

Point = tuple[float, float]
"""Loss and metric."""


def losses(model: nn.Module, graph: Graph, plans: Sequence[Plan], held: HeldOut, base: Plan = EMPTY) -> list[float]:
    """Return the mean cross-entropy under each plan, in nats; equal networks have equal ones.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        plans: what is tried.
        held: the images.
        base: units that every plan drops.
    """
    bench = Bench(model, graph, plans, held, timed=False, base=base, even=True)
    fit = max(1, MEMORY // max(1, sum(tensor.nbytes for tensor in model.state_dict().values())))
    blocks = (range(start, min(start + fit, len(plans))) for start in range(0, len(plans), fit))
    return [loss for block in blocks for loss, _ in measured(bench, block, held)]


def measured(bench: Bench, numbers: Sequence[int], held: HeldOut) -> list[Point]:
    """Return loss and accuracy under some plans of a bench, by their numbers, side by side."""
    totals = [torch.zeros(2, dtype=torch.float64) for _ in numbers]
    with torch.no_grad():
        runners = [bench.runner(i) for i in numbers]
        for images, labels in zip(held.images.split(held.batch), held.labels.split(held.batch), strict=True):
            laid_out = bench.laid_out(images)
            tape = bench.tape(laid_out)
            for i, runner, total in zip(numbers, runners, totals, strict=True):
                scores = bench.silenced(i, images) if runner.network is None else runner.scores(laid_out, tape)
                total += counted(scores, labels)
    return [(float(total[0]) / len(held), float(total[1]) / len(held)) for total in totals]


def counted(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the losses and the number of right answers, (2,) float64 on the CPU."""
    loss = F.cross_entropy(scores.double(), labels, reduction="sum")
    right = (scores.argmax(1) == labels) & torch.isfinite(scores).all(1)
    return torch.stack([loss, right.sum().double()]).cpu()

"""Drop the units without which, to first order, the loss hardly changes.

Idea.         By how much the loss changes as a unit is taken away can be foretold from what it sends and from the
              gradient there: their product is the first term of a Taylor series.
Rule.         Put a gate of one on each unit; theta(example) = derivative of the loss of an example by the gate, which
              is the sum of activation * gradient over all positions. form = 2017: score = mean over examples of
              |theta / positions|, divided by the root of the sum of its squares over the layer, minus ``flops`` *
              millions of floating-point operations that make the unit. form = 2019: score = mean over mini-batches of
              (derivative of the loss of the batch)^2. The smallest go first, over all layers.
Needs.        Labelled training batches, or those of any other task that has a loss.
Cost.         A forward and a backward pass of ``batches`` mini-batches, in each round.
Differences.  The gate stands where the unit is read, behind norm, rectifier and pooling, which is what goes when the
              unit goes; behind a rectifier the product is the same before pooling and in front of the rectifier. Units
              that several layers make have one gate, whose derivatives are added before the absolute value; the 2019
              code divides those of a residual stream by the number of its blocks, here they count in full. The papers
              remove one unit, or a hundred, and train for some updates, again and again: here a run does with
              ``rounds``, which looks anew before each cut, fine-tunes behind it, and goes on after a kill. Gradients
              are taken before the cut and not gathered while the network trains, and the 2019 average over several
              cuts is left out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import Scope
from secateur.core.sizes.unit_work import making_flops
from secateur.errors import DataError, SettingError
from secateur.measure.unit_sites import refuse_unseen, shared_out
from secateur.measure.unit_statistics import gate_gradients
from secateur.spelling import setting
from secateur.tasks import CLASSIFICATION


@dataclass(frozen=True)
class Taylor(ScoreMethod):
    """First-order change of the loss.

    Attributes:
        form: 2017, absolute values example by example, normalised in each layer, or 2019, squares batch by batch.
        flops: for the form of 2017, what a million operations that a unit takes are worth, at least 0; left out where
            shares by latency weigh the time itself.
        batches: how many mini-batches are looked at.
        scope: global, all layers compete, or uniform, the same share of every group.
    """

    form: Literal["2017", "2019"] = "2017"
    flops: float = 1e-3
    batches: int = 30
    scope: Scope = "global"

    paper: ClassVar[Paper] = Paper(
        title="Pruning Convolutional Neural Networks for Resource Efficient Inference",
        authors="Pavlo Molchanov, Stephen Tyree, Tero Karras, Timo Aila, Jan Kautz",
        venue="ICLR",
        year=2017,
        link="arXiv:1611.06440",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flops < 0.0:
            raise SettingError(f"flops must be at least 0, not {self.flops}")
        if self.batches < 1:
            raise SettingError(f"batches must be at least 1, not {self.batches}")

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return how much the loss changes without each unit, ``(group.size,)`` float64."""
        return self.scores(problem)[group.name]

    def scores(self, problem: Problem) -> dict[str, Tensor]:
        """Return the same for all groups that may be pruned.

        Raises:
            DataError: if there are no batches.
            SettingError: if some units are never seen.
        """
        graph, found = problem.graph, self.criterion(problem)
        scores = {group.name: found[graph.offsets[group.name] :][: group.size] for group in graph.free}
        if self.form == "2019":
            return scores
        work = making_flops(graph) / 1e6 * (0.0 if self.allocate == "latency" else 1.0)
        for group in graph.free:
            length = scores[group.name].norm().clamp(min=torch.finfo(torch.float64).tiny)
            scores[group.name] = scores[group.name] / length
            scores[group.name] -= self.flops * work[graph.offsets[group.name] :][: group.size]
        return scores

    def criterion(self, problem: Problem) -> Tensor:
        """Return what the form averages, not normalised, ``(graph.units,)`` float64.

        Raises:
            DataError: if there are no batches.
            SettingError: if some units are never seen.
        """
        task, batches = problem.task or CLASSIFICATION, itertools.islice(problem.batches or (), self.batches)
        first = list(itertools.islice(batches, 1))
        if not first:
            raise DataError(f"taylor takes gradients of the loss on training examples; give {setting('data')}")
        graph, model = problem.graph, problem.model
        where = shared_out(model, graph, task.inputs(first[0]), ("read", "made"))
        refuse_unseen(graph, where)
        total, count = torch.zeros(graph.units, dtype=torch.float64), 0
        for found in gate_gradients(model, graph, itertools.chain(first, batches), task, where):
            if self.form == "2019":
                total += found.gradients.sum(0).square()
                count += 1
            else:  # the loss of a batch is a mean: that of an example is as many times as large
                examples = len(found.gradients)
                total += (found.gradients * examples / found.positions.clamp(min=1.0)).abs().sum(0)
                count += examples
        return total / count

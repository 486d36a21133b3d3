"""Drop, one after the other, the units whose removal costs the least accuracy.

Idea.         What a filter is worth is seen when it is taken out: how much worse does the network then do its task?
              Asked again after every removal, for what a filter is worth depends on who is still there.
Rule.         CAR(unit) = accuracy of the network - accuracy without the unit, on held-out examples and without
              retraining; the unit with the smallest goes (a negative one too: the network gains), then all that are
              left are tried again. Any task counts by its metric: with R squared of regression this is the paper's
              RAR. order = layer: one layer after the other, from the first, each to its share; joint: all units in
              one pool until the target is met; layer step: in every step each layer offers a tenth of its units, those
              with the smallest L1 norm, and the layer without whose offer the network does best loses them.
Needs.        Labelled held-out examples; they choose the units, so results must be reported on others.
Cost.         To remove m of n units of a layer takes n + (n - 1) + ... + (n - m + 1) networks: 3480 for half of 96,
              24,640 for half of 256. They run as thin networks side by side, share what comes before the first
              difference, and are given up once they cannot win; by default on 1000 images. per_step divides the
              cost. Metrics of other tasks than classification are known of all examples alone, so that there every
              network runs in full.
Differences.  The paper's body was not open to us: the rule is that of its abstract. Ties, which are frequent, go to
              the unit whose loss is smaller, then to the first; how many examples the authors looked at and how they
              shared out the removal among layers is not known, so these are ours: each class gives its share of the
              images, and rates follow from the target as in other methods. Where several layers make one unit (a
              residual stream) it is tried and removed as a whole. Batch norm statistics are not estimated anew. Where
              widths are multiples, in one pool a layer that has begun to lose units goes on until its width is one.
              The layer step follows the greedy pruner of Intel's distiller, which fine-tunes each offer for an epoch;
              here nothing trains before the decision (rounds of a run fine-tune between them), and norms are those of
              the dense network. ``class_reductions`` is the companion paper's diagnostic (Interpreting Convolutional
              Neural Networks Through Compression, arXiv:1711.02329): what each unit means to each class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import by_share, fit, steps
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import ruler
from secateur.errors import DataError, SettingError
from secateur.search import HeldOut, best_of
from secateur.search.greedy_removal import Removal, evaluations
from secateur.search.racing.evaluation import counts_errors, judge
from secateur.search.task_examples import Examples
from secateur.spelling import setting
from secateur.tasks import ACCURACY

Order = Literal["layer", "joint", "layer step"]


@dataclass(frozen=True)
class AccuracyReduction(ScoreMethod):
    """Greedy removal by the accuracy that each unit costs.

    Attributes:
        order: one layer after the other, all units in one pool (joint), or a share of one layer in each step.
        per_step: units that go before all are tried again.
        share: of its units, what each layer offers in a layer step, in (0, 1).
        images: labelled held-out examples on which networks are compared.
    """

    order: Order = "layer"
    per_step: int = 1
    share: float = 0.1
    images: int = 1000

    paper: ClassVar[Paper] = Paper(
        title="Structural Compression of Convolutional Neural Networks with Applications in Interpretability",
        authors="Reza Abbasi-Asl, Bin Yu",
        venue="Frontiers in Big Data 4:704182",
        year=2021,
        link="arXiv:1705.07356",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_step", "images"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0.0 < self.share < 1.0:
            raise SettingError(f"share must lie between 0 and 1, not {self.share}: it is what a layer offers")
        if self.order != "layer" and self.allocate != "scope":
            raise SettingError(f"order {self.order} finds out by itself how much each layer loses; leave allocate out")

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the L1 norm of what makes each unit, ``(group.size,)``, by which layers offer and share out."""
        total = torch.zeros(group.size, dtype=torch.float64)
        for rows in group.rows(problem.model, "makes"):
            total += rows.abs().sum(1, dtype=torch.float64).cpu()
        return total

    def plan(self, problem: Problem) -> Plan:
        """Settle how much each layer loses, or that enough can go, then remove unit by unit."""
        shared = super().plan(problem)
        if not shared.dropped():
            return shared
        held = self._held(problem)
        graph, counts = problem.graph, {name: len(units) for name, units in shared.dropped().items()}
        total = sum(evaluations(graph.group(name).size, count, self.per_step) for name, count in counts.items())
        known = total if self.order == "layer" else None
        removal = Removal(problem.model, graph, held, work=problem.work, tell=problem.tell, total=known)
        try:
            plan = self._layers(removal, counts) if self.order == "layer" else self._pool(removal, problem, counts)
        finally:
            removal.close()
        return replace(plan, notes=(*plan.notes, self._note(problem, held, plan, removal.tried)))

    def class_reductions(self, problem: Problem, group: str) -> Tensor:
        """Return by how much each unit alone raises the accuracy on each class, ``(units, classes)`` float64.

        A diagnostic, by which nothing is pruned. NaN for classes without images.

        Raises:
            DataError: if there are no labelled images.
            SettingError: if the task is no classification with one class for each image.
        """
        held = self._held(problem)
        if not isinstance(held, HeldOut):
            raise SettingError("reductions by class need a class for each image; the task of this network has none")
        plans = [Plan((DropUnits(group, (unit,)),)) for unit in range(problem.graph.group(group).size)]
        found = torch.full((len(plans), int(held.labels.max()) + 1), torch.nan, dtype=torch.float64)
        for label in held.labels.unique().tolist():
            own = held.labels == label
            seen = HeldOut(held.images[own], held.labels[own])
            search = best_of(problem.model, problem.graph, [*plans, EMPTY], seen, complete=True)
            errors = torch.tensor([trial.error for trial in search.trials], dtype=torch.float64)
            found[:, label] = errors[:-1] - errors[-1]
        return found

    def _held(self, problem: Problem) -> HeldOut | Examples:
        if problem.validation is None:
            raise DataError(
                "accuracy_reduction tries every unit on labelled held-out examples, and there are none; give "
                f"{setting('data')}"
            )
        if counts_errors(problem.task):
            return HeldOut.of(problem.validation, problem.model).sampled(self.images)
        assert problem.task is not None
        return Examples.of(problem.validation, problem.model, problem.task, self.images)

    def _layers(self, removal: Removal, counts: dict[str, int]) -> Plan:
        for name, count in counts.items():
            removal.one_by_one({name: range(1, count + 1)}, self.per_step)
        return removal.plan

    def _pool(self, removal: Removal, problem: Problem, counts: dict[str, int]) -> Plan:
        """Let the groups with rates of their own have them, then all others compete until the target is met."""
        graph, limits, target, scores = problem.graph, problem.limits, problem.target, self.scores(problem)
        settled = by_share(graph, scores, self.keeps, limits)[1] if self.keeps else frozenset[str]()
        never: Callable[[Tensor], bool] = lambda keep: False  # noqa: E731
        rates = {name: range(1, count + 1) for name, count in counts.items() if name in settled}
        self._compete(removal, rates, scores, never)
        if target is None:
            return removal.plan
        start, rule, first = removal.plan, ruler(graph), len(removal.steps)
        most = target.most(rule.measure(target.of, torch.ones(graph.units, dtype=torch.bool)))
        while True:
            rests = {group.name: _rests(group, limits) for group in graph.free if group.name not in settled}
            self._compete(removal, rests, scores, lambda keep: rule.measure(target.of, keep) <= most)
            finer = limits.finer(graph.free)
            if finer is None or rule.measure(target.of, removal.keep) <= most:
                return fit(graph, removal.steps[first:], target, start, limits=limits if limits.auto else None)
            limits = finer

    def _compete(
        self,
        removal: Removal,
        rests: dict[str, range] | dict[str, list[int]],
        scores: dict[str, Tensor],
        enough: Callable[[Tensor], bool],
    ) -> None:
        if self.order == "joint":
            removal.one_by_one(rests, self.per_step, enough)
        else:
            removal.by_layers(rests, scores, self.share, enough)

    def _note(self, problem: Problem, held: HeldOut | Examples, plan: Plan, tried: int) -> str:
        metric, example = (held.task.metric, held.task.example) if isinstance(held, Examples) else (ACCURACY, "image")
        errors = judge(problem.model, problem.graph, held).errors([EMPTY, plan])
        before, after = (metric.text(metric.value_of(error / len(held))) for error in errors)
        return (
            f"{tried:,} networks were tried on {len(held):,} held-out {example}s, whose {metric.name} went from "
            f"{before} to {after} without retraining; they have chosen the units, so report it on others"
        )


def _rests(group: Group, limits: Limits) -> list[int]:
    """Return how many units of a group may be gone when it is left."""
    return list(accumulate(len(step.units) for step in steps(group, torch.zeros(group.size), limits)))

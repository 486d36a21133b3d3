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
              the dense network. ``class_reductions`` is the paper's diagnostic of what each unit means to each class
              (also in its companion, arXiv:1711.02329): the reduction of the accuracy on that class alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection.sensitivity_curves import Allocate
from secateur.core.selection.target_selection import by_share, fit, steps
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, ruler
from secateur.errors import DataError, SettingError
from secateur.search import HeldOut
from secateur.search.class_reductions import reductions_by_class
from secateur.search.greedy_removal import Removal, evaluations
from secateur.search.norm_shares import NormShares
from secateur.search.racing.evaluation import counts_errors, judge
from secateur.search.task_examples import Examples
from secateur.spelling import setting
from secateur.tasks import ACCURACY

Order = Literal["layer", "joint", "layer step"]


@dataclass(frozen=True)
class AccuracyReduction(Method):
    """Greedy removal by the accuracy that each unit costs.

    Attributes:
        order: one layer after the other, all units in one pool (joint), or a share of one layer in each step.
        per_step: units that go before all are tried again.
        share: of its units, what each layer offers in a layer step, in (0, 1).
        images: labelled held-out examples on which networks are compared.
        keeps: (pattern of layer names, fraction of units that stays) for groups with a rate of their own.
        allocate: how much goes from each layer where one comes after the other: the same share, or as other methods
            share out by sensitivity, latency or reconstruction, with L1 norms for scores.
    """

    order: Order = "layer"
    per_step: int = 1
    share: float = 0.1
    images: int = 1000
    keeps: Sequence[tuple[str, float]] = ()
    allocate: Allocate = "scope"

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
        object.__setattr__(self, "keeps", NormShares(keeps=self.keeps).keeps)
        for name in ("per_step", "images"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0.0 < self.share < 1.0:
            raise SettingError(f"share must lie between 0 and 1, not {self.share}: it is what a layer offers")
        if self.order != "layer" and self.allocate != "scope":
            raise SettingError(f"order {self.order} finds out by itself how much each layer loses; leave allocate out")

    def check(self, target: Target | None) -> None:
        """Refuse a run that does not say how much is to go."""
        NormShares(keeps=self.keeps).check(target)

    def plan(self, problem: Problem) -> Plan:
        """Settle how much each layer loses, or that enough can go, then remove unit by unit."""
        shared = NormShares(keeps=self.keeps, allocate=self.allocate).plan(problem)
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
        """Return by how much the accuracy on each class falls without each unit, ``(units, classes)`` float64.

        A diagnostic, by which nothing is pruned; see ``secateur.search.class_reductions``.

        Raises:
            DataError: if there are no labelled images.
            SettingError: if the task is no classification with one class for each image.
        """
        held = self._held(problem)
        if not isinstance(held, HeldOut):
            raise SettingError("reductions by class need a class for each image; the task of this network has none")
        return reductions_by_class(problem.model, problem.graph, group, held)

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
        graph, limits, target, norms = problem.graph, problem.limits, problem.target, NormShares().scores(problem)
        settled = by_share(graph, norms, self.keeps, limits)[1] if self.keeps else frozenset[str]()
        self._compete(removal, {name: range(1, counts[name] + 1) for name in counts if name in settled}, norms)
        if target is None:
            return removal.plan
        start, rule, first = removal.plan, ruler(graph), len(removal.steps)
        most = target.most(rule.measure(target.of, torch.ones(graph.units, dtype=torch.bool)))
        while True:
            rests = {group.name: _rests(group, limits) for group in graph.free if group.name not in settled}
            self._compete(removal, rests, norms, lambda keep: rule.measure(target.of, keep) <= most)
            finer = limits.finer(graph.free)
            if finer is None or rule.measure(target.of, removal.keep) <= most:
                return fit(graph, removal.steps[first:], target, start, limits=limits if limits.auto else None)
            limits = finer

    def _compete(
        self,
        removal: Removal,
        rests: Mapping[str, Sequence[int]],
        norms: dict[str, Tensor],
        enough: Callable[[Tensor], bool] = lambda keep: False,
    ) -> None:
        if self.order == "joint":
            removal.one_by_one(rests, self.per_step, enough)
        else:
            removal.by_layers(rests, norms, self.share, enough)

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

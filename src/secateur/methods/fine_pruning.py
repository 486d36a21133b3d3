"""Fine-tune and prune at once; Bayesian optimisation chooses how much goes from each layer, again and again.

Idea.         A network that is moved to a narrower task is larger than it need be. What can go depends on what it has
              learned so far, so how much goes from each layer is chosen anew as fine-tuning goes on, and what has gone
              may come back.
Rule.         The training falls into rounds. In each the network is first fine-tuned with its masks as they are. Then
              a Gaussian process (Matern 5/2, one length scale per parameter, expected improvement, after random
              starts) looks for the parameters with the lowest objective without retraining: the error where a target
              limits the size, and the limit of each round cools down to the target; without a target
              error + tradeoff * share of the size left. Then the network trains on while masks are brought up to date
              with probability (1 + gamma i)^-power: what is in play goes at (1 - band) thresholds, what is out comes
              back above (1 + band). Weights out of play keep getting the gradient. In the end what stays is exactly
              what the last parameters say of the weights as they have become.
Needs.        Labelled training images, and a training before the decision (shape) for all but the search; Optuna.
Cost.         For each round ``trials`` passes over ``images`` images, and about a second for each proposal.
Differences.  Of the paper only the abstract was at hand; splicing follows Dynamic Network Surgery, which it builds on,
              the objective, cooling and number of starts the authors' later constraint-aware compression. Their
              optimiser learns the size as a constraint; here a proposal is scaled to just the size allowed before it
              is tried, and only latency, which must be measured, is learned. Parameters are fractions that stay, in
              [0.02, 1] before scaling, with thresholds that follow the weights; by = deviation is the original
              mean + c * deviation with thresholds that stay for the round. Biases and norms are never pruned. Weight
              decay spares what is out of play. By default whole units go, so that the network becomes faster; single
              weights, as in the paper, with granularity = weights. A unit counts by the mean size of the weights that
              make and read it; while it is out only those that read it learn. Without a shaping training the
              parameters are chosen once, for the network as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from secateur.core.graph import tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection.allocation import Allocation, By, Granularity, Per, plan_of, present
from secateur.core.sizes.size import Measure, Target, size
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError, TargetError
from secateur.search.bayesian.bayesian_optimization import need_optuna
from secateur.search.bayesian.cooled_search import Adviser
from secateur.search.bayesian.cooling_schedule import Cooling
from secateur.search.bayesian.joint_training import Joint, Schedule
from secateur.search.bayesian.parameter_search import Effort, Goal
from secateur.spelling import said

Judges = Literal["train", "val"]


_LEAST = {
    "adaptations": 1, "trials": 1, "starts": 1, "batch": 1, "workers": 0, "images": 1,
    "tradeoff": 0, "gamma": 0, "power": 0,
}  # fmt: skip


@dataclass(frozen=True)
class FinePruning(Method):
    """Joint fine-tuning and pruning with Bayesian optimisation.

    Attributes:
        granularity: whether whole units go, or single weights.
        per: a parameter for each layer, or for each stage of layers of equal width; auto: stages above 20 layers.
        by: whether a parameter is the fraction that stays, or c in the threshold mean + c * standard deviation.
        adaptations: in how many rounds of the shaping training parameters are chosen.
        tune: share of each round that is fine-tuning before they are.
        cooling: how the limit is approached: exponential, linear, or none, at once.
        tradeoff: without a target, errors (as a share) that the whole size is worth.
        of: without a target, which size that is; empty for macs, or nonzero with single weights.
        milliseconds: longest time for one image that the thin network may take; None for any.
        trials: points tried in each round.
        starts: how many of them are random.
        batch: points that are proposed, and can be tried, at a time.
        workers: points tried side by side on a CPU; 0 for as many as torch has threads. Does not change the result.
        images: how many images judge a point.
        judge: whether these are training or validation images.
        gamma: how fast masks come to rest.
        power: likewise.
        band: half the width of the band around a threshold in which nothing changes, as a share of it.
    """

    granularity: Granularity = "units"
    per: Per = "auto"
    by: By = "keep"
    adaptations: int = 5
    tune: float = 0.5
    cooling: Cooling = "exponential"
    tradeoff: float = 1.0
    of: str = ""
    milliseconds: float | None = None
    trials: int = 60
    starts: int = 20
    batch: int = 1
    workers: int = 0
    images: int = 1000
    judge: Judges = "train"
    gamma: float = 1e-4
    power: float = 1.0
    band: float = 0.1

    paper: ClassVar[Paper] = Paper(
        title="Fine-Pruning: Joint Fine-Tuning and Compression of a Convolutional Network with Bayesian Optimization",
        authors="Frederick Tung, Srikanth Muralidharan, Greg Mori",
        venue="BMVC",
        year=2017,
        link="arXiv:1707.09102",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SettingError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("tune", "band"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.of and self.of not in get_args(Measure):
            raise SettingError(f"unknown size '{self.of}'; choose one of {', '.join(get_args(Measure))}")
        if self.granularity == "weights" and self.of not in ("", "nonzero"):
            raise SettingError(f"zeroed weights leave the {self.of} as they are; take granularity units, or of nonzero")
        if self.milliseconds is not None and self.milliseconds <= 0:
            raise SettingError(f"milliseconds must be above 0, not {self.milliseconds}")
        if self.milliseconds is not None and self.granularity == "weights":
            raise SettingError("zeroed weights make no network faster; take granularity units to limit milliseconds")

    def check(self, target: Target | None) -> None:
        """Refuse a size that zeroed weights do not change, and a search without its library."""
        if target is not None and target.keep < 1.0 and self.granularity == "weights" and target.of != "nonzero":
            nonzero = said("Target(..., 'nonzero')", "--of nonzero", "of = 'nonzero'")
            raise TargetError(
                f"zeroed weights leave the {target.of} as they are; set the target in nonzero ({nonzero}), or take "
                "granularity units",
                1.0,
            )
        if self.trials > self.starts:
            need_optuna()

    def plan(self, problem: Problem) -> Plan:
        """Return what a shaped network has out of play; search for another one."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        allocation = self._allocation(problem)
        settled = plan_of(allocation, present(allocation, lambda name: tensor_of(problem.model, name)))
        if settled.edits and _allowed(settled, allocation, problem):
            return settled
        adviser = self._adviser(problem, allocation)
        _refuse_early(adviser, problem)
        choice = adviser.choose(problem.model, adviser.rounds - 1)
        problem.found(choice.search)
        return choice.ranking.plan(choice.counts)

    @contextlib.contextmanager
    def shaping(self, problem: Problem) -> Generator[Shaper | None]:
        """Fine-tune, choose and prune in rounds; leaves zeros in the network where something is out of play."""
        self.check(problem.target)
        allocation = self._allocation(problem)
        adviser = self._adviser(problem, allocation)
        _refuse_early(adviser, problem)
        schedule = Schedule(self.adaptations, self.tune, self.gamma, self.power, self.band)
        joint = Joint(problem.model, adviser, schedule)
        yield joint
        joint.finish()
        for search in joint.searches:
            problem.found(search)

    def _allocation(self, problem: Problem) -> Allocation:
        """Return what can be chosen, with widths fine enough for the target."""
        limits, target = problem.limits, problem.target
        while True:
            allocation = Allocation.of(problem.graph, self.granularity, self.per, self.by, limits)
            finer = limits.finer(problem.graph.free) if self.granularity == "units" else None
            if target is None or finer is None:
                return allocation
            ranking = allocation.rank(lambda name: tensor_of(problem.model, name))
            fewest = ranking.counts([0.0 if self.by == "keep" else 1e4] * len(allocation.stages))
            if ranking.size(fewest, target.of) <= target.keep * ranking.whole(target.of):
                return allocation
            limits = finer

    def _adviser(self, problem: Problem, allocation: Allocation) -> Adviser:
        of: Any = self.of or ("nonzero" if self.granularity == "weights" else "macs")
        limit = None
        if problem.target is not None:
            of, limit = problem.target.of, problem.target.keep
        return Adviser(
            allocation=allocation,
            goal=Goal(of, limit, self.tradeoff, self.milliseconds),
            effort=Effort(self.trials, self.starts, self.batch, self.workers),
            rounds=self.adaptations,
            cooling=self.cooling,
            batches=problem.batches if self.judge == "train" else problem.validation,
            images=self.images,
            task=problem.task,
            seed=int(torch.randint(2**31, (), generator=problem.rng)),
            work=problem.work,
            tell=problem.tell,
        )


def _refuse_early(adviser: Adviser, problem: Problem) -> None:
    """Refuse a target that cannot be met, and missing images, before anything long begins."""
    ranking = adviser.allocation.rank(lambda name: tensor_of(problem.model, name))
    adviser.counts(ranking, (1.0,) * len(adviser.allocation.stages))
    adviser.held(problem.model)


def _allowed(plan: Plan, allocation: Allocation, problem: Problem) -> bool:
    """Tell whether what a network comes with already meets the target and the limits."""
    for name, units in plan.dropped().items():
        group = allocation.graph.group(name)
        if not allocation.limits.allow(group, group.size - len(units)):
            return False
    target = problem.target
    if target is None:
        return True
    left, whole = size(problem.graph, plan).of(target.of), size(problem.graph).of(target.of)
    return left <= target.keep * whole * (1 + 1e-12) + 1e-9

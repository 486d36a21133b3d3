"""Drop the units that the others can best make up for, shared out by the error that is left.

Idea.         What a unit is worth shows only when the layers that read it have been fitted anew without it. On a few
              hundred images, labelled or not, that fit is least squares, and what it cannot bring back is known for
              every unit without solving anew.
Rule.         H is the matrix of second moments of a reader's inputs, R the rows of a unit, W the reader's weights. The
              loss of dropping the unit when all the others refit is tr(W[R]' (inv(H)[R, R])^-1 W[R]) (Hassibi and
              Stork, 1993, for whole units); the smallest goes, H and W are brought up to date, and so on: the running
              sum is the error curve of the group, divided by the variance of what the reader puts out and added up over
              readers. The widths are those that leave the least error, added up over groups, within the target; the
              candidates are the widths that run fast.
Needs.        A few hundred images; no labels. Without any the error curves are estimated from weights: units go in the
              order of the magnitudes of their filters, and the errors only share out the cut; a note says so.
Cost.         One factorisation of H for each reader, and a pass over the images.
Differences.  OSSCAR solves for one layer at a given width and then exchanges units; here units are only eliminated,
              but one pass gives the errors at all widths, and with them the widths of all layers, which He, Zhang and
              Sun (2017), who fit the same least squares after a lasso, choose by hand. Errors of groups are added up as
              if each were cut alone. The method only decides: fitting the layers anew is a repair, and without it
              little of this holds.
Measured.     The shares matter more than the order: with these shares and the fit behind them, magnitude and filter_std
              come within 0.1 points of it on ResNet-20 at 0.7 of the MACs (docs/repair.md; one draw of images). On
              ShuffleNetV2 at 0.8 and 0.7 folding alone keeps as much, or up to six images of 10,000 more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch

from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.selection.error_shares import NO_IMAGES_NOTE, by_error, chosen, note, ranks, toward
from secateur.core.selection.target_selection import Step, family, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.errors import TargetError
from secateur.spelling import said

Shares = Literal["errors", "latency", "uniform"]


@dataclass(frozen=True)
class Reconstruction(Method):
    """Optimal brain surgeon over whole units.

    Attributes:
        shares: how much goes from each group: errors, so that the least error is left within the target, latency, so
            that the least is left for the time that is saved, or uniform, the same share of each.
    """

    shares: Shares = "errors"

    paper: ClassVar[Paper] = Paper(
        title="OSSCAR: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization",
        authors="Xiang Meng, Shibal Ibrahim, Kayhan Behdin, Hussein Hazimeh, Natalia Ponomareva, Rahul Mazumder",
        venue="ICML",
        year=2024,
        link="arXiv:2403.12983",
    )

    def check(self, target: Target | None) -> None:
        """Refuse a run that does not say how much to keep."""
        if target is None:
            raise TargetError(f"say how much to keep: a target ({said('target=', '--keep', 'keep in [target]')})")

    def plan(self, problem: Problem) -> Plan:
        """Take units in the order of the error curves until the target is met."""
        self.check(problem.target)
        assert problem.target is not None
        if problem.target.keep >= 1.0:
            return EMPTY
        everything = {group.name: torch.zeros(group.size) for group in problem.graph.free}
        even = partial(family, problem.graph, everything, "uniform")
        meet(problem.graph, even, problem.target, problem.limits)  # out of reach: said before anything is fitted
        curves = problem.error_curves()
        order, swap = self._order(problem, problem.target, curves), self.shares == "uniform"
        plan = meet(problem.graph, order, problem.target, problem.limits, swap=swap)
        blind = (f"{NO_IMAGES_NOTE}; of each layer the smallest filters go first",) if problem.blind else ()
        return replace(chosen(curves, plan), notes=(*blind, note(curves, plan, problem.image_count())))

    def _order(
        self, problem: Problem, target: Target, curves: Sequence[ErrorCurve]
    ) -> Callable[[Limits], Sequence[Step]]:
        if self.shares == "errors":
            return toward(problem.graph, curves, target)
        if self.shares == "latency":
            return partial(by_error, problem.graph, curves, costs=problem.times())
        scores = {curve.group: ranks(problem.graph.group(curve.group), curve) for curve in curves}
        return partial(family, problem.graph, scores, "uniform")

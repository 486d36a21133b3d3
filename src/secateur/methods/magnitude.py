"""Drop the filters with the smallest weights.

Idea.         A filter with small weights makes a weak feature map that the next layer hardly misses.
Rule.         score(unit) = sum of |w| (norm = l1) or root of the sum of w^2 (norm = l2) over all weights that make
              the unit; the smallest go first, by default the same share of every group.
              selection = independent counts all kernels of a filter; selection = greedy walks the layers in order
              and leaves out kernels that read maps already removed.
Needs.        Weights only.
Cost.         One pass over the weights; with greedy selection one pass for each size tried.
Differences.  The paper chooses rates layer by layer by hand: give them as ``keeps``; with a target alone every
              group keeps the same share. Where several layers make one unit (a residual stream) their weights are
              summed; the paper prunes only the first convolution of a residual block, or follows the projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import Group, staying, tensor_of, unit_rows
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import plan_of

Norm = Literal["l1", "l2"]
Selection = Literal["independent", "greedy"]


@dataclass(frozen=True)
class Magnitude(ScoreMethod):
    """L1 or L2 norm of a filter.

    Attributes:
        norm: l1 or l2.
        selection: independent, or greedy (kernels that read removed maps do not count).
    """

    norm: Norm = "l1"
    selection: Selection = "independent"

    paper: ClassVar[Paper] = Paper(
        title="Pruning Filters for Efficient ConvNets",
        authors="Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf",
        venue="ICLR",
        year=2017,
        link="arXiv:1608.08710",
    )

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the norm of the weights that make each unit, ``(group.size,)``."""
        return self._score(group, problem, torch.ones(problem.graph.units, dtype=torch.bool))

    def plan(self, problem: Problem) -> Plan:
        """Choose how many go from each group, then which: greedily, if asked."""
        plan = super().plan(problem)
        return plan if self.selection == "independent" else self._greedy(problem, plan)

    def _greedy(self, problem: Problem, plan: Plan) -> Plan:
        """Keep the numbers of the plan, but choose layer by layer, not counting kernels whose input is gone."""
        graph = problem.graph
        keep = torch.ones(graph.units, dtype=torch.bool)
        numbers = {name: len(units) for name, units in plan.dropped().items()}
        for group in graph.free:
            lowest = torch.argsort(self._score(group, problem, keep), stable=True)[: numbers.get(group.name, 0)]
            keep[graph.offsets[group.name] + lowest] = False
        return plan_of(graph, keep)

    def _score(self, group: Group, problem: Problem, keep: Tensor) -> Tensor:
        total = torch.zeros(group.size)
        for member in group.members:
            if member.role != "makes":
                continue
            tensor = tensor_of(problem.model, member.tensor).detach().cpu()
            for d, units in enumerate(problem.graph.tensors[member.tensor][1]):
                if units is not None and problem.graph.roles[member.tensor][d] == "reads":
                    gone = torch.nonzero(~staying(units, keep)).flatten()
                    tensor = tensor.index_fill(d, gone, 0.0) if len(gone) else tensor
            rows = unit_rows(tensor, member, group.size)
            total += rows.abs().sum(1) if self.norm == "l1" else rows.square().sum(1)
        return total if self.norm == "l1" else total.sqrt()

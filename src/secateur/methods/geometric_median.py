"""Drop the filters that the others of their layer can best stand in for.

Idea.         A small filter is not always a needless one. A filter near the geometric median of its layer is close to
              a mixture of the others, which can do its work, whatever its size.
Rule.         score(unit) = sum of the distances from its weights to those of every other unit of the group; the
              smallest go first, per layer. distance = l2 as in the paper, l1, or cosine (1 - cosine of the angle).
Needs.        Weights only.
Cost.         All pairs of filters of each layer.
Differences.  Where several layers make one unit (a residual stream) their weights are compared together; the paper
              prunes single layers, all by the same share. Its training, in which filters are set to zero after each
              epoch and may grow back, is left out: here they go at once, or in ``rounds`` with fine-tuning between.
              All distances are those to all filters of the layer, as in the paper, not to those that are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.problem import Problem


@dataclass(frozen=True)
class GeometricMedian(ScoreMethod):
    """Distance of a filter from all others of its layer.

    Attributes:
        distance: l2, l1, or cosine, which does not see the size of filters.
    """

    distance: Literal["l2", "l1", "cosine"] = "l2"

    paper: ClassVar[Paper] = Paper(
        title="Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
        authors="Yang He, Ping Liu, Ziwei Wang, Zhilan Hu, Yi Yang",
        venue="CVPR",
        year=2019,
        link="arXiv:1811.00250",
    )

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the sum of each unit's distances to the others, ``(group.size,)`` float64."""
        made = list(group.rows(problem.model, "makes"))
        if not made:
            return torch.zeros(group.size, dtype=torch.float64)
        rows = torch.cat(made, 1).double()  # (group.size, weights of a unit)
        if self.distance == "cosine":
            rows = F.normalize(rows, dim=1)
            return (group.size - (rows @ rows.T).sum(1)).clamp(min=0.0)
        return torch.cdist(rows, rows, p=1.0 if self.distance == "l1" else 2.0).sum(1)

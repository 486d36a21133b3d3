"""Drop the filters whose weights vary least.

Idea.         A filter with nearly constant weights answers to nothing but the local mean of its input.
Rule.         score(unit) = standard deviation of all weights that make the unit:
              sqrt(mean((w - mean(w))^2)) over (C_in, k, k); the smallest go first, per layer.
Needs.        Weights only.
Cost.         One pass over the weights.
Differences.  The paper's text was open to us as an abstract only: the formula is its plain reading. Layers and rates
              are not in it; here every group that can be pruned is, at the same share. Those of Li et al. (2017) on
              its networks are in recipes/filter_std_vgg16.toml and filter_std_resnet110.toml. Where several layers
              make one unit (a residual stream) the standard deviation is taken over all their weights of the unit
              together, each layer weighted by its number of weights; the paper prunes single layers only. Global
              ranking compares raw values, which depend on fan-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.problem import Problem


@dataclass(frozen=True)
class FilterStd(ScoreMethod):
    """Standard deviation of a filter's weights."""

    paper: ClassVar[Paper] = Paper(
        title="Convolutional neural network acceleration algorithm based on filters pruning",
        authors="Hao Li, Wen-jie Zhao, Bo Han",
        venue="Journal of Zhejiang University (Engineering Science) 53(10):1994-2002",
        year=2019,
        link="doi:10.3785/j.issn.1008-973X.2019.10.017",
        kind="article",
    )

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the population standard deviation of each unit's weights, ``(group.size,)``."""
        made = list(group.rows(problem.model, "makes"))
        if not made:
            return torch.zeros(group.size)
        return torch.cat(made, 1).std(1, correction=0)

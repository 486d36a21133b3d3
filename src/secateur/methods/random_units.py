"""Drop units at random: the control that every criterion must beat.

Idea.         If chance does as well after fine-tuning, the criterion adds nothing (Mittal et al. found it close).
Rule.         score(unit) is uniform noise; by default every group loses the same share.
Needs.        Nothing.
Cost.         None.
Differences.  The paper draws filters layer by layer and fine-tunes in between; here all layers are drawn at once,
              and rounds are the pipeline's. Units of a residual stream are drawn together.
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
class RandomUnits(ScoreMethod):
    """Units drawn at random."""

    paper: ClassVar[Paper] = Paper(
        title="Recovering from Random Pruning: On the Plasticity of Deep Convolutional Neural Networks",
        authors="Deepak Mittal, Shweta Bhardwaj, Mitesh M. Khapra, Balaraman Ravindran",
        venue="WACV",
        year=2018,
        link="arXiv:1801.10447",
    )

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return noise from the problem's generator, ``(group.size,)``."""
        return torch.rand(group.size, generator=problem.rng)

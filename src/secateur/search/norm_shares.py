"""How much goes from each group before anything has been tried: by the norms of weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.graph import Group
from secateur.core.method import ScoreMethod
from secateur.core.problem import Problem


@dataclass(frozen=True)
class NormShares(ScoreMethod):
    """Shares the cut out as methods with scores do; its score is the L1 norm of what makes a unit, in float64.

    For searches that choose the units themselves, and need to know from which groups how many.
    """

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the norms, ``(group.size,)``."""
        total = torch.zeros(group.size, dtype=torch.float64)
        for rows in group.rows(problem.model, "makes"):
            total += rows.abs().sum(1, dtype=torch.float64).cpu()
        return total

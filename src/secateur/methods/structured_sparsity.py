"""Drive whole filters and channels to zero while training, then drop those that are there.

Idea.         A group lasso adds up the lengths of groups of weights; unlike their squares it makes whole groups
              vanish together. With the filters of a layer and the channels that it reads as groups, what vanishes
              can be removed (structured sparsity learning).
Rule.         Training minimises loss + ``filters`` * sum of ||filter|| + ``channels`` * sum of ||channel|| over all
              convolutions (and linear layers, if ``linear``), where a filter is all weights that make an output and
              a channel all that read an input. Then score(unit) = root of the mean square of the weights that make
              it; the smallest go first, over all layers, until the target is met. Without a target all units go
              whose score is at most ``zero``.
Needs.        Training data. Without a training (``shape`` and ``train`` left out) the weights are taken as they are.
Cost.         One pass over the weights for each mini-batch.
Differences.  Of the paper's groups we have filters and channels; its filter shapes and whole layers are left out.
              Plain gradients do not stop at zero exactly; the paper thresholds too. Scores divide by the number of
              weights, since layers of different widths compete. What makes a channel and what reads it are two
              groups while training, as in the paper, and one unit when it goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import Scope, plan_of, steps
from secateur.core.sizes.size import Target
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError


@dataclass(frozen=True)
class StructuredSparsity(ScoreMethod):
    """Training with a group lasso on filters and channels, then the size of a filter's weights.

    Attributes:
        filters: strength of the penalty on filters, at least 0.
        channels: strength of the penalty on the channels that a layer reads, at least 0.
        linear: whether linear layers are penalised too.
        zero: without a target, units go whose weights have a root mean square of at most this.
        scope: global, all layers compete, or uniform, the same share of every group.
    """

    filters: float = 1e-3
    channels: float = 1e-3
    linear: bool = False
    zero: float = 1e-3
    scope: Scope = "global"

    paper: ClassVar[Paper] = Paper(
        title="Learning Structured Sparsity in Deep Neural Networks",
        authors="Wei Wen, Chunpeng Wu, Yandan Wang, Yiran Chen, Hai Li",
        venue="NIPS",
        year=2016,
        link="arXiv:1608.03665",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "channels", "zero"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} must be at least 0, not {getattr(self, name)}")

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        """Penalise the layers that are trained.

        Raises:
            SettingError: if there are none.
        """
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *((nn.Linear,) if self.linear else ()))
        weights = [m.weight for m in model.modules() if isinstance(m, kinds) and m.weight.requires_grad]
        if not weights:
            hint = "take another method" if self.linear else "set linear, or take another method"
            raise SettingError(f"the network has no convolution that is trained; {hint}")
        yield Lasso(weights, self.filters, self.channels)

    def check(self, target: Target | None) -> None:
        """Refuse nothing: with neither target nor rates, what is zero goes."""

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the root mean square of the weights that make each unit, ``(group.size,)``."""
        total, number = torch.zeros(group.size), 0
        for rows in group.rows(problem.model, "makes"):
            total += rows.cpu().float().square().sum(1)
            number += rows.shape[1]
        return (total / max(1, number)).sqrt()

    def plan(self, problem: Problem) -> Plan:
        """Drop the smallest units until the target is met; with neither target nor rates, those that are zero."""
        if problem.target is not None or self.keeps:
            return super().plan(problem)
        keep = torch.ones(problem.graph.units, dtype=torch.bool)
        for group in problem.graph.free:
            values = self.score(group, problem)
            for step in steps(group, torch.where(values <= self.zero, values, torch.inf), problem.limits):
                keep[problem.graph.offsets[group.name] + torch.tensor(step.units)] = False
        return plan_of(problem.graph, keep)


class Lasso(Shaper):
    """The group lasso of some weights, ``(outputs, inputs, ...)`` each."""

    def __init__(self, weights: Sequence[Tensor], filters: float, channels: float) -> None:
        self._weights, self._filters, self._channels = weights, filters, channels

    def penalty(self) -> Tensor:
        """Return the sum of the lengths of filters and channels; the gradient of a group of zeros is zero."""
        return torch.stack([self._one(weight) for weight in self._weights]).sum()

    def _one(self, weight: Tensor) -> Tensor:
        filters = torch.linalg.vector_norm(weight.flatten(1), dim=1).sum()
        channels = torch.linalg.vector_norm(weight.movedim(1, 0).flatten(1), dim=1).sum()
        return self._filters * filters + self._channels * channels

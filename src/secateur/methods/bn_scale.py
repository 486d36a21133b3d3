"""Drive the scales of batch norms to zero while training, then drop the channels whose scale is small.

Idea.         A batch norm multiplies every channel by a scale that is learned anyway. An L1 penalty on the scales
              makes the network choose the channels that it can do without (network slimming).
Rule.         Training minimises loss + ``strength`` * sum of |scale| over all batch norms. Then one threshold over
              all layers: the channels with the smallest |scale| go, until the target is met.
Needs.        Training data, and batch norms; channels without one stay. Without a training (``shape`` and ``train``
              left out) the scales are taken as they are.
Cost.         Nothing to speak of while training; the decision is a sort.
Differences.  The paper ranks each batch norm's channels on their own and selects channels in front of residual
              blocks; here a unit that several batch norms scale (a residual stream, a depthwise convolution) has the
              largest of its scales and goes from all of them. A layer never loses its last channel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.core.graph import Group, layer_of, tensor_of, unit_rows
from secateur.core.method import Paper, ScoreMethod
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import Scope
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class BnScale(ScoreMethod):
    """Training with an L1 penalty on batch-norm scales, then the size of a channel's scale.

    Attributes:
        strength: of the penalty, at least 0; the paper uses 1e-4, or 1e-5 for ImageNet.
        scope: global, one threshold over the network, or uniform, the same share of every group.
    """

    strength: float = 1e-4
    scope: Scope = "global"

    paper: ClassVar[Paper] = Paper(
        title="Learning Efficient Convolutional Networks through Network Slimming",
        authors="Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang",
        venue="ICCV",
        year=2017,
        link="arXiv:1708.06519",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength < 0:
            raise SettingError(f"strength must be at least 0, not {self.strength}")

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        """Penalise the scales of all batch norms that are trained.

        Raises:
            SettingError: if there are none.
        """
        scales = [
            module.weight
            for module in model.modules()
            if isinstance(module, _NORMS) and module.affine and module.weight.requires_grad
        ]
        if not scales:
            raise SettingError("the network has no batch norm whose scale is trained; take another method")
        yield _Sparse(scales, self.strength)

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the largest size of the scales of each unit, ``(group.size,)``; inf where there is none."""
        found = torch.full((group.size,), -1.0)
        for member in group.members:
            owner = problem.model.get_submodule(layer_of(member.tensor))
            if isinstance(owner, _NORMS) and member.tensor.rpartition(".")[2] == "weight":
                scale = tensor_of(problem.model, member.tensor).abs()
                found = torch.maximum(found, unit_rows(scale, member, group.size).amax(1).cpu().float())
        return torch.where(found < 0, torch.inf, found)


class _Sparse(Shaper):
    """The L1 norm of some vectors."""

    def __init__(self, vectors: Sequence[Tensor], strength: float) -> None:
        self._vectors, self._strength = vectors, strength

    def penalty(self) -> Tensor:
        """Return strength times the sum of sizes; the gradient at zero is zero."""
        return self._strength * torch.stack([vector.abs().sum() for vector in self._vectors]).sum()

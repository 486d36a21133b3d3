"""The loss: cross-entropy on the labels, and, where there is a teacher, its soft targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.measure.forward import logits_of
from secateur.training.settings import Settings


class Scores(nn.Module):
    """A stand-in for the network that returns its class scores, (N, classes), whatever it returns itself.

    What accelerate hangs on a prepared module (a wrapped ``forward``, marks) stays on the stand-in, so that
    the caller's network comes back clean.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of images (N, C, H, W).

        Raises:
            ModelError: if the network's output holds no class scores.
        """
        return logits_of(self.network(images))


def loss_of(scores: Tensor, labels: Tensor, taught: Tensor | None, settings: Settings) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    With a teacher it is ``(1 - distill) * cross_entropy + distill * temperature**2 * kl``, where ``kl`` is
    the divergence of the network's from the teacher's probabilities, both softened by ``temperature``
    (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015).

    Args:
        scores: (N, classes) of the network that learns.
        labels: (N,) int64.
        taught: (N, classes) of the teacher; None for the labels alone.
        settings: label_smoothing, distill and temperature.
    """
    hard = F.cross_entropy(scores, labels, label_smoothing=settings.label_smoothing)
    if taught is None:
        return hard
    heat = settings.temperature
    learner = F.log_softmax(scores / heat, dim=1)
    teacher = F.log_softmax(taught.to(scores.dtype) / heat, dim=1)
    soft = F.kl_div(learner, teacher, log_target=True, reduction="batchmean") * heat**2
    return (1 - settings.distill) * hard + settings.distill * soft


def first_not_finite(losses: Tensor) -> int:
    """Return the place of the first loss in (n,) that is nan or infinite, or -1; waits for the device."""
    bad = torch.isfinite(losses).logical_not_()
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1

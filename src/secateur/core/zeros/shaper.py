"""What may act on a network while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moment:
    """Where a training stands.

    Attributes:
        step: optimizer steps taken so far, counted over the whole training.
        steps: optimizer steps of the whole training.
        rng: the run's own generator, on the training device. It starts anew from the run's seed at every epoch, so
            that what is drawn from it is the same after a resume; all processes of a training draw alike.
        restart: lets the optimizer forget all gradients of earlier steps; its learning rate stays.
    """

    step: int
    steps: int
    rng: torch.Generator
    restart: Callable[[], None] = lambda: None


class Shaper:
    """Acts on a network while it trains; the default does nothing.

    Whatever must survive a kill beyond the network's own tensors is given and taken as tensors by ``state_dict``
    and ``load_state_dict``.
    """

    def before_batch(self, moment: Moment) -> None:
        """Act before a batch of training images goes through the network: draw noise, for instance."""

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the loss of the batch, or None."""
        return None

    def after_step(self, step: int) -> None:
        """Act after an optimizer step, without gradient; ``step`` counts from 0 over the whole training."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint must hold besides the network."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned; the tensors are on the CPU. Not called if there were none."""

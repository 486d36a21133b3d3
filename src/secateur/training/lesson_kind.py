"""What a training in a limited time needs to know of what it teaches, see ``within``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from secateur.tasks import ACCURACY, Metric, Task
from secateur.training.settings import Settings
from secateur.training.steps import Parts

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Judgement:
    """How good a network is on held-out examples.

    Attributes:
        loss: what is to be small; NaN and infinite are worse than anything.
        value: of the metric, which goes before the loss; None where nobody knows the answers.
        metric: of the task; None in the same case.
    """

    loss: float
    value: float | None = None
    metric: Metric | None = None

    @staticmethod
    def of(values: Mapping[str, Any]) -> Judgement:
        """Return what ``dataclasses.asdict`` was called on, by this version or an earlier one."""
        if "accuracy" in values:
            accuracy = values["accuracy"]
            return Judgement(values["loss"], accuracy, None if accuracy is None else ACCURACY)
        metric = values["metric"]
        return Judgement(values["loss"], values["value"], None if metric is None else Metric(**metric))

    def better_than(self, other: Judgement) -> bool:
        """Tell whether this is better: by the metric, or as good by it and with a smaller loss."""
        return self._key() > other._key()

    def _key(self) -> tuple[float, float]:
        value = 0.0 if self.metric is None else self.metric.key(self.value)
        return (value, -self.loss if math.isfinite(self.loss) else -math.inf)


class Lesson(Protocol):
    """What a network learns from, and how it is judged."""

    @property
    def settings(self) -> Settings:
        """Return batch size, optimizer and schedule; ``select`` and ``recalibrate`` are not looked at."""
        ...

    @property
    def task(self) -> Task | None:
        """Return what is learned; None where it is another network's outputs."""
        ...

    @property
    def passes(self) -> int | None:
        """Return how often the images are gone through at most; None for as often as there is time for."""
        ...

    @property
    def teacher(self) -> nn.Module | None:
        """Return another network that is needed; it is moved to where training happens."""
        ...

    @property
    def name(self) -> str:
        """Return what a checkpoint is told apart by."""
        ...

    def open(self, model: nn.Module, accelerator: Accelerator) -> nn.Module:
        """Prepare for a network on its device, in its training mode; return what its gradients are taken through."""
        ...

    def count(self) -> int:
        """Return the number of batches of a pass."""
        ...

    def batches(self, seed: int) -> Iterator[Any]:
        """Yield the batches of a pass in an order of the seed."""
        ...

    def loss(self, parts: Parts, batch: Any) -> Tensor:
        """Return the loss of a batch, a scalar with gradients."""
        ...

    def judge(self, model: nn.Module) -> Judgement:
        """Judge the network in evaluation mode on held-out images; its modes stay."""
        ...

"""Regression: one or several real numbers for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError
from secateur.tasks.shapes import described

R_SQUARED = Metric("R squared", digits=4)
MEAN_ABSOLUTE_ERROR = Metric("mean absolute error", higher_is_better=False, digits=4)


@dataclass(frozen=True)
class Regression(Task):
    """Real numbers (N,) or (N, numbers) for each example, learned by the squared error.

    The metric is the coefficient of determination, the mean over the numbers.
    """

    name: ClassVar[str] = "regression"
    metrics = (R_SQUARED, MEAN_ABSOLUTE_ERROR)

    def output(self, returned: Any) -> Tensor:
        """Return the numbers, (N, numbers).

        Raises:
            ModelError: if there are none.
        """
        found = scores_in(returned)
        if isinstance(found, Tensor) and found.is_floating_point() and found.ndim in (1, 2):
            return found.reshape(len(found), -1)
        raise ModelError(
            "a network for regression must return numbers of shape (batch,) or (batch, numbers), not "
            f"{described(found)}"
        )

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(output, _wanted(self.target(batch), output))

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of R squared and the mean absolute error."""
        return _NumberMeter(self)


class _NumberMeter(Meter):
    def __init__(self, task: Regression) -> None:
        self._task = task
        self._metrics: list[Any] = []

    def update(self, output: Tensor, batch: Any) -> None:
        wanted = _wanted(self._task.target(batch), output)
        if not self._metrics:
            from torchmetrics import MeanAbsoluteError, R2Score

            self._metrics = [R2Score(), MeanAbsoluteError()]
        for metric in self._metrics:
            metric.update(output.detach().double().cpu(), wanted.double().cpu())

    def compute(self) -> tuple[float, ...]:
        determination, error = self._metrics
        if int(determination.total) < 2:
            raise DataError("R squared needs two examples or more, and there is one")
        return float(determination.compute()), float(error.compute())


def _wanted(target: Any, output: Tensor) -> Tensor:
    """Return targets as (N, numbers), in the type of the output.

    Raises:
        DataError: if they are no finite numbers, or of another shape.
    """
    if not isinstance(target, Tensor) or target.ndim > 2 or target.numel() != output.numel():
        raise DataError(
            f"the targets of regression must be numbers of shape {tuple(output.shape)}, not {described(target)}"
        )
    if not bool(torch.isfinite(target).all()):
        raise DataError("a target is NaN or infinite; leave such examples out")
    return target.reshape(output.shape).to(output.dtype)

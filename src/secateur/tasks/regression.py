"""Regression: one or several real numbers for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task, nothing_measured
from secateur.errors import DataError, ModelError
from secateur.tasks.shapes import at_least_single, cheap_to_read, described, is_real

R_SQUARED = Metric("R squared", digits=4)
MEAN_ABSOLUTE_ERROR = Metric("mean absolute error", higher_is_better=False, digits=4)


@dataclass(frozen=True)
class Regression(Task):
    """Real numbers (N,) or (N, numbers) for each example, learned by the squared error.

    The metrics are the coefficient of determination over the whole split, the mean over the numbers (as scikit-learn's
    ``r2_score`` counts it, also where a number never changes), and the mean absolute error.
    """

    name: ClassVar[str] = "regression"
    metrics = (R_SQUARED, MEAN_ABSOLUTE_ERROR)

    def output(self, returned: Any) -> Tensor:
        """Return the numbers, (N, numbers).

        Raises:
            ModelError: if there are none.
        """
        found = scores_in(returned)
        if is_real(found) and found.ndim in (1, 2):
            return found if found.ndim == 2 else found[:, None]
        raise ModelError(
            "a network for regression must return numbers of shape (batch,) or (batch, numbers), not "
            f"{described(returned)}"
        )

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean squared error, in float32 or wider."""
        target = self.target(batch)
        wanted = _wanted(target, output, values=isinstance(target, Tensor) and cheap_to_read(target))
        return F.mse_loss(at_least_single(output), at_least_single(wanted))

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of R squared and the mean absolute error."""
        return _NumberMeter(self)


class _NumberMeter(Meter):
    def __init__(self, task: Regression) -> None:
        self._task = task
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Tensor, batch: Any) -> None:
        wanted = _wanted(self._task.target(batch), output, values=True)
        if len(wanted):
            self._seen.append((output.detach().cpu().double(), wanted.cpu().double()))

    def compute(self) -> tuple[float, ...]:
        from sklearn.metrics import r2_score  # torchmetrics takes a sum of squares below 1e-4 for no error at all

        if not self._seen:
            raise nothing_measured()
        found, wanted = (torch.cat(column) for column in zip(*self._seen, strict=True))
        if len(wanted) < 2:
            raise DataError("R squared needs two examples or more, and there is one")
        error = float((found - wanted).abs().mean())
        sound = bool(torch.isfinite(found).all())
        return float(r2_score(wanted.numpy(), found.numpy())) if sound else float("nan"), error


def _wanted(target: Any, output: Tensor, *, values: bool) -> Tensor:
    """Return targets as (N, numbers), in their own type.

    Raises:
        DataError: if they are no finite numbers (looked at with ``values``), or of another shape.
    """
    several = tuple(output.shape)
    fits = isinstance(target, Tensor) and not target.is_complex()
    if not fits or (target.shape != output.shape and (several[1] != 1 or target.shape != output.shape[:1])):
        raise DataError(f"the targets of regression must be numbers of shape {several}, not {described(target)}")
    if values and not bool(torch.isfinite(target).all()):
        raise DataError("a target is NaN or infinite; leave such examples out")
    return target.reshape(several)
